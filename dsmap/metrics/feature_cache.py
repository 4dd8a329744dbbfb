"""A cache on disk for features of image sets: the reference is the same in every evaluation, and takes a minute."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dsmap.common.files import is_regular
from dsmap.common.state_files import write_state
from dsmap.errors import InputError

if TYPE_CHECKING:  # torch
    from dsmap.metrics.extractors import Extractor

Features = npt.NDArray[np.float32]

_MIN_CACHED = 24  # fewer are measured sooner than looked up
_MAX_FILES = 32  # of some megabytes each


class FeatureCache:
    """Features in `folder`, keyed by what they were computed from.

    The key is a hash of every image's bytes, the network's file, the source code in between and the size that images
    were resized to, so a changed image, network or version is never mistaken for another. Damaged files are computed
    anew; the files used least recently are removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem = ""
        """Why features could not be kept; empty if they could."""

    def get(
        self, extractor: "Extractor", images: Sequence[Path], make: Callable[[], Features], side: int | None = None
    ) -> Features:
        """The features (N, D) of `images`, from the folder or else from `make`, which resizes images to `side`."""
        path = self._path(extractor, images, side)
        if path is None:
            return make()
        found = _read(path, len(images))
        if found is None:
            found = make()
            self._keep(path, found)
        return found

    def _path(self, extractor: "Extractor", images: Sequence[Path], side: int | None) -> Path | None:
        """The file of the features; None if they are not to be kept."""
        if len(images) < _MIN_CACHED:
            return None
        whole = hashlib.sha256(f"{extractor.fingerprint} {side}".encode())
        try:
            for path in (*source_files(), *images):
                whole.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            return None  # reading the images will say what is wrong
        return self.folder / f"{extractor.key}-{whole.hexdigest()[:32]}.npy"

    def _keep(self, path: Path, features: Features) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            np.save(data, features, allow_pickle=False)
            write_state(path, data.getvalue())
            cached = [p for p in self.folder.iterdir() if _CACHED.fullmatch(p.name) and is_regular(p)]
            kept = sorted(cached, key=lambda p: p.stat().st_mtime, reverse=True)
            for old in kept[_MAX_FILES:]:
                old.unlink(missing_ok=True)
        except InputError as error:  # a link in its place
            self.problem = error.fact
        except OSError as error:
            self.problem = f"{error.strerror or error}: {self.folder}"


_CACHED = re.compile(r".+-[0-9a-f]{32}\.npy")


def source_files() -> list[Path]:
    """The source files that features depend on: from the decoders of images to the networks."""
    modules = ("dsmap.metrics.extractors", "dsmap.model.feature_networks", "dsmap.common.primaries")
    images = _source_file("dsmap.common.images").parent
    return [*map(_source_file, modules), *sorted(images.glob("*.py"))]


def _source_file(module: str) -> Path:
    spec = find_spec(module)  # without importing it: torch takes seconds
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {module}", name=module)
    return Path(spec.origin)


def _read(path: Path, count: int) -> Features | None:
    """The features in the file at `path`, which is marked as used; None unless they are of `count` images."""
    try:
        if not is_regular(path):  # opening a FIFO would wait
            return None
        features = np.load(path, allow_pickle=False)
        os.utime(path)
    except (OSError, ValueError, EOFError):
        return None
    whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == count
    return features if whole and np.isfinite(features).all() else None
