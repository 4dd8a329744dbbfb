"""Finding a model: by a name that dsmap knows, by an address on the Hugging Face Hub, or by the path of a bundle."""

import os
from pathlib import Path

from dsmap.errors import InputError
from dsmap.runtime.bundle.manifest import MANIFEST

_FOLDER = Path(__file__).parents[1] / "models"
DEFAULT_MODEL = "summer-winter"


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _FOLDER.glob(f"*/{MANIFEST}"))


def find_model(model: str | Path) -> Path:
    """The folder of a bundle: `model` is a known model's name, `hf:owner/name[@revision]`, or a path.

    A model of the Hub comes from the user's cache; it is pulled first, with a line in the log, where it is not there.
    A bundled name wins over a folder of that name in the working directory (./NAME means the folder), and the folder
    over a name that stands for a model of the Hub. Raises InputError, which lists the known names, for anything else,
    and as `pull` does.
    """
    if str(model) in bundled_models():
        return _FOLDER / str(model)
    if is_hub_model(model):
        from dsmap.runtime.hub.models import hub_folder  # which needs httpx2 in the end, and is rarely wanted

        return hub_folder(str(model))
    if _is_path(model):
        return Path(model)
    known = ", ".join(_known_names()) or "none"
    raise InputError(
        f"no model or bundle named {str(model)[:200]!r}",
        f"Known models: {known}. Or pass hf:OWNER/NAME, or the path of a bundle.",
    )


def is_model_name(model: str | Path) -> bool:
    """Whether `model` names a model that is not a folder of the user's: a known one, or one of the Hub."""
    return str(model) in bundled_models() or is_hub_model(model)


def is_hub_model(model: str | Path) -> bool:
    """Whether `model` is one of the Hub: by its address, or by a name that stands for one."""
    from dsmap.runtime.hub.address import is_address

    return is_address(model) or (not _is_path(model) and str(model) in _known_names()[len(bundled_models()) :])


def as_model(folder: Path) -> str:
    """How `folder` is written so that `find_model` takes it for a folder, not for the known model of its name."""
    return f".{os.sep}{folder}" if is_model_name(folder) else str(folder)


def _is_path(model: str | Path) -> bool:
    """Whether it is a path, or looks like one. os.path's: Path's own raises for too long names and for a NUL."""
    return bool(str(model)) and (os.path.exists(model) or os.sep in str(model) or os.path.isabs(model))


def _known_names() -> list[str]:
    """The bundled models, then those of the Hub that have a name."""
    from dsmap.runtime.hub.registry import known_models

    return bundled_models() + [name for name, model in known_models().items() if model.address is not None]
