"""Bookkeeping files (job notes, journals, settings, logs): written whole, and never through a link."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dsmap.common.atomic import finish_file
from dsmap.common.files import BINARY, NO_WAIT
from dsmap.common.part_files import part_file
from dsmap.errors import DsmapError, InputError

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


def write_state(path: Path, content: str | bytes) -> None:
    """Writes the bookkeeping file `path` atomically and flushes it to the disk.

    Raises InputError where its name belongs to anything but a regular file: somebody may have put a link there.
    """
    _check_regular(path)
    part = part_file(path)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        finish_file(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def open_state(path: Path, mode: str) -> IO[Any]:
    """Opens the bookkeeping file `path`, never through a link, never truncating it.

    `mode` is "a", "ab", "r", "rb" or "r+b"; text is UTF-8. Raises InputError where its name belongs to anything but a
    regular file, OSError as open() does.
    """
    flags = {"a": os.O_WRONLY | os.O_APPEND | os.O_CREAT, "r": os.O_RDONLY, "r+": os.O_RDWR}[mode.replace("b", "")]
    _check_regular(path)
    number = os.open(path, flags | _NO_FOLLOW | NO_WAIT | BINARY, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _not_a_state_file(path)
    return os.fdopen(number, mode, encoding=None if "b" in mode else "utf-8")


class FolderInUseError(InputError):
    """Another process holds the lock of the folder."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks `folder` against other processes; raises FolderInUseError when one holds the lock already.

    The lock is on the file `.lock` in the folder, which stays. The system releases it when the process ends, however
    that happens. On file systems without locks there is none.
    """
    from filelock import FileLock, Timeout  # 30 ms, which --help need not pay

    path = folder / ".lock"
    _check_regular(path)
    lock = FileLock(path, timeout=0, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"another process is working in {folder}", "Wait for it, or choose another -o."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise DsmapError(f"cannot lock {folder}: {error.strerror}", "Choose another with -o.") from error
    try:
        yield
    finally:
        lock.release()


def check_unlocked(folder: Path) -> None:
    """Raises FolderInUseError when another process holds the lock of `folder` now; changes nothing."""
    if (folder / ".lock").is_file():
        with lock_folder(folder):
            pass


def _check_regular(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise _not_a_state_file(path)


def _not_a_state_file(path: Path) -> InputError:
    kind = "a link" if path.is_symlink() else "not a regular file"
    return InputError(f"{path} is {kind}, and nothing is written through it", "Remove it, or choose another -o.")
