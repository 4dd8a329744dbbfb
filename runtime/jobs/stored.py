"""Files in object stores (s3://, gs:// and whatever else fsspec knows): named, listed, fetched and sent.

Jobs have the address of an input as a text, and a `StorePath` as their output. Results appear when they are complete:
that is how stores take them.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsmap.common.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dsmap.errors import DsmapError, InputError, first_line
from dsmap.runtime.video.addresses import SCHEMES, scheme_of, shown

_WRITTEN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/])")  # what pathlib makes of SCHEME://
_NOT_STORES = frozenset({*SCHEMES, "file", "local"})


class StorePath(type(Path())):  # type: ignore[misc]
    """An address in an object store that can be joined like a path. Nothing is there for the file system."""

    __slots__ = ()

    def __str__(self) -> str:
        return _WRITTEN.sub(r"\1://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> "StorePath":
        return self


def is_stored(address: str | Path) -> bool:
    """Whether it is the address of an object store."""
    if isinstance(address, Path):
        return isinstance(address, StorePath)
    scheme = scheme_of(address)
    if not scheme or scheme in _NOT_STORES:
        return False
    try:
        import fsspec
    except ImportError:
        return scheme in ("s3", "gs", "az", "abfs", "memory")
    return scheme in fsspec.available_protocols()


def as_place(path: Path | None) -> Path | None:
    """`path`, as a `StorePath` where it was written as an address of a store."""
    if path is None or isinstance(path, StorePath) or not _WRITTEN.match(str(path)) or os.path.lexists(path):
        return path
    address = _WRITTEN.sub(r"\1://", str(path), count=1)
    return StorePath(address) if is_stored(address) else path


def list_stored(address: str) -> list[str]:
    """The images and videos directly in a folder of the store; the address itself where it is a file.

    Raises InputError where there is nothing.
    """
    with _explained(address):
        system, path = _system(address)
        if not address.endswith("/") and system.isfile(path):
            return [address]
        names = _files_in(system, path)
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found = sorted(name for name in names if Path(name).suffix.lower() in suffixes)
    if not found:
        raise InputError(f"{shown(address)} holds no images and no videos", "name a folder that does, or a file")
    return [f"{address.rstrip('/')}/{name}" for name in found]


def stored_exists(address: str | Path) -> bool:
    """Whether there is such a file. Raises InputError."""
    with _explained(str(address)):
        system, path = _system(str(address))
        return bool(system.isfile(path))


def stored_version(address: str) -> str:
    """A text that changes when the content of the file does, as far as the store tells. Raises InputError."""
    with _explained(address):
        system, path = _system(address)
        return str(system.ukey(path))


def names_stored(folder: Path) -> list[str]:
    """The names of the files directly in a folder of the store; none where there is none. Raises InputError."""
    with _explained(str(folder)):
        system, path = _system(str(folder))
        with suppress(FileNotFoundError):
            return _files_in(system, path)
    return []


def remove_stored(addresses: Iterable[Path]) -> None:
    """Removes files of the store; those that are not there any more are no error. Raises InputError."""
    for address in addresses:
        with _explained(str(address)):
            system, path = _system(str(address))
            with suppress(FileNotFoundError):
                system.rm_file(path)


def remove_empty(folder: Path) -> None:
    """Removes a folder of the store that holds nothing, where the store has folders at all."""
    with suppress(Exception):  # it is not there, or not there yet
        system, path = _system(str(folder))
        if not system.ls(path, detail=False):  # some stores, such as Hadoop's, would remove what it holds too
            system.rmdir(path)


def fetch(address: str, local: Path) -> None:
    """Copies a file of the store to `local`. Raises InputError, DsmapError."""
    with _explained(address):
        system, path = _system(address)
        _check_room(local.parent, int(system.size(path) or 0))
        system.get_file(path, str(local))


def send(local: Path, address: Path) -> None:
    """Copies the file `local` to the store, where it replaces what is there. Raises InputError, DsmapError."""
    with _explained(str(address)):
        system, path = _system(str(address))
        system.makedirs(system._parent(path), exist_ok=True)
        system.put_file(str(local), path)


def write_mark(address: str) -> None:
    """Writes an empty file, to see that one can. Raises InputError."""
    with _explained(address):
        system, path = _system(address)
        system.makedirs(system._parent(path), exist_ok=True)
        system.pipe_file(path, b"")


def remove_mark(address: str) -> None:
    """Removes it."""
    with _explained(address):
        system, path = _system(address)
        system.rm_file(path)


def _files_in(system: Any, folder: str) -> list[str]:
    found = system.ls(folder, detail=True)
    return [str(one["name"]).rsplit("/", 1)[-1] for one in found if one["type"] == "file"]


def _check_room(folder: Path, size: int) -> None:
    """Raises DsmapError: the input, and a result that is about as large."""
    if shutil.disk_usage(folder).free < 2 * size:
        raise DsmapError(
            f"{folder} has no room for an input of {size / 1e6:,.1f} MB and its result",
            "set TMPDIR for Ray's nodes to a larger disk",
        )


def _system(address: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(address, use_listings_cache=False)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Errors of any store become ours."""
    try:
        yield
    except DsmapError:
        raise
    except Exception as error:  # the stores' own libraries have errors of their own
        raise _as_ours(shown(address), error) from error


def _as_ours(name: str, error: Exception) -> DsmapError:
    if isinstance(error, ImportError):
        return InputError(f"{name}: {first_line(error)}", "it is needed here and on all nodes")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name} does not exist", "check the spelling")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DsmapError(f"the disk is full: {error.filename or 'TMPDIR'}", "free space and use --resume")
    reason = first_line(error) or type(error).__name__
    return InputError(f"{name}: {reason}", "check the address and the credentials")
