"""Finding a model: by a name that dsmap knows, by an address on the Hugging Face Hub, or by the path of a bundle."""

import os
from pathlib import Path

from dsmap.errors import InputError
from dsmap.runtime.bundle.package_models import DEFAULT_MODEL as DEFAULT_MODEL
from dsmap.runtime.bundle.package_models import FOLDER
from dsmap.runtime.bundle.package_models import bundled_models as bundled_models
from dsmap.runtime.hub.names import all_known_names, is_path
from dsmap.runtime.hub.names import is_hub_model as is_hub_model


def find_model(model: str | Path) -> Path:
    """The folder of a bundle: `model` is a known model's name, `hf:owner/name[@revision]`, or a path.

    A model of the Hub comes from the user's cache; it is pulled first, with a line in the log, where it is not there.
    A bundled name wins over a folder of that name in the working directory (./NAME means the folder), and the folder
    over a name that stands for a model of the Hub. Raises InputError, which lists the known names, for anything else,
    and as `pull` does.
    """
    if str(model) in bundled_models():
        return FOLDER / str(model)
    if is_hub_model(model):
        from dsmap.runtime.hub.models import hub_folder  # which needs httpx2 in the end, and is rarely wanted

        return hub_folder(str(model))
    if is_path(model):
        return Path(model)
    known = ", ".join(all_known_names()) or "none"
    raise InputError(
        f"no model or bundle named {str(model)[:200]!r}",
        f"Known models: {known}. Or pass hf:OWNER/NAME, or the path of a bundle.",
    )


def is_model_name(model: str | Path) -> bool:
    """Whether `model` names a model that is not a folder of the user's: a known one, or one of the Hub."""
    return str(model) in bundled_models() or is_hub_model(model)


def as_model(folder: Path) -> str:
    """How `folder` is written so that `find_model` takes it for a folder, not for the known model of its name."""
    return f".{os.sep}{folder}" if is_model_name(folder) else str(folder)
