"""Checks whether models may be written to a repository. Light: nothing heavy is imported."""

import os
import re
from pathlib import Path

from dsmap.common.files import is_regular
from dsmap.common.output_files import check_folder_writable, check_name
from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.export.bundle_folder import check_bundle_folder
from dsmap.runtime.triton.interface import BUNDLE, BUNDLE_FOLDER, MAX_BATCH

CONFIG = "config.pbtxt"
WARM_UP = "warmup"
"""Folder of a model: what it translates before it is ready."""
_OPTION = "--triton"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_repository(repository: Path, name: str) -> None:
    """Raises InputError unless models called `name` can be written to the folder `repository`, which need not exist."""
    check_name(repository, _OPTION)
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise InputError(
            f"the model's name {printable(name[:100])!r} cannot be a folder's and a part of an address",
            "Pass --name with letters, digits, '-', '_' and '.'.",
        )
    above = next(path for path in (repository, *repository.parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"{_OPTION} {repository}: {above} is a file", "Pass the name of a folder.")
    check_folder_writable(above, _OPTION)
    for inside in (repository / CONFIG, repository / "bundle.json"):
        if inside.exists():
            what = "a model" if inside.name == CONFIG else "a bundle"
            raise InputError(f"{_OPTION} {repository} is {what}, not a model repository", "Pass the folder for models.")


def check_max_batch(max_batch: int) -> None:
    """Raises InputError for a largest batch that no server could use."""
    if not 1 <= max_batch <= MAX_BATCH:
        raise InputError(f"--max-batch {max_batch} is not a number of frames", f"Use 1 to {MAX_BATCH}, such as 8.")


def check_model_folder(folder: Path, *, overwrite: bool) -> None:
    """Raises InputError unless the model `folder` may be written: nothing but a model of dsmap's is ever replaced."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir() or f'"{BUNDLE}"' not in _text(folder / CONFIG):
        raise InputError(
            f"{folder} exists and is not a model that dsmap has written", "Choose another --triton, or pass --name."
        )
    if not overwrite:
        raise InputError(f"{folder} exists", "Pass --overwrite to replace it, or choose another name with --name.")
    if foreign := _foreign(folder):
        raise InputError(
            f"{folder} holds {foreign}, which is not part of the model and would be lost", "Move it somewhere else."
        )
    check_bundle_folder(folder / "1" / BUNDLE_FOLDER, overwrite=True, option=_OPTION)


def _text(config: Path) -> str:
    try:
        return config.read_text(encoding="utf-8") if is_regular(config) else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _foreign(folder: Path) -> str | None:
    """Something in a model's folder that was not written with it; None if there is nothing."""
    own = {
        "": {CONFIG, "1", WARM_UP},
        "1": {"model.py", "model.onnx", "model.plan", BUNDLE_FOLDER, "__pycache__"},
        WARM_UP: {"domain-0", "domain-1"},
    }
    for inside, names in own.items():
        for path in sorted((folder / inside).glob("*")):
            if path.name not in names:
                return path.relative_to(folder).as_posix()
    return None
