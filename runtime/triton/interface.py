"""The names that a served model and its clients agree on: tensors, parameters of the configuration, files.

Every tensor has the batch as its first dimension: one frame per row, each with its own domain and style.

    frames        UINT8   (N, H, W, 3)   RGB
    domain        STRING  (N, 1)         the domain to translate to
    source        STRING  (N, 1)         optional: the domain of the frames; equal to `domain`: reconstruct them
    style         STRING  (N, 1)         optional: a named style, a seed (`7`, `seed:7`), or `mean`; empty: `mean`
    style_code    FP32    (N, S)         optional, in place of `style`
    style_image   UINT8   (N, h, w, 3)   optional, in place of `style`: RGB
    strength      FP32    (N, 1)         optional: 0 (the frame, reconstructed) to 1 (translated), the default

    translated    UINT8   (N, H, W, 3)   RGB
    style_code    FP32    (N, S)         the code that was used; if nothing else is asked for, nothing is translated

A model without styles has frames, domain, source and translated alone.
The stabilized model has the same tensors, for the frames of one sequence after another (Triton's correlation id).
"""

from collections.abc import Mapping

FRAMES = "frames"
DOMAIN = "domain"
SOURCE = "source"
STYLE = "style"
STYLE_CODE = "style_code"
STYLE_IMAGE = "style_image"
STRENGTH = "strength"
TRANSLATED = "translated"

STABILISED_SUFFIX = "-stabilised"
"""Of the name of the model that stabilizes the frames of a sequence."""
BUNDLE_FOLDER = "bundle"
"""The bundle, beside `model.py`."""

# Parameters that say what is served. A client reads them with the model's configuration.
BUNDLE = "dsmap_bundle"
"""The bundle's name."""
BUNDLE_SHA256 = "dsmap_bundle_sha256"
"""SHA-256 of bundle.json, which holds those of all other files."""
BUNDLE_MANIFEST = "dsmap_manifest"
"""The text of bundle.json: what a client resolves styles and domains with."""
BUNDLE_FORMAT = "dsmap_format"
DSMAP_VERSION = "dsmap_version"
"""Of the dsmap that wrote the model's folder."""
DOMAINS = "domains"
"""Both domains, separated by a comma."""

# BUNDLE_SHA256 may also be a parameter of a request: the model then answers only if it serves that bundle.

# Parameters that say how it is served, for the administrator to change.
BACKEND = "backend"
PRECISION = "precision"
TRUST_ENGINES = "trust_engines"
MAX_MEGAPIXELS = "max_megapixels"
STABILISED = "stabilised"

DEFAULT_MAX_BATCH = 8
MAX_BATCH = 256
DEFAULT_MAX_MEGAPIXELS = 16.0
MAX_SEQUENCES = 32
"""Sequences that are stabilized at a time: each keeps its last frame in float32."""
SEQUENCE_IDLE_SECONDS = 60
"""Without a frame, after which a sequence has ended."""


def is_stabilised(parameters: Mapping[str, str]) -> bool:
    """Whether the model with these parameters stabilizes sequences."""
    return parameters.get(STABILISED, "").lower() == "true"
