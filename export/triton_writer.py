"""Writes the folder of a model in the repository of a Triton Inference Server, whole or not at all."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dsmap.common.atomic import rename_no_replace, replace_folder, sync_folder, sync_tree
from dsmap.common.output_files import is_inside
from dsmap.common.part_files import part_folder
from dsmap.errors import DsmapError, InputError
from dsmap.export.triton_folder import check_model_folder, check_repository
from dsmap.runtime.bundle.bundle import Bundle


def checked_repository(repository: Path, name: str, bundle: Bundle) -> Path:
    """The absolute path of a repository that takes models called `name`. Raises InputError where it cannot."""
    repository = Path(os.path.abspath(repository))
    check_repository(repository, name)
    if is_inside(repository, bundle.folder):
        raise InputError(f"--triton {repository} is in the bundle {bundle.folder}", "Choose another folder.")
    return repository


def write_model_folder(folder: Path, fill: Callable[[Path], None], *, overwrite: bool) -> int:
    """Writes the model `folder`; its size in bytes. `fill` gets a path of the same name, to be created by it.

    Raises InputError as `check_model_folder`, DsmapError when a file cannot be written: there is nothing new then.
    """
    around: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        around = _temporary(folder)
        part = around / folder.name
        fill(part)
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        sync_tree(part)
        _publish(part, folder, overwrite=overwrite)
        return size
    except OSError as error:
        raise DsmapError(
            f"cannot write the model {folder}: {error}", "Free disk space or choose another --triton."
        ) from error
    finally:
        if around is not None:
            shutil.rmtree(around, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    """A new folder to make the model `folder` in, on the same disk.

    Beside the repository where that can be: a server that polls takes every folder in it for a model, hidden ones too.
    In it, there is a folder more around the model, without which the server would load what is half written.
    """
    repository = Path(os.path.realpath(folder.parent))
    with suppress(OSError):
        if repository.stat().st_dev == repository.parent.stat().st_dev:
            return part_folder(repository)
    return part_folder(folder)


def _publish(part: Path, folder: Path, *, overwrite: bool) -> None:
    check_model_folder(folder, overwrite=overwrite)
    if folder.is_dir():
        replace_folder(part, folder)
        return
    try:
        rename_no_replace(part, folder)
    except FileExistsError as error:
        raise InputError(f"{folder} was made by another program meanwhile", "Run it again.") from error
    sync_folder(folder.parent)
