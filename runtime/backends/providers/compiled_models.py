"""Keeps what providers compile, in the user's cache: it is code, and takes from seconds to minutes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from dsmap.common.cache_folder import VARIABLE, private_folder
from dsmap.errors import DsmapError

_Opened = TypeVar("_Opened")
_WHOLE = "whole"


def open_compiled(name: str, key: str, open_in: Callable[[Path], _Opened], tell: Callable[[], None]) -> _Opened:
    """What `open_in` makes of the folder of `key` in the cache's folder `name`, where the provider keeps its files.

    The folder holds what was compiled before, or is empty: `tell` is called first then. What a killed process left, and
    what cannot be opened any more, is compiled anew. Other processes wait. Raises DsmapError as `open_in` does, and
    where the cache cannot be written to.
    """
    kept = private_folder(name)
    folder = kept / key
    with _cache_errors(kept), _locked(kept / f"{key}.lock"):
        if (folder / _WHOLE).is_file():
            try:
                return open_in(folder)
            except DsmapError:  # compiled by another version of the system
                pass
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        tell()
        opened = open_in(folder)
        (folder / _WHOLE).touch()
        return opened


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path, fallback_to_soft=False):
        yield


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DsmapError(
            f"cannot write to the cache folder {folder}: {error.strerror or error}",
            f"Free space there, or set {VARIABLE} to a folder of yours that can be written to.",
        ) from error
