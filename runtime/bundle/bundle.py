"""Reads bundles: folders of ONNX files with a `bundle.json` that describes them.

    bundle.json
    content_encoder.summer.onnx    frames -> content, skip              (with the shared block)
    mapping.winter.onnx            content, skip -> mapped              (TO winter; absent without a mapping)
    style_mlp.winter.onnx          style -> style_params                (once per style)
    decoder.winter.onnx            mapped, style_params -> frames
    style_encoder.winter.onnx      frames -> style
    decoder.winter.fp16.onnx       a variant of a graph in another precision: same inputs and outputs (optional)
    engines/                       TensorRT engines (optional; see `dsmap.runtime.engines`)

`frames` are uint8 (N, H, W, 3) RGB, H and W multiples of `sizes.multiple_of`; `style` is float32 (N, style_dim). Batch
and size are dynamic. Every file's SHA-256 is in bundle.json. The bytes that run are the bytes that were checked: each
file is read once, hashed, checked (`graphs`), and handed on as bytes, never by its name.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dsmap.common.files import read_regular
from dsmap.common.memory import available_bytes
from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.runtime.bundle.graphs import check_graph
from dsmap.runtime.bundle.manifest import FORMAT_VERSION as FORMAT_VERSION
from dsmap.runtime.bundle.manifest import MANIFEST, advice_for
from dsmap.runtime.bundle.manifest import STYLE_NAME as STYLE_NAME
from dsmap.runtime.bundle.manifest import TRANSLATING as TRANSLATING
from dsmap.runtime.bundle.manifest import Components as Components
from dsmap.runtime.bundle.manifest import File as File
from dsmap.runtime.bundle.manifest import Manifest as Manifest
from dsmap.runtime.bundle.manifest import Sizes as Sizes
from dsmap.runtime.bundle.manifest import Style as Style
from dsmap.runtime.bundle.manifest import read_manifest as read_manifest
from dsmap.runtime.bundle.manifest import write_manifest as write_manifest

ENGINES = "engines"
"""Where a bundle keeps its engines."""
ENGINE_SUFFIX = ".engine"
MEAN = "mean"
"""What people write for a domain's default style."""
MAX_HELD_BYTES = 256 << 20
"""How many bytes of files a bundle keeps from its check to the sessions; of the rest each is read again when wanted."""
_LARGE_BYTES = 64 << 20  # from here on a file is compared with the memory that is free


class GraphData(NamedTuple):
    """An ONNX file that has been checked. Only its bytes may be loaded: the file may be another one by now."""

    data: bytes
    sha256: str
    precision: str
    """What the file is really in: of some parts there is one only."""
    name: str
    """For messages: where it was read from."""


class Bundle:
    """A bundle on disk that has been checked."""

    only_backend: str | None = None
    """The backend that has to run it; None: any that can."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._root = os.path.realpath(folder)
        self._held: dict[str, bytes] = {}
        self._checked = False

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Opens a bundle: its bundle.json is read and checked, its files are not yet (`check`).

        Raises InputError for a folder that is not a bundle, and for another format.
        """
        folder = Path(folder)
        return cls(folder, read_manifest(folder))

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """Opens a bundle and checks its files: `open` and `check` in one."""
        bundle = cls.open(folder)
        bundle.check()
        return bundle

    def check_files(self) -> None:
        """Checks that all files are there, as long as they should be: quick. Raises InputError as `check`.

        What a backend runs is checked when it is read (`graph_data`); who only runs a model need not read the rest.
        """
        if self._checked:
            return
        for file in self.manifest.files():
            if (found := os.path.getsize(path := self._inside(file))) != file.bytes:
                raise self._changed(path, file, found)

    def check(self) -> None:
        """Reads and checks all files, the first time that it is called.

        Raises InputError for a path that leaves the folder, and for files that are missing, whose hash is wrong, or
        that are more than a graph (`check_graph`). What was read is kept until `release`, so that it is read only once.
        """
        if self._checked:
            return
        room = MAX_HELD_BYTES
        for file in dict.fromkeys(self.manifest.files()):  # several components may share one
            data = self._read(file)
            if len(data) <= room:
                room -= len(data)
                self._held[file.sha256] = data
        self._checked = True

    @property
    def closed_folders(self) -> list[tuple[Path, str]]:
        """The folders that no output may lie in, each with what to call it."""
        return [(self.folder, "the model's folder")]

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
        """Where a graph is, as `find` finds it: for its name. What runs is loaded from `graph_data`."""
        found = self.find(component, domain, precision)
        return None if found is None else self.path(found[0])

    def find(self, component: str, domain: str, precision: str = "fp32") -> tuple[File, str] | None:
        """The file of a graph and the precision it is in: `precision`, or where this variant has none the usual one.

        None when the bundle has no such graph: a network without mapping has no `mapping`.
        """
        for name, part in ((precision, self.manifest.variants.get(precision)),
                           (self.manifest.precision, self.manifest.components)):  # fmt: skip
            if part is not None and (file := getattr(part, component).get(domain)):
                return file, name
        return None

    def graph_data(self, component: str, domain: str, precision: str = "fp32") -> GraphData | None:
        """A graph whose bytes were checked, which file as for `find`. Raises InputError where it has changed since."""
        found = self.find(component, domain, precision)
        if found is None:
            return None
        file, precision = found
        data = self._held.get(file.sha256) or self._read(file)
        return GraphData(data, file.sha256, precision, printable(self.path(file)))

    def release(self) -> None:
        """Lets go of the bytes that `check` kept: a graph that is wanted later is read, and checked, again."""
        self._held.clear()

    def _read(self, file: File) -> bytes:
        """The bytes of a file: its hash is right, and it is nothing but a graph. Raises InputError."""
        path = self._inside(file)
        if file.bytes > _LARGE_BYTES and (free := available_bytes()) is not None and file.bytes > free:
            raise InputError(
                f"{printable(path)} is {file.bytes / 1e9:.1f} GB large; {free / 1e9:.1f} GB of memory are available",
                "Close other programs, or get a smaller model.",
            )
        data = read_regular(path, limit=file.bytes, what="the graph")
        if len(data) != file.bytes:
            raise self._changed(path, file, len(data))
        got = hashlib.sha256(data).hexdigest()
        if got != file.sha256:
            expected = printable(file.sha256[:16])
            raise InputError(
                f"{printable(path)} has changed since it was exported: SHA-256 {got[:16]}..., expected {expected}...",
                advice_for(self.folder),
            )
        check_graph(data, printable(path))
        return data

    def _inside(self, file: File) -> Path:
        """Where a file of the bundle is, links resolved. Raises InputError unless that is in the bundle's folder."""
        try:
            path = os.path.realpath(os.path.join(self._root, file.path))
        except (OSError, ValueError) as error:  # names that the system does not take
            raise self._refusal(f"names {file.path!r}: {error}") from error
        outside = os.path.isabs(file.path) or ".." in file.path.split("/") or "\\" in file.path
        if outside or (not path.startswith(os.path.join(self._root, "")) and path != self._root):
            raise self._refusal(f"names {file.path!r}, which leaves the bundle's folder")
        if not os.path.isfile(path):
            what = "which is not a file" if os.path.lexists(path) else "which is not there: the bundle lacks it"
            raise self._refusal(f"names {file.path!r}, {what}")
        return Path(path)

    def _changed(self, path: Path, file: File, found: int) -> InputError:
        return InputError(
            f"{printable(path)} has changed since it was exported: {found} bytes, expected {file.bytes}",
            advice_for(self.folder),
        )

    def _refusal(self, what: str) -> InputError:
        return InputError(printable(f"{self.folder / MANIFEST} {what}")[:1000], advice_for(self.folder))


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
    """The manifest's entries for graphs that lie in the bundle's `folder`, by component and domain.

    Raises InputError for a graph that no reader would take.
    """
    parts: dict[str, dict[str, File]] = {}
    for (component, domain), path in files.items():
        check_graph(path.read_bytes(), path.name)
        parts.setdefault(component, {})[domain] = describe_file(folder, path)
    return Components(**parts)
