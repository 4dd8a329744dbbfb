"""Regular files and their names: what may be read without waiting, and how long a name may be."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from dsmap.errors import InputError

NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its other end
BINARY = getattr(os, "O_BINARY", 0)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file under that very name: no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_own_file(path: Path) -> bool:
    """Whether `path` is a regular file that belongs to this user: no link to one. Windows does not check the owner."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.geteuid())


def open_regular(path: Path) -> BinaryIO | None:
    """The regular file `path`, which a link may lead to, open for reading; None for anything else. Never waits."""
    try:
        number = os.open(path, os.O_RDONLY | NO_WAIT | BINARY)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        return None
    return os.fdopen(number, "rb", buffering=4096)


def read_regular(path: Path, *, limit: int, what: str) -> bytes:
    """The bytes of the regular file `path`, which a link may lead to.

    `what` names it in errors ("the bundle's manifest"). Raises InputError for what is missing, is a folder, a FIFO or a
    device, or holds more than `limit` bytes: nothing is waited for, and never more than that is read.
    """
    advice = "Check the path."
    try:
        number = os.open(path, os.O_RDONLY | NO_WAIT | BINARY)
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


def cut_name(name: str, most: int) -> str:
    """`name` with at most so many bytes, cut between two characters: parts of one are no name on some systems."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    cut = data[:most]
    while cut and data[len(cut)] & 0xC0 == 0x80:  # in the middle of a character
        cut = cut[:-1]
    return os.fsdecode(cut)
