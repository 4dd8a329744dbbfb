"""Temporary files and folders beside the final ones, to be renamed once they are complete."""

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from dsmap.common.files import cut_name, is_regular

_MAX_STEM = 60  # bytes of the final name that a temporary name repeats: it must fit where the final one does
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.part(\.[^.]+)?", re.DOTALL)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def part_file(final: Path, tag: str = "part") -> Path:
    """Creates an empty hidden file beside `final`, with a random name and the same suffix.

    It is created with O_EXCL, so that no link or existing file is ever opened. Raises OSError.
    """
    for _ in range(100):
        path = final.with_name(_part_name(final, tag))
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_FOLLOW, 0o666))
            return path
    raise FileExistsError(errno.EEXIST, "no free name for a temporary file", str(final))


def part_folder(final: Path, tag: str = "part") -> Path:
    """Creates an empty hidden folder beside `final`, as `part_file` does. Raises OSError."""
    for _ in range(100):
        path = final.with_name(_part_name(final, tag))
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise FileExistsError(errno.EEXIST, "no free name for a temporary folder", str(final))


def is_part_of(path: Path, final: Path) -> bool:
    """Whether `path` is a regular file with a name that `part_file` gives for `final`."""
    begin, end = _ends_of_parts(final)
    named = re.fullmatch(rf"{re.escape(begin)}[0-9a-f]{{8}}\.part{re.escape(end)}", path.name) is not None
    return named and path.parent == final.parent and is_regular(path)


def is_part_name(name: str) -> bool:
    """Whether `name` looks like one from `part_file` or `part_folder`."""
    return _TEMPORARY.fullmatch(name) is not None


def _part_name(final: Path, tag: str) -> str:
    begin, suffix = _ends_of_parts(final)
    return f"{begin}{secrets.token_hex(4)}.{tag}{suffix}"


def _ends_of_parts(final: Path) -> tuple[str, str]:
    """How the names of temporary files for `final` begin and end."""
    suffix = final.suffix if len(os.fsencode(final.suffix)) <= 16 else ""
    return f".{cut_name(final.stem, _MAX_STEM)}.", suffix
