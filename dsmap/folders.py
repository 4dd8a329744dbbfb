"""Folders that can be written to; folders and files that appear whole or not at all. A leaf: every part may use it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsmap.errors import InputError


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


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` at the end; after an error nothing of it is left.

    A link stays one, and what is no file (/dev/stdout) is written to as it is. Raises OSError as writing does.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    final = Path(os.path.realpath(path))
    beside = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(final)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def replace_folder(part: Path, final: Path) -> None:
    """Renames `part` to `final`; what was there is set aside first and removed last, so one of both always exists."""
    if not final.exists():
        os.replace(part, final)
        return
    aside = final.with_name(f".{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(final, aside)
    os.replace(part, final)
    shutil.rmtree(aside, ignore_errors=True)


def check_run_folder(out: Path) -> None:
    """Raises InputError when the run's folder `out` is a file or cannot be written to; it is made later."""
    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"cannot write to the run folder {out}: {above} is a file", "Choose another with -o.")
    check_folder_writable(above, "-o")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from working in `folder` meanwhile; InputError when one does already.

    The system lets go of it when the process ends, however that happens. Systems without such locks go without.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another process is working in {folder}", "Wait for it, or choose another -o.") from error
        except OSError:  # a file system that has no locks
            pass
        yield
