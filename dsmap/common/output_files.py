"""Checks of output paths, before any work: no input is overwritten, nothing is replaced without being asked for."""

import errno
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dsmap.common.atomic import rename_no_replace, sync_folder
from dsmap.common.files import cut_name
from dsmap.errors import DsmapError, InputError

Identity = tuple[int, int] | str
MAX_NAME_BYTES = 255
"""The longest file name, in bytes, that common systems allow."""


def identity(path: Path) -> Identity:
    """A value that is equal for two paths to the same file, through links, hard links and `..`; it need not exist."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(path))
    return (found.st_dev, found.st_ino)


def check_name(path: Path, option: str) -> None:
    """Raises InputError for a path that is too long for the file system, or not valid on it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}: {reason}", f"Choose another name with {option}.") from error


def check_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Iterable[tuple[Path, str]] = (),
    *,
    closed: Iterable[tuple[Path, str]] = (),
    overwrite: bool,
) -> None:
    """Raises InputError unless every file of `outputs` (its option, and its path or None) may be written.

    Whatever `overwrite` says and whatever links lead there, no output may be one of `inputs` (files and folders, each
    with what to call it), replace a file in one of these folders, lie in one of the folders `closed`, be a folder, or
    be the same as another output. Without `overwrite` none may exist already. Anything but a file (/dev/stdout) may
    be written to.
    """
    inputs, closed = list(inputs), list(closed)
    known = {identity(path): name for path, name in inputs}
    taken: dict[Identity, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        check_name(path, option)
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
        if name := _name_of_folder(path, here, inputs, closed):
            raise InputError(f"{option} {path} lies in {name}", f"Choose another place with {option}.")
        if os.path.lexists(path) and not overwrite:
            raise InputError(
                f"{option} {path} exists already", f"Pass --overwrite to replace it, or another name with {option}."
            )
        check_folder_writable(Path(os.path.realpath(path)).parent, option)


def check_folder_writable(folder: Path, option: str) -> None:
    """Raises InputError, naming `option` as the one to change, unless a file can be created in `folder`."""
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist", f"create it, or choose another with {option}")
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions do not say it all: read-only disks, quotas, root
            pass
    except OSError as error:
        # Some systems' own file systems, such as /proc, have folders that take no files, and say ENOENT.
        reason = "it takes no new files" if error.errno == errno.ENOENT else error.strerror or error
        raise InputError(f"cannot write into {folder}: {reason}", f"choose another folder with {option}") from error


def check_run_folder(out: Path) -> None:
    """Raises InputError if the run folder `out`, which need not exist, is a file or cannot be written to."""
    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"cannot write to the run folder {out}: {above} is a file", "Choose another with -o.")
    check_folder_writable(above, "-o")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` leads into `folder`, or to the folder itself."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _name_of_folder(
    path: Path, here: Identity, inputs: Iterable[tuple[Path, str]], closed: Iterable[tuple[Path, str]]
) -> str | None:
    """The folder that `path` must not be written into, as errors name it; None if there is none."""
    for folder, name in closed:
        if is_inside(path, folder):
            return f"{name} {folder}"
    if not path.exists():
        return None
    several = path.stat().st_nlink > 1
    for folder, name in (*inputs, *closed):
        if folder.is_dir() and (is_inside(path, folder) or _leads_to(folder, path, here, several, set())):
            return f"{name} {folder}"
    return None


def _leads_to(folder: Path, path: Path, here: Identity, several: bool, seen: set[Identity]) -> bool:
    """Whether a link in `folder`, at any depth, leads to the file `path` or to a folder above it.

    `here` is the identity of `path`. If it has `several` names (hard links), any of them counts.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            inside, linked = Path(entry), entry.is_symlink()
            if not entry.is_dir():
                if (several or linked) and identity(inside) == here:
                    return True
            elif (linked and is_inside(path, inside)) or (
                _is_new(inside, seen) and _leads_to(inside, path, here, several, seen)
            ):
                return True
    return False


def _is_new(path: Path, seen: set[Identity]) -> bool:
    here = identity(path)
    new = here not in seen
    seen.add(here)
    return new


def numbered(path: Path) -> Iterator[Path]:
    """Yields `path`, then NAME-2, NAME-3 and so on."""
    yield path
    for number in itertools.count(2):
        end = f"-{number}{path.suffix}"
        yield path.with_name(cut_name(path.stem, MAX_NAME_BYTES - len(os.fsencode(end))) + end)


def keep_beside(part: Path, output: Path) -> Path:
    """Renames a finished file or folder, whose own name is taken, to NAME-2 or so; returns where it is then."""
    for path in itertools.islice(numbered(output), 1, 1000):
        try:
            rename_no_replace(part, path)
        except FileExistsError:
            continue
        except OSError:
            break
        sync_folder(path.parent)
        return path
    return part


def naming_error(what: str, part: Path, output: Path, error: OSError) -> DsmapError:
    """The error to raise where `error` kept the finished file `part` (a `what`, such as "video") from being renamed."""
    taken = isinstance(error, FileExistsError)
    reason = "it was created meanwhile" if taken else error.strerror or error
    fact = f"the finished {what} could not be named {output}: {reason}"
    return DsmapError(fact, f"it is complete, and was saved as {keep_beside(part, output)}")
