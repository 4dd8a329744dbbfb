"""Checkpoint folders: identified by name and content, so that only those of a training are replaced or removed."""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from dsmap.errors import InputError

METADATA = "training.json"
WEIGHTS = ("generators", "ema", "discriminators", "optimizers")
_FILES = frozenset({METADATA, *(f"{name}.safetensors" for name in WEIGHTS)})
_NAME = re.compile(r"\d{8,}")
_LEFT_OVER = re.compile(r"\.\d{8,}(\.[0-9a-f]{8})?\.(part|old)")


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the folder of a complete checkpoint."""
    return (path / METADATA).is_file()


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdecimal() and is_checkpoint(p))


def check_holds_no_training(run: Path) -> None:
    """Raises InputError where a new training would begin in the run folder of another."""
    if list_checkpoints(run / "checkpoints"):
        raise InputError(
            f"{run} already holds a training", "Continue it with --resume auto, or choose another folder with -o."
        )


def check_free_names(folder: Path, first: int, last: int) -> None:
    """Raises InputError if something foreign in `folder` has the name of a step from `first` to `last`."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and first <= int(path.name) <= last and files_in(path) is None:
            raise in_the_way(path)


def removable(folder: Path) -> list[Path]:
    """Leftovers in `folder` of trainings that were killed while writing; never foreign folders."""
    found = []
    for path in folder.iterdir():
        inside = files_in(path)
        # An empty folder named by a number may be foreign.
        half = _NAME.fullmatch(path.name) and not is_checkpoint(path) and inside
        if half or (_LEFT_OVER.fullmatch(path.name) and inside is not None):
            found.append(path)
    return found


def files_in(path: Path) -> list[str] | None:
    """The names in a folder that holds only files of a checkpoint; None for anything else, and for links."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            return None
        with os.scandir(path) as entries:
            inside = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
    except OSError:
        return None
    ours = all(name in _FILES and stat.S_ISREG(mode) for name, mode in inside)
    return [name for name, _mode in inside] if ours else None


def remove(path: Path) -> None:
    """Remove a checkpoint folder and its files; one that holds anything else, or is a link, stays."""
    if files_in(path) is None or not (_NAME.fullmatch(path.name) or _LEFT_OVER.fullmatch(path.name)):
        return
    with suppress(OSError):
        (path / METADATA).unlink(missing_ok=True)  # first: without it the folder is no checkpoint
        for name in _FILES:
            (path / name).unlink(missing_ok=True)
        path.rmdir()


def in_the_way(path: Path) -> InputError:
    return InputError(f"{path} has the name of a checkpoint, but holds other files", "Move it to another folder.")
