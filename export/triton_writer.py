"""Writes the folder of a model in the repository of a Triton Inference Server, whole or not at all."""

import os
import shutil
from collections.abc import Callable, Mapping
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


def write_model_folders(fills: Mapping[Path, Callable[[Path], None]], *, overwrite: bool) -> dict[Path, int]:
    """Writes models, folders of one repository, in their order; gives their sizes in bytes.

    `fills`: what makes each; it gets a path of the same name, to be created by it. All are made before the first
    appears. Raises InputError as `check_model_folder`, DsmapError when a file cannot be written: nothing is new then.
    """
    around: Path | None = None
    folder, *_ = fills
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        around = _temporary(folder)
        sizes = {}
        for folder, fill in fills.items():
            part = around / folder.name
            fill(part)
            sizes[folder] = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
            sync_tree(part)
        for folder in fills:
            check_model_folder(folder, overwrite=overwrite)
        for folder in fills:
            _publish(around / folder.name, folder, overwrite=overwrite)
        return sizes
    except OSError as error:
        raise DsmapError(
            f"cannot write the model {folder}: {error}", "Free disk space or choose another --triton."
        ) from error
    finally:
        if around is not None:
            shutil.rmtree(around, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    """A new folder to make the model `folder` and others in, on the same disk.

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
