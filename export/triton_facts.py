"""What the configurations of all served models of a bundle say about it."""

import hashlib

from dsmap import __version__
from dsmap.runtime.bundle.manifest import Manifest, Sizes
from dsmap.runtime.triton import interface as served


def bundle_facts(manifest: Manifest, text: str) -> dict[str, str]:
    """Parameters that say which bundle a model is of. `text`: that of bundle.json, whose `manifest` is."""
    return {
        served.BUNDLE: manifest.name,
        served.BUNDLE_FORMAT: str(manifest.format_version),
        served.DOMAINS: ",".join(manifest.domains),
        served.DSMAP_VERSION: __version__,
        served.BUNDLE_SHA256: hashlib.sha256(text.encode()).hexdigest(),
    }


def warm_up_side(sizes: Sizes) -> int:
    """The side in pixels of square frames for the warm-up: as in training, where all graphs take that."""
    return sizes.side_from(max(sizes.trained_at, sizes.style_minimum))
