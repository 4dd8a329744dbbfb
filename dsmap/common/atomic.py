"""Atomic writes: files and folders that appear complete or not at all, and survive a power cut.

There is one way to finish a file (`finish_file`) and one to finish a folder (`replace_folder`): write beside, flush to
the disk, rename, flush the parent folder, and only then remove what was replaced.
"""

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsmap.common.files import BINARY
from dsmap.common.part_files import part_file, part_folder

_LINUX_RENAME = {"no replace": 1, "exchange": 2}
_DARWIN_RENAME = {"no replace": 4, "exchange": 2}
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def atomic_write(path: Path, *, durable: bool = True, replace: bool = True) -> Iterator[Path]:
    """Yields an empty file beside `path` to write to, which becomes `path` at the end; an error leaves nothing behind.

    Where `path` is a link, its target is replaced; anything but a file (/dev/stdout) is written to directly.

    durable: flush to the disk; False for one of many files in a folder that is flushed later, or thrown away
    replace: replace an existing file; else FileExistsError is raised and it stays

    Raises OSError.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    final = Path(os.path.realpath(path))
    part = part_file(final)
    try:
        yield part
        if durable or not replace:
            finish_file(part, final, replace=replace)
        else:
            part.replace(final)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def finish_file(part: Path, final: Path, *, replace: bool = True) -> None:
    """Renames `part` to `final` once its bytes are on the disk.

    Without `replace` an existing file stays, and FileExistsError is raised. Raises OSError.
    """
    sync_file(part)
    if replace:
        os.replace(part, final)
    else:
        rename_no_replace(part, final)
    sync_folder(final.parent)


def rename_no_replace(path: Path, final: Path) -> None:
    """Renames a file or folder to a name that is free; raises FileExistsError if it is not, else OSError.

    In one step where the system can, so that no file created in the meantime is lost.
    """
    if _rename(path, final, "no replace"):
        return
    if not path.is_dir():
        try:
            os.link(path, final, follow_symlinks=False)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError):  # a file system without hard links
            pass
        else:
            path.unlink()
            return
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    path.rename(final)


def replace_folder(part: Path, final: Path) -> None:
    """Renames the folder `part` to `final` once all of it is on the disk; then removes what was there before.

    Where the system can exchange two names (Linux, macOS), `final` is a complete folder at every moment. Elsewhere the
    old one is moved aside first. Raises OSError.
    """
    sync_tree(part)
    if not os.path.lexists(final):
        os.replace(part, final)
        sync_folder(final.parent)
        return
    aside = part
    if not _rename(part, final, "exchange"):
        aside = part_folder(final, "old")
        os.replace(final, aside)
        os.replace(part, final)
    sync_folder(final.parent)
    if aside.is_symlink() or not aside.is_dir():
        aside.unlink()  # a link: its target stays
    else:
        shutil.rmtree(aside, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Waits until the bytes of `path` are on the disk. Raises OSError."""
    number = os.open(path, os.O_RDWR | BINARY)  # Windows flushes only what may be written to
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # a file system that cannot flush is no reason to lose the file
            raise
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk, on systems that can open folders."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sync_tree(folder: Path) -> None:
    """Calls `sync_file` and `sync_folder` for everything in `folder`, without following links. Raises OSError."""
    for above, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(above, name)
            if stat.S_ISREG(path.lstat().st_mode):
                sync_file(path)
        sync_folder(Path(above))


def _rename(one: Path, other: Path, how: str) -> bool:
    """Renames `one` to `other` ("no replace") or swaps both ("exchange"); False where the system cannot.

    Raises FileExistsError.
    """
    try:
        library = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(one), os.fsencode(other)
        if sys.platform == "linux":
            here = ctypes.c_int(-100)  # AT_FDCWD
            failed = library.renameat2(here, names[0], here, names[1], ctypes.c_uint(_LINUX_RENAME[how]))
        elif sys.platform == "darwin":
            failed = library.renamex_np(*names, ctypes.c_uint(_DARWIN_RENAME[how]))
        else:
            return False
    except (AttributeError, OSError, TypeError):  # an older C library; none
        return False
    if failed and ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(other))
    return not failed
