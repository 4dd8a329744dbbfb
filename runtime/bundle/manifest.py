"""Reads and writes `bundle.json`, with bounds on everything in it.

A manifest may come from anywhere: whatever is odd about it is one InputError with the place in the file, never a
traceback, a wait or all the memory.
"""

import json
import os
import re
import unicodedata
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dsmap.common.cache_folder import user_cache_folder
from dsmap.common.state_files import write_state
from dsmap.common.strict_json import read_json, shown_key
from dsmap.common.text import printable
from dsmap.errors import InputError

FORMAT_VERSION = 2
MANIFEST = "bundle.json"
PULLED_MODELS = "models"
"""The folder of the user's cache with models that were pulled: OWNER--NAME/COMMIT in it are bundles."""
STYLE_NAME = re.compile(r"(?!mean$|[0-9]+$)[a-z0-9_][a-z0-9_-]*", re.IGNORECASE | re.ASCII)
"""What a named style may be called: nothing that reads as a file with a suffix, a path, a seed, or the mean."""
MAX_MANIFEST_BYTES = 8 << 20
"""The bundled model's has 40 kB; a thousand named styles of 64 numbers take 2 MB."""
MAX_FILE_BYTES = (1 << 31) - 1
"""What protocol buffers, and so ONNX files, can hold."""
MAX_STYLE_AXES = 64
"""Principal axes of a domain's style codes: trained models have 8 numbers in a code."""
MAX_BUNDLE_BYTES = 16 << 30
"""Of all files: the published network's take 0.5 GB in three precisions."""
ADVICE = "Copy or export the bundle again."
_PULLED = re.compile(r"([A-Za-z0-9._-]+)--([A-Za-z0-9._-]+)/([0-9a-f]{40})", re.ASCII)
_REQUIRED = ("content_encoder", "decoder")
_OF_STYLES = ("style_mlp", "style_encoder")
_ONE_TRANSLATION = "Leave it out: this model has one translation of a frame, at full strength."
_EXPORTED = "Pass a folder that dsmap-export has written."


def _one_line(text: str) -> str:
    """Refuses characters that would break or recolour the lines a name is printed in."""
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text):
        raise ValueError("it has control characters")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
MAX_CODE = 1e6
"""The largest size of a style code's numbers."""
Number = Annotated[float, Field(strict=True, ge=-MAX_CODE, le=MAX_CODE)]
"""Of a style code: those of trained models are below 10."""
Code = Annotated[list[Number], Field(max_length=4096)]


class _ManifestModel(BaseModel):
    """Unknown fields are ignored, so that later writers can add some: only `format_version` stops a reader."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class File(_ManifestModel):
    """One file of the bundle."""

    path: Name = Field(description="relative to the bundle's folder, with forward slashes")
    sha256: str = Field(max_length=64)
    bytes: int = Field(strict=True, ge=0, le=MAX_FILE_BYTES)


def _side(most: int, description: str) -> Any:
    return Field(strict=True, ge=1, le=most, description=description)


class Sizes(_ManifestModel):
    """Which image sizes the graphs take, and which they were trained at (pixels)."""

    multiple_of: int = _side(512, "height and width must be multiples of this")
    minimum: int = _side(2048, "the smallest height and width")
    style_minimum: int = _side(2048, "the smallest height and width of a style image")
    trained_at: int = _side(8192, "shorter side of the training images; style images are resized to it")

    def side_from(self, least: int = 0) -> int:
        """The smallest side that the graphs take, of at least so many pixels."""
        return -(-max(least, self.minimum) // self.multiple_of) * self.multiple_of


class Style(_ManifestModel):
    """Style codes of a domain's training images. The mean is the default style, `random_code` draws others."""

    mean: Code
    std: Code
    pictures: int = Field(strict=True, ge=0, description="how many images were averaged; 0: the prior N(0, I)")
    named: dict[str, Code] = Field(default={}, max_length=10_000, description="codes that have a name")
    axes: list[Code] = Field(
        default=[],
        max_length=MAX_STYLE_AXES,
        description="principal axes of the codes, as long as their standard deviation along them; empty: not known",
    )


Files = Annotated[dict[Name, File], Field(max_length=8)]


class Components(_ManifestModel):
    """The graphs, by domain name. A mapping's domain is the one it maps to."""

    content_encoder: Files = {}
    mapping: Files = Field(default={}, description="empty for a network without mapping")
    style_mlp: Files = Field(default={}, description="empty for a network without styles")
    decoder: Files = {}
    style_encoder: Files = Field(default={}, description="empty for a network without styles")
    refiner: Files = Field(
        default={}, description="what brings smaller translations TO a domain to full size; optional"
    )

    def files(self) -> list[File]:
        """Every file, in a fixed order."""
        return [file for name in type(self).model_fields for file in getattr(self, name).values()]


TRANSLATING = tuple(name for name in Components.model_fields if name != "refiner")
"""The components that a backend runs. A refiner runs by itself, after it, and a bundle may have one for any domain."""


class Manifest(_ManifestModel):
    """What `bundle.json` holds."""

    format_version: int = FORMAT_VERSION
    name: Name
    domains: tuple[Name, Name]
    precision: Name = Field(description="of the weights and arithmetic in the graphs of `components`: fp32")
    style_dim: int = Field(strict=True, ge=0, le=4096, description="length of a style code; 0: there are no styles")
    sizes: Sizes
    architecture: dict[str, Any] = Field(description="the network's configuration")
    components: Components
    variants: dict[Name, Components] = Field(
        default={},
        max_length=8,
        description="by precision (fp16, int8): graphs to take in place of those of `components`",
    )
    styles: dict[Name, Style] = Field(max_length=8, description="by domain")
    licence: str = Field(max_length=100_000)
    card: str = Field(max_length=1_000_000, description="a short model card, Markdown")
    datasets: list[Name] = Field(
        default=[], max_length=64, description="what it was trained on: ids of the Hub, or names"
    )
    extras: list[File] = Field(
        default=[], max_length=256, description="the card and pictures as they were written; people may change them"
    )
    provenance: dict[str, Any] = Field(description="where the weights came from")
    verification: dict[str, Any] = Field(description="the graphs beside torch: images, max error, PSNR")

    def files(self) -> list[File]:
        """Every file of every precision."""
        return [file for part in (self.components, *self.variants.values()) for file in part.files()]

    def domain_named(self, text: str | None) -> str:
        """The target that a user means, whose case may differ; None means the only one. Raises InputError."""
        if text is None:
            if len(self.targets) > 1:
                raise InputError(f"no domain was chosen: the model {self.name} translates to several", self._choices)
            return self.targets[0]
        same = [name for name in self.domains if name.casefold() == text.casefold()]
        if text not in self.domains and len(same) == 1:
            return same[0]
        self.source_of(text)
        return text

    @property
    def targets(self) -> tuple[str, ...]:
        """The domains that it translates to: both, or with one direction alone the one."""
        return tuple(domain for domain in self.domains if domain in self.components.decoder)

    @property
    def _choices(self) -> str:
        return f"Pass {' or '.join(f'--domain {name}' for name in self.targets)}."

    def source_of(self, target: str) -> str:
        """The domain that is translated to `target`; InputError lists the known ones for a name that is not known."""
        if target not in self.targets:
            what = "does not translate to" if target in self.domains else "has no domain"
            near = get_close_matches(target.lower(), self.targets, n=1)
            meant = f"; did you mean {near[0]}?" if near and target not in self.domains else ""
            raise InputError(
                f"the model {self.name} {what} {target if target in self.domains else repr(target)}{meant}",
                self._choices,
            )
        return self.domains[1 - self.domains.index(target)]

    @property
    def has_styles(self) -> bool:
        """Whether a translation has a style; without, a frame has one translation, and no strength."""
        return self.style_dim > 0

    def need_styles(self, wanted: str = "", advice: str = _ONE_TRANSLATION) -> None:
        """Raises InputError for a model without styles. `wanted`: the option that needs them, as it was written."""
        if not self.has_styles:
            asked = f", which {wanted} needs" if wanted else ""
            raise InputError(f"the model {self.name} has no styles{asked}", advice)


def advice_for(folder: Path) -> str:
    """What helps against a damaged bundle in `folder`. One that was pulled into the cache is pulled again."""
    place = Path(folder).absolute()
    pulled = _PULLED.fullmatch("/".join(place.parts[-2:]))
    if pulled is None or place.parent.parent != (user_cache_folder() / PULLED_MODELS).absolute():
        return ADVICE
    return f"Run: dsmap models pull hf:{pulled[1]}/{pulled[2]}@{pulled[3]}"


def read_manifest(folder: Path) -> Manifest:
    """What `bundle.json` says, checked by itself: quick, and the other files are not looked at. Raises InputError."""
    return parse_manifest(read_manifest_tree(folder), str(folder), str(folder / MANIFEST), advice_for(folder))


def read_manifest_tree(folder: Path) -> Any:
    """`bundle.json` as it stands there, with what a later writer may have put in it. Raises InputError."""
    folder = Path(folder)
    # os.path's never raise: a name may be too long for the system, or hold a NUL.
    if os.path.isfile(folder):
        raise InputError(f"{folder} is a file, not a bundle", _EXPORTED)
    path = folder / MANIFEST
    if not os.path.lexists(path):
        what = f"has no {MANIFEST}" if os.path.isdir(folder) else "does not exist"
        raise InputError(f"{_cut(folder)} is not a bundle: it {what}", _EXPORTED)
    return read_json(path, limit=MAX_MANIFEST_BYTES, what="the manifest", advice=advice_for(folder))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `bundle.json`: the last file of a bundle, so that a folder without it is none."""
    write_manifest_tree(folder, manifest.model_dump(mode="json"))


def write_manifest_tree(folder: Path, tree: Any) -> None:
    """Writes `bundle.json` whole or not at all. Raises OSError, and InputError where it is a link."""
    write_state(folder / MANIFEST, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def first_fault(error: ValidationError) -> str:
    """Where the first thing is that pydantic refuses, and why: one line that can be printed."""
    first = error.errors(include_input=False)[0]
    return f"{shown_key(first['loc']) or 'the file'}: {printable(first['msg'].splitlines()[0])}"


def parse_manifest(tree: Any, shown: str, path: str | None = None, advice: str = ADVICE) -> Manifest:
    """The manifest of the bundle that is `shown` in messages, from the JSON at `path`. Raises InputError."""
    path = path or shown
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{path} has no format_version", advice)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{shown} has bundle format {version}; this dsmap reads format {FORMAT_VERSION}",
            "Update dsmap." if version > FORMAT_VERSION else "Export the model again with dsmap-export.",
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {first_fault(error)}", advice) from error
    if (size := sum(file.bytes for file in manifest.files())) > MAX_BUNDLE_BYTES:
        raise InputError(f"{path} lists {size} bytes of files, expected at most {MAX_BUNDLE_BYTES}", advice)
    if fault := _missing(manifest) or _wrong_length(manifest):
        raise InputError(f"{path}{fault}", advice)
    return manifest


def _missing(manifest: Manifest) -> str | None:
    """What of the two domains is missing; the rest of a sentence that begins with the file."""
    if manifest.domains[0] == manifest.domains[1]:
        return f": both domains are called {manifest.domains[0]!r}"
    parts = {name: getattr(manifest.components, name) for name in TRANSLATING}
    if not manifest.has_styles:
        return _missing_without_styles(manifest, parts)
    for name, part in {"styles": manifest.styles, **parts}.items():
        missing = set(manifest.domains) - set(part)
        if missing and (part or name in (*_REQUIRED, *_OF_STYLES, "styles")):
            return f" has no {name} for {', '.join(sorted(missing))}"
    return None


def _missing_without_styles(manifest: Manifest, parts: Mapping[str, Mapping[str, File]]) -> str | None:
    """As `_missing`, for a network without styles, which may have one direction alone."""
    of_styles = [name for name in ("mapping", *_OF_STYLES) if parts[name]]
    if of_styles:
        return f" has {of_styles[0]}, with a style_dim of 0"
    if missing := set(manifest.domains) - set(manifest.styles):
        return f" has no styles for {', '.join(sorted(missing))}"
    if not manifest.targets:
        return f" has no decoder for {', '.join(sorted(manifest.domains))}"
    missing = {manifest.source_of(target) for target in manifest.targets} - set(parts["content_encoder"])
    return f" has no content_encoder for {', '.join(sorted(missing))}" if missing else None


def _wrong_length(manifest: Manifest) -> str | None:
    """Which style has not as many numbers as a code, or no name that a style can have."""
    for domain, style in manifest.styles.items():
        if any(len(numbers) != manifest.style_dim for numbers in (style.mean, style.std, *style.axes)):
            return f": a style does not have {manifest.style_dim} numbers"
        for name, code in style.named.items():
            if not STYLE_NAME.fullmatch(name) or len(name) > 200:
                return f": {_cut(name)!r} of {domain} is not a valid style name"
            if len(code) != manifest.style_dim:
                return f": the style {name} of {domain} has {len(code)} numbers, expected {manifest.style_dim}"
    return None


def _cut(text: object) -> str:
    return printable(str(text)[:300])
