"""The gate for every path that a command writes: told before any work, so that nothing of the user's is replaced."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dsmap.common.files import check_folder_writable
from dsmap.errors import InputError

Identity = tuple[int, int] | str


def identity(path: Path) -> Identity:
    """Equal for two paths that lead to the same file, over hard links, links and `..` too; it need not exist yet."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(path))
    return (found.st_dev, found.st_ino)


def check_name(path: Path, option: str) -> None:
    """Raises InputError for a path that is too long for the file system, or cannot be one."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}: {reason}", f"Choose another name with {option}.") from error


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Iterable[tuple[Path, str]] = (), *, overwrite: bool
) -> None:
    """Raises InputError unless every file of `outputs` (its option, and its path or None) may be written.

    None of them may be one of `inputs` (each with what to call it),
    the same as another output, a folder, or, without `overwrite`, exist already. What is no file (/dev/stdout) may.
    """
    known = {identity(path): name for path, name in inputs}
    taken: dict[Identity, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        here = identity(path)
        if name := known.get(here):
            raise InputError(f"{option} {path} is {name}", f"Choose another name with {option}.")
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder", "Pass a file's name.")
        if other := taken.get(here):
            raise InputError(f"{other} and {option} both name {path}", "Give one of them another name.")
        taken[here] = option
        if path.exists() and not path.is_file():
            continue
        if os.path.lexists(path) and not overwrite:
            raise InputError(
                f"{option} {path} exists already", "Pass --overwrite to replace it, or choose another name."
            )
        check_folder_writable(Path(os.path.realpath(path)).parent, option)
