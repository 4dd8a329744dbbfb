"""Finding a model: by the name of one that comes with the package, or by the path of a bundle."""

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
    """The folder of a bundle: `model` is a bundled model's name, or a path; InputError lists the known names.

    A bundled name wins over a folder of that name in the working directory: ./NAME means the folder.
    """
    if str(model) in bundled_models():
        return _FOLDER / str(model)
    path = Path(model)
    # os.path's, as Path's own raises for a name that is too long or holds a NUL.
    if (os.path.exists(path) and str(model)) or os.sep in str(model) or path.is_absolute():
        return path
    known = ", ".join(bundled_models()) or "none"
    raise InputError(
        f"no model or bundle named {str(model)[:200]!r}", f"Bundled models: {known}. Or pass the path of a bundle."
    )


def as_model(folder: Path) -> str:
    """How `folder` is written so that `find_model` takes it for a folder, not for the bundled model of its name."""
    return f".{os.sep}{folder}" if str(folder) in bundled_models() else str(folder)
