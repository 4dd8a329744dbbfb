"""Regular files: opening and reading them, as opposed to links, pipes and devices; and shortening names."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from dsmap.errors import InputError

NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not wait for its other end
BINARY = getattr(os, "O_BINARY", 0)


def is_regular(path: Path) -> bool:
    """Whether `path` itself is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_own_file(path: Path) -> bool:
    """Whether `path` itself is a regular file of this user's, not a link to one. On Windows any owner will do."""
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
    """The bytes of the regular file `path`, which may be a link to one.

    `what` names it in errors ("the bundle's manifest"). Raises InputError if it is missing, a folder, a FIFO or a
    device, or larger than `limit` bytes. Never waits, and never reads more than `limit` bytes.
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
            "Get an intact copy: it is damaged, or malicious.",
        )
    return data


def cut_name(name: str, most: int) -> str:
    """`name` cut to at most `most` bytes, between two characters: some systems reject names that end inside one."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    cut = data[:most]
    while cut and data[len(cut)] & 0xC0 == 0x80:  # in the middle of a character
        cut = cut[:-1]
    return os.fsdecode(cut)
