"""The bundle: a folder of ONNX files and a `bundle.json` that says what they are. Export writes, the runtime reads.

    bundle.json
    content_encoder.summer.onnx    frames -> content, skip              (with the shared block)
    mapping.winter.onnx            content, skip -> mapped              (TO winter; absent without a mapping)
    style_mlp.winter.onnx          style -> style_params                (once per style)
    decoder.winter.onnx            mapped, style_params -> frames
    style_encoder.winter.onnx      frames -> style
    fused.winter.onnx              frames, style_params -> frames_out   (optional: all three parts in one)
    style_decoder.winter.onnx      mapped, style -> frames              (optional: with the MLP inside)
    decoder.winter.fp16.onnx       a variant of a graph in another precision: same inputs and outputs (optional)
    engines/                       TensorRT engines (optional; see `bundle_engines`)

`frames` are uint8 (N, H, W, 3) RGB, H and W multiples of `sizes.multiple_of`; `style` is float32 (N, style_dim). Batch
and size are dynamic. Every file's SHA-256 is in bundle.json, and nothing is read before it has been checked.
In format 1 there was no style_mlp, and the decoder took the style.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from dsmap.errors import InputError

FORMAT_VERSION = 2
MANIFEST = "bundle.json"
ENGINES = "engines"
"""Where a bundle keeps its engines."""
ENGINE_SUFFIX = ".engine"
MEAN = "mean"
"""What people write for a domain's default style."""
STYLE_NAME = re.compile(r"(?!mean$|[0-9]+$)[a-z0-9_][a-z0-9_-]*", re.IGNORECASE | re.ASCII)
"""What a named style may be called: nothing that reads as a file with a suffix, a path, a seed, or the mean."""
_ADVICE = "Copy or export the bundle again."
_ALWAYS = ("content_encoder", "decoder", "style_encoder")  # and style_mlp since format 2


class _Part(BaseModel):
    """Fields of a later minor version are kept out of the way, not refused: only `format_version` breaks a reader."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class File(_Part):
    """One file of the bundle."""

    path: str = Field(description="relative to the bundle's folder, with forward slashes")
    sha256: str
    bytes: int


class Sizes(_Part):
    """Which picture sizes the graphs take, and which they were trained at (pixels)."""

    multiple_of: int = Field(ge=1, description="height and width must be multiples of this")
    minimum: int = Field(ge=1, description="the smallest height and width")
    style_minimum: int = Field(ge=1, description="the smallest height and width of a style picture")
    trained_at: int = Field(ge=1, description="shorter side of the training pictures; style pictures are resized to it")


class Style(_Part):
    """Style codes of a domain's training pictures. The mean is the default style."""

    mean: list[FiniteFloat]
    std: list[FiniteFloat]
    pictures: int = Field(ge=0, description="how many pictures were averaged; 0: the prior N(0, I)")
    named: dict[str, list[FiniteFloat]] = Field(default={}, description="codes that have a name")


class Components(_Part):
    """The graphs, by domain name. A mapping's domain is the one it maps to."""

    content_encoder: dict[str, File] = {}
    mapping: dict[str, File] = Field(default={}, description="empty for a network without mapping")
    style_mlp: dict[str, File] = Field(default={}, description="empty in format 1")
    decoder: dict[str, File] = {}
    style_encoder: dict[str, File] = {}
    fused: dict[str, File] = Field(default={}, description="encoder, mapping and decoder in one; by target")
    style_decoder: dict[str, File] = Field(default={}, description="decoders that take the style itself")

    def files(self) -> list[File]:
        """Every file, in a fixed order."""
        return [file for name in type(self).model_fields for file in getattr(self, name).values()]


class Manifest(_Part):
    """What `bundle.json` holds."""

    format_version: int = FORMAT_VERSION
    name: str
    domains: tuple[str, str]
    precision: str = Field(description="of the weights and arithmetic in the graphs of `components`: fp32")
    style_dim: int = Field(ge=1)
    sizes: Sizes
    architecture: dict[str, Any] = Field(description="the network's configuration")
    components: Components
    variants: dict[str, Components] = Field(
        default={}, description="by precision (fp16, int8): graphs to take in place of those of `components`"
    )
    styles: dict[str, Style] = Field(description="by domain")
    licence: str
    card: str = Field(description="a short model card, Markdown")
    provenance: dict[str, Any] = Field(description="where the weights came from")
    verification: dict[str, Any] = Field(description="the graphs beside torch: pictures, max error, PSNR")

    def files(self) -> list[File]:
        """Every file of every precision."""
        return [file for part in (self.components, *self.variants.values()) for file in part.files()]

    def source_of(self, target: str) -> str:
        """The domain that is translated to `target`; InputError lists the known ones for an unknown name."""
        if target not in self.domains:
            raise InputError(
                f"the model {self.name} has no domain {target!r}",
                f"Pass --domain {self.domains[0]} or --domain {self.domains[1]}.",
            )
        return self.domains[1 - self.domains.index(target)]


class Bundle:
    """A bundle on disk that has been checked."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """Reads and checks a bundle.

        Raises InputError for a folder that is no bundle, an unknown format, a path that leaves the folder, and files
        that are missing or whose hash is wrong.
        """
        folder = Path(folder)
        bundle = cls(folder, read_manifest(folder))
        for file in bundle.manifest.files():
            bundle._check(file)
        return bundle

    @property
    def domains(self) -> tuple[str, str]:
        """The two domain names."""
        return self.manifest.domains

    def source_of(self, target: str) -> str:
        """As `Manifest.source_of`."""
        return self.manifest.source_of(target)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the bundle has graphs in, fp32 first."""
        return self.manifest.precision, *self.manifest.variants

    @property
    def fingerprint(self) -> str:
        """Equal for bundles with the same files, as 16 hex digits."""
        hashes = "".join(file.sha256 for file in self.manifest.files())
        return hashlib.sha256(hashes.encode()).hexdigest()[:16]

    def path(self, file: File) -> Path:
        """Where a file of the bundle is."""
        return self.folder / file.path

    def graph(self, component: str, domain: str, precision: str = "fp32") -> Path | None:
        """The file of a graph: that of `precision`, or where this variant has none the usual one.

        None when there is none at all: a network without mapping has no mapping, format 1 no style_mlp.
        """
        for part in (self.manifest.variants.get(precision), self.manifest.components):
            if part is not None and (file := getattr(part, component).get(domain)):
                return self.path(file)
        return None

    def _check(self, file: File) -> None:
        parts = PurePosixPath(file.path)
        root = self.folder.resolve()
        path = self.path(file)
        if parts.is_absolute() or ".." in parts.parts or "\\" in file.path or not path.resolve().is_relative_to(root):
            raise InputError(f"{self.folder / MANIFEST} names {file.path!r}, which leaves the bundle's folder", _ADVICE)
        if not path.is_file():
            raise InputError(f"the bundle {self.folder} lacks {file.path}", _ADVICE)
        got = file_sha256(path)
        if got != file.sha256:
            raise InputError(
                f"{path} has changed since it was exported: SHA-256 {got[:16]}..., expected {file.sha256[:16]}...",
                _ADVICE,
            )


def graph_file(component: str, domain: str, precision: str = "fp32") -> str:
    """The name of a graph's file."""
    return f"{component}.{domain}.onnx" if precision == "fp32" else f"{component}.{domain}.{precision}.onnx"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_file(folder: Path, path: Path) -> File:
    """The manifest's entry for `path`, which lies in the bundle's `folder`."""
    return File(path=path.relative_to(folder).as_posix(), sha256=file_sha256(path), bytes=path.stat().st_size)


def describe_components(folder: Path, files: Mapping[tuple[str, str], Path]) -> Components:
    """The manifest's entries for graphs that lie in the bundle's `folder`, by component and domain."""
    parts: dict[str, dict[str, File]] = {}
    for (component, domain), path in files.items():
        parts.setdefault(component, {})[domain] = describe_file(folder, path)
    return Components(**parts)


def read_manifest(folder: Path) -> Manifest:
    """What `bundle.json` says, checked by itself: quick, and the other files are not looked at. Raises InputError."""
    return _parse(folder, _read_json(folder))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `bundle.json`: the last file of a bundle, so that a folder without it is none."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _read_json(folder: Path) -> Any:
    path = folder / MANIFEST
    if folder.is_file():
        raise InputError(f"{folder} is a file, not a bundle", "Pass a folder that dsmap-export has written.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"has no {MANIFEST}" if folder.is_dir() else "does not exist"
        raise InputError(
            f"{folder} is not a bundle: it {what}", "Pass a folder that dsmap-export has written."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", _ADVICE) from error


def _parse(folder: Path, tree: Any) -> Manifest:
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{folder / MANIFEST} has no format_version", _ADVICE)
    if version < 1:
        raise InputError(f"{folder / MANIFEST}: format_version is {version}, expected 1 or more", _ADVICE)
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} has bundle format {version}; this dsmap reads formats up to {FORMAT_VERSION}", "Update dsmap."
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{folder / MANIFEST}: {key}: {first['msg']}", _ADVICE) from error
    if manifest.domains[0] == manifest.domains[1]:
        raise InputError(f"{folder / MANIFEST}: both domains are called {manifest.domains[0]!r}", _ADVICE)
    for name, part in (
        ("styles", manifest.styles),
        *(
            (name, part)
            for name in Components.model_fields
            if (part := getattr(manifest.components, name)) or name in _ALWAYS or (name == "style_mlp" and version > 1)
        ),
    ):
        missing = set(manifest.domains) - set(part)
        if missing:
            raise InputError(f"{folder / MANIFEST} has no {name} for {', '.join(sorted(missing))}", _ADVICE)
    if any(len(numbers) != manifest.style_dim for s in manifest.styles.values() for numbers in (s.mean, s.std)):
        raise InputError(f"{folder / MANIFEST}: a style does not have {manifest.style_dim} numbers", _ADVICE)
    _check_named(folder, manifest)
    return manifest


def _check_named(folder: Path, manifest: Manifest) -> None:
    for domain, style in manifest.styles.items():
        for name, code in style.named.items():
            if not STYLE_NAME.fullmatch(name):
                raise InputError(f"{folder / MANIFEST}: {name!r} of {domain} is no name for a style", _ADVICE)
            if len(code) != manifest.style_dim:
                raise InputError(
                    f"{folder / MANIFEST}: the style {name} of {domain} has {len(code)} numbers,"
                    f" expected {manifest.style_dim}",
                    _ADVICE,
                )
