"""Files and folders that appear whole or not at all, survive a power cut, and are never written through links.

A leaf: every part may use it. There is one way to finish a file (`finish_file`) and one to finish a folder
(`replace_folder`): write beside, flush to the disk, rename, flush the folder, and only then remove what was replaced.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dsmap.errors import DsmapError, InputError

_MAX_STEM = 60  # bytes of the final name that a temporary name repeats: it must fit where the final one does
_LINUX_RENAME = {"no replace": 1, "exchange": 2}
_DARWIN_RENAME = {"no replace": 4, "exchange": 2}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.part(\.[^.]+)?", re.DOTALL)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its other end
_BINARY = getattr(os, "O_BINARY", 0)


def check_folder_writable(folder: Path, option: str) -> None:
    """Raises InputError, with `option` as the one to change, unless a file can be made in `folder`."""
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist", f"make it first, or choose another with {option}")
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell: read-only disks, quotas, root
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write into {folder}: {reason}", f"choose a folder of yours with {option}") from error


def check_run_folder(out: Path) -> None:
    """Raises InputError when the run's folder `out` is a file or cannot be written to; it is made later."""
    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"cannot write to the run folder {out}: {above} is a file", "Choose another with -o.")
    check_folder_writable(above, "-o")


# Temporaries


def part_file(final: Path, tag: str = "part") -> Path:
    """Makes an empty hidden file beside `final`, under a name that nobody can foresee, with its suffix.

    It is made with O_EXCL, so that no link or other file of that name is ever opened. Raises OSError.
    """
    for _ in range(100):
        path = final.with_name(_part_name(final, tag))
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_FOLLOW, 0o666))
            return path
    raise FileExistsError(errno.EEXIST, "no free name for a temporary file", str(final))


def part_folder(final: Path, tag: str = "part") -> Path:
    """The same as a folder."""
    for _ in range(100):
        path = final.with_name(_part_name(final, tag))
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise FileExistsError(errno.EEXIST, "no free name for a temporary folder", str(final))


def _part_name(final: Path, tag: str) -> str:
    begin, suffix = _ends_of_parts(final)
    return f"{begin}{secrets.token_hex(4)}.{tag}{suffix}"


def _ends_of_parts(final: Path) -> tuple[str, str]:
    """How the names of temporaries for `final` begin and end."""
    suffix = final.suffix if len(os.fsencode(final.suffix)) <= 16 else ""
    return f".{cut_name(final.stem, _MAX_STEM)}.", suffix


def is_part_of(path: Path, final: Path) -> bool:
    """Whether `path` is a regular file under a name that `part_file` gives to temporaries of `final`."""
    begin, end = _ends_of_parts(final)
    named = re.fullmatch(rf"{re.escape(begin)}[0-9a-f]{{8}}\.part{re.escape(end)}", path.name) is not None
    return named and path.parent == final.parent and is_regular(path)


def is_part_name(name: str) -> bool:
    """Whether `part_file` or `part_folder` gives such names."""
    return _TEMPORARY.fullmatch(name) is not None


def is_regular(path: Path) -> bool:
    """Whether there is a regular file under that very name: no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def cut_name(name: str, most: int) -> str:
    """`name` with at most so many bytes, cut between two characters: parts of one are no name on some systems."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    cut = data[:most]
    while cut and data[len(cut)] & 0xC0 == 0x80:  # in the middle of a character
        cut = cut[:-1]
    return os.fsdecode(cut)


# Finishing


def finish_file(part: Path, final: Path, *, replace: bool = True) -> None:
    """Gives `part` the name `final` once its bytes are on the disk.

    Without `replace` a file that has this name by then stays, and FileExistsError is raised. Raises OSError.
    """
    sync_file(part)
    if replace:
        os.replace(part, final)
    else:
        rename_to_free(part, final)
    sync_folder(final.parent)


def rename_to_free(path: Path, final: Path) -> None:
    """Renames a file or folder to a name that nothing may have: FileExistsError otherwise. Raises OSError.

    In one step where the system can, so that nobody's file is lost to a name that was taken meanwhile.
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
    """Gives the folder `part` the name `final` once all of it is on the disk; then removes what was there before.

    Under the name there is one whole folder at every moment where the system can exchange two names (Linux, macOS).
    Elsewhere the old one is set aside first, for the blink between two renames. Raises OSError.
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
        aside.unlink()  # a link that had the name: what it leads to stays
    else:
        shutil.rmtree(aside, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Waits until the bytes of `path` are on the disk. Raises OSError."""
    number = os.open(path, os.O_RDWR | _BINARY)  # Windows flushes only what may be written to
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # what cannot be flushed is no reason to lose it
            raise
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk; systems that cannot open folders go without."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sync_tree(folder: Path) -> None:
    """`sync_file` and `sync_folder` for everything in `folder`; links are not followed. Raises OSError."""
    for above, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(above, name)
            if stat.S_ISREG(path.lstat().st_mode):
                sync_file(path)
        sync_folder(Path(above))


def _rename(one: Path, other: Path, how: str) -> bool:
    """Renames `one` to `other` with "no replace", or swaps both with "exchange"; False where that is not known here.

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


@contextmanager
def whole_file(path: Path, *, durable: bool = True, replace: bool = True) -> Iterator[Path]:
    """An empty file beside `path` to write to, which becomes `path` at the end; after an error nothing of it is left.

    A link stays one and its target is replaced; what is no file (/dev/stdout) is written to as it is. Not `durable`:
    for one of many files in a folder that is flushed as a whole later, or thrown away. Without `replace` a file that
    has the name by then stays, and FileExistsError is raised. Raises OSError as writing does.
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


# Our own bookkeeping: job notes, journals, settings, logs


def write_state(path: Path, content: str | bytes) -> None:
    """Writes a bookkeeping file of ours whole, and to the disk.

    Raises InputError where something else than a regular file has its name: others may have put a link there.
    """
    _check_state(path)
    part = part_file(path)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        finish_file(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def open_state(path: Path, mode: str) -> IO[Any]:
    """Opens a bookkeeping file of ours: never through a link, never truncated. `mode`: "a", "ab", "r", "rb" or "r+b".

    Text is UTF-8. Raises InputError where something else than a regular file has its name, OSError as open() does.
    """
    flags = {"a": os.O_WRONLY | os.O_APPEND | os.O_CREAT, "r": os.O_RDONLY, "r+": os.O_RDWR}[mode.replace("b", "")]
    _check_state(path)
    number = os.open(path, flags | _NO_FOLLOW | _NO_WAIT | _BINARY, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _no_state(path)
    return os.fdopen(number, mode, encoding=None if "b" in mode else "utf-8")


def _check_state(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise _no_state(path)


def _no_state(path: Path) -> InputError:
    kind = "a link" if path.is_symlink() else "not a regular file"
    return InputError(f"{path} is {kind}, and nothing is written through it", "Remove it, or choose another -o.")


def read_regular(path: Path, *, limit: int, what: str) -> bytes:
    """The bytes of the regular file `path`, which a link may lead to.

    `what` names it in errors ("the bundle's manifest"). Raises InputError for what is missing, is a folder, a FIFO or a
    device, or holds more than `limit` bytes: nothing is waited for, and never more than that is read.
    """
    advice = "Check the path."
    try:
        number = os.open(path, os.O_RDONLY | _NO_WAIT | _BINARY)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {what} {path}: {reason}", advice) from error
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        os.close(number)
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise InputError(f"cannot read {what} {path}: it is {kind}, expected a file", advice)
    with os.fdopen(number, "rb") as file:
        try:
            data = file.read(min(limit, found.st_size) + 1)
        except OSError as error:
            raise InputError(f"cannot read {what} {path}: {error.strerror}", advice) from error
    if len(data) > limit:
        raise InputError(
            f"{what} {path} holds {max(found.st_size, len(data))} bytes, expected at most {limit}",
            "Get a sound copy: it is damaged, or made to do harm.",
        )
    return data


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from working in `folder` meanwhile; InputError when one does already.

    The system lets go of it when the process ends, however that happens. The lock is the file `.lock` in the folder,
    which stays. File systems without locks go without.
    """
    from filelock import FileLock, Timeout  # 30 ms, which --help need not pay

    path = folder / ".lock"
    _check_state(path)
    lock = FileLock(path, timeout=0, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another process is working in {folder}", "Wait for it, or choose another -o.") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise DsmapError(f"cannot lock {folder}: {error.strerror}", "Choose a folder of yours with -o.") from error
    try:
        yield
    finally:
        lock.release()
