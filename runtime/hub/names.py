"""Which texts mean a model of the Hub: addresses, and names that stand for one."""

import os
from pathlib import Path

from dsmap.runtime.bundle.package_models import bundled_models
from dsmap.runtime.hub.address import is_address
from dsmap.runtime.hub.registry import known_models


def is_hub_model(model: str | Path) -> bool:
    """Whether `model` is one of the Hub: by its address, or by a name that stands for one."""
    return is_address(model) or (not is_path(model) and str(model) in _names_on_the_hub())


def all_known_names() -> list[str]:
    """The bundled models, then those of the Hub that have a name."""
    return bundled_models() + _names_on_the_hub()


def is_path(model: str | Path) -> bool:
    """Whether it is a path, or looks like one. os.path's: Path's own raises for too long names and for a NUL."""
    return bool(str(model)) and (os.path.exists(model) or os.sep in str(model) or os.path.isabs(model))


def _names_on_the_hub() -> list[str]:
    return [name for name, model in known_models().items() if model.address is not None]
