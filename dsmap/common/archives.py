"""Archives of numbers (.npz, .pt) from others: refused where they would grow without bound. A leaf."""

import stat
import zipfile
from pathlib import Path

from dsmap.errors import InputError

MAX_GROWTH = 20  # times the size of the archive; weights hardly get smaller when they are packed
_ALWAYS_FINE = 50_000_000  # bytes


def check_archive(path: Path, what: str, advice: str) -> None:
    """Raises InputError for what is no regular file (a pipe would be waited for), and for a zip file that is a bomb.

    `what` names it in errors. What is no zip file at all is left to its reader.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise InputError(f"cannot read {what} {path}: {getattr(error, 'strerror', error)}", advice) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"cannot read {what} {path}: it is not a regular file", advice)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return
    if size > max(_ALWAYS_FINE, MAX_GROWTH * found.st_size):
        raise InputError(
            f"{what} {path} of {found.st_size} bytes unpacks to {size}", f"It is made to do harm. {advice}"
        )
