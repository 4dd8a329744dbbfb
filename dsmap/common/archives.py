"""Checks of archives of arrays (.npz, .pt) before they are read: zip bombs are refused."""

import stat
import zipfile
from pathlib import Path

from dsmap.errors import InputError

MAX_GROWTH = 20  # times the size of the archive; weights hardly compress
_ALWAYS_ALLOWED = 50_000_000  # bytes


def check_archive(path: Path, what: str, advice: str) -> None:
    """Raises InputError for anything but a regular file (reading a pipe would wait), and for a zip bomb.

    `what` names it in errors. A file that is not a zip archive is left to its reader.
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
    if size > max(_ALWAYS_ALLOWED, MAX_GROWTH * found.st_size):
        raise InputError(f"{what} {path} of {found.st_size} bytes unpacks to {size}", f"It may be malicious. {advice}")
