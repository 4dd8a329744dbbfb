"""Features of sets of images, kept on disk: a reference is the same in every evaluation, and takes a minute."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import dsmap.common.images
import dsmap.model.feature_networks
from dsmap.common.files import is_regular
from dsmap.common.state_files import write_state
from dsmap.errors import InputError
from dsmap.metrics import extractors
from dsmap.metrics.extractors import Extractor

Features = npt.NDArray[np.float32]

_FEWEST = 24  # fewer images are measured sooner than looked up
_MOST_FILES = 32  # of some megabytes each


class FeatureCache:
    """Features in `folder`, found again by what they are of: the bytes of every image, those of the network's file
    and those of the code between, and the size they were resized to. So no name, date or version brings up wrong ones.

    A file that is damaged is made anew. The files that were not used for longest are removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem = ""
        """Why features could not be kept; "" where they could."""

    def get(
        self, extractor: Extractor, images: Sequence[Path], make: Callable[[], Features], side: int | None = None
    ) -> Features:
        """The features (N, D) of `images`, from the folder or else from `make`, which resizes them to `side`."""
        path = self._path(extractor, images, side)
        if path is None:
            return make()
        found = _read(path, len(images))
        if found is None:
            found = make()
            self._keep(path, found)
        return found

    def _path(self, extractor: Extractor, images: Sequence[Path], side: int | None) -> Path | None:
        """Where the features are or will be; None where they are not kept."""
        if len(images) < _FEWEST:
            return None
        whole = hashlib.sha256(f"{extractor.fingerprint} {side}".encode())
        try:
            for path in (*_CODE, *images):
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
            ours = [p for p in self.folder.iterdir() if _OURS.fullmatch(p.name) and is_regular(p)]
            kept = sorted(ours, key=lambda p: p.stat().st_mtime, reverse=True)
            for old in kept[_MOST_FILES:]:
                old.unlink(missing_ok=True)
        except InputError as error:  # a link in its place
            self.problem = error.fact
        except OSError as error:
            self.problem = f"{error.strerror or error}: {self.folder}"


_OURS = re.compile(r".+-[0-9a-f]{32}\.npy")
_CODE = (
    *(Path(str(module.__file__)) for module in (extractors, dsmap.model.feature_networks, dsmap.common.images)),
    *sorted(Path(str(dsmap.common.images.__file__)).parent.glob("*.py")),
)


def _read(path: Path, count: int) -> Features | None:
    """The features in the file at `path`, marked as used; None where there are none of `count` images."""
    try:
        if not is_regular(path):  # a FIFO would make us wait
            return None
        features = np.load(path, allow_pickle=False)
        os.utime(path)
    except (OSError, ValueError, EOFError):
        return None
    whole = features.dtype == np.float32 and features.ndim == 2 and len(features) == count
    return features if whole and np.isfinite(features).all() else None
