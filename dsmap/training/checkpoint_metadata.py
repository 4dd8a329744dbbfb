"""Validation of a checkpoint's training.json: every number, name and list has limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dsmap.common.strict_json import read_json
from dsmap.common.text import printable
from dsmap.config import MAX_STEPS, MAX_STYLE_AXES, MAX_WIDTH, TrainConfig, parse_settings
from dsmap.errors import InputError

FORMAT_VERSION = 1
_MAX_BYTES = 16_000_000
_ANOTHER = "Use another checkpoint of the run."


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Styles(_StrictModel):
    mean: list[float] = Field(max_length=MAX_WIDTH)
    std: list[Annotated[float, Field(ge=0)]] = Field(max_length=MAX_WIDTH)
    pictures: int = Field(ge=0)
    axes: list[Annotated[list[float], Field(max_length=MAX_WIDTH)]] = Field(default=[], max_length=MAX_STYLE_AXES)


class _Data(_StrictModel):
    pictures: int = Field(ge=0)
    sha256: str = Field(max_length=64)


class _Score(_StrictModel):
    features: str = Field(max_length=300)
    basis: str = Field(max_length=64)
    by_domain: dict[str, float] = Field(max_length=2)


class Metadata(_StrictModel):
    """The content of training.json."""

    format_version: int = Field(ge=1)
    step: int = Field(ge=0, le=MAX_STEPS)
    config: dict[str, Any]
    styles: dict[str, _Styles]
    pictures: dict[str, Annotated[list[str], Field(max_length=100_000)]]
    data: dict[str, _Data] = {}
    processes: int = Field(default=1, ge=1, le=1_000_000)
    score: _Score | None = None
    polished: dict[str, Any] | None = None
    distilled: dict[str, Any] | None = None


def read_metadata(path: Path) -> tuple[Metadata, TrainConfig]:
    """Read a checkpoint's training.json and its settings. Raises InputError naming the first invalid entry."""
    tree = read_json(path, limit=_MAX_BYTES, what="the checkpoint's", advice=_ANOTHER)
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{path.parent} has checkpoint format {version}; this dsmap reads up to {FORMAT_VERSION}", "Update dsmap."
        )
    try:
        found = Metadata.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = printable(".".join(str(part)[:60] for part in first["loc"]))
        raise InputError(f"{path}: {place + ': ' if place else ''}{first['msg']}", _ANOTHER) from error
    config = parse_settings(TrainConfig, found.config, f"{path}")
    _check_domains(found, config, path)
    return found, config


def _check_domains(found: Metadata, config: TrainConfig, where: Path) -> None:
    """Raises InputError unless everything is of the two domains, and styles have the network's length."""
    names, length = config.model.domains, config.model.style_dim
    of_domains: dict[str, Mapping[str, Any]] = {"styles": found.styles, "pictures": found.pictures, "data": found.data}
    if found.score:
        of_domains["score.by_domain"] = found.score.by_domain
    for key, tree in of_domains.items():
        if set(tree) != set(names) and (tree or key == "styles"):
            got = ", ".join(name[:60] for name in list(tree)[:3]) or "nothing"
            raise InputError(f"{where}: {key} is of {got}, expected {', '.join(names)}", _ANOTHER)
    for domain, styles in found.styles.items():
        if wrong := [len(axis) for axis in styles.axes if len(axis) != length]:
            raise InputError(f"{where}: an axis of styles.{domain} has {wrong[0]} numbers, expected {length}", _ANOTHER)
        if not len(styles.mean) == len(styles.std) == length:
            raise InputError(
                f"{where}: styles.{domain} has {len(styles.mean)} means and {len(styles.std)} deviations, "
                f"expected {length}",
                _ANOTHER,
            )
