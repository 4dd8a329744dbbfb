"""The models that come with the package: folders beside this one's parent, each a bundle."""

from pathlib import Path

from dsmap.runtime.bundle.manifest import MANIFEST

FOLDER = Path(__file__).parents[1] / "models"
DEFAULT_MODEL = "summer-winter"


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{MANIFEST}"))
