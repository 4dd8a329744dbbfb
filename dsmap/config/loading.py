"""Settings from presets, YAML files and `key=value` overrides."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dsmap.common.files import read_regular
from dsmap.config.base import Settings
from dsmap.config.training import TrainConfig
from dsmap.errors import InputError

_MAX_YAML = 100_000  # bytes

SettingsT = TypeVar("SettingsT", bound=Settings)


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("dsmap.presets").iterdir() if p.name.endswith(".yaml")
    )


def load_train_config(
    preset: str = "paper", config_path: Path | None = None, overrides: Iterable[str] = (), **fields: Any
) -> TrainConfig:
    """Load a training configuration: a preset, then a YAML file, then `key=value` overrides, then `fields`.

    Later ones win. `overrides` use dots for nesting ("loss.cycle=3") and YAML for values. `fields` are nested;
    None is ignored.
    Raises InputError for unknown presets, files, keys (with the nearest known one) and values out of range.
    """
    if preset not in preset_names():
        raise InputError(f"no preset named {preset!r}", f"Known presets: {', '.join(preset_names())}.")
    tree = parse_yaml(
        (resources.files("dsmap.presets") / f"{preset}.yaml").read_text(encoding="utf-8"), f"preset {preset}"
    )
    if config_path is not None:
        _merge(tree, read_yaml(config_path, "the settings in"))
    for override in overrides:
        _merge(tree, _parse_override(override))
    _merge(tree, {key: value for key, value in fields.items() if value is not None})
    return parse_settings(TrainConfig, tree, "the training configuration")


def parse_settings(kind: type[SettingsT], tree: Mapping[str, Any], where: str) -> SettingsT:
    """`tree` as settings of type `kind`. Raises InputError naming the key, and the nearest known one if misspelt."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key, known = _whole_key(key, first["input"]), known_keys(kind)
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or difflib.get_close_matches(
                key.rsplit(".", 1)[-1], [name.rsplit(".", 1)[-1] for name in known], n=1, cutoff=0.5
            )
            advice = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}."
            raise InputError(f"unknown key {key!r} in {where}", advice) from error
        message = first["msg"].removeprefix("Value error, ")
        got = f", got {_shortened(first['input'])}" if first["type"] != "value_error" else ""
        raise InputError(
            f"{where}: {key + ': ' if key else ''}{message}{got}", "Correct that value and run again."
        ) from error


def _whole_key(key: str, value: Any) -> str:
    """The key as it was written, where only its first parts are unknown: los.cycle, of which `key` is los."""
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        key = f"{key}.{name}"
    return key


def known_keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every settable key of `kind`, nested ones with dots."""
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; `what` names the file in errors. Raises InputError for anything else."""
    data = read_regular(path, limit=_MAX_YAML, what=what)
    try:
        return parse_yaml(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {what} {path}: {error}", "Save it as UTF-8.") from error


def written_keys(path: Path | None) -> set[str]:
    """The keys of a YAML file of settings, nested ones with dots; none without a file."""

    def keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in tree.items():
            yield from keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]

    return set() if path is None else set(keys(read_yaml(path, "the settings in")))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that YAML holds. Aliases are refused: a few lines of them can expand to more than memory holds."""
    try:
        tree = _load_yaml(text)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where} is not valid YAML: {_shortened(error, str)}", "Correct the file.") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply", "Correct the file.") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(
            f"{where} holds a {type(tree).__name__}, expected keys and values", "Write `key: value` lines."
        )
    return tree


def _load_yaml(text: str) -> Any:
    """See `dsmap.config.plain_yaml`, which needs a package that only training needs."""
    from dsmap.config.plain_yaml import load_yaml

    return load_yaml(text)


def _shortened(value: object, text: Callable[[object], str] = repr, limit: int = 300) -> str:
    line = " ".join(text(value).split())
    return line if len(line) <= limit else f"{line[:limit]} ..."


def override_key(text: str) -> str:
    """The key of a `key=value`."""
    return text.partition("=")[0].strip()


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"--set {text!r} is not KEY=VALUE", "Write it like --set loss.cycle=3.")
    tree: Any = _scalar(value)
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return tree


def _scalar(value: str) -> Any:
    try:
        parsed = _load_yaml(value)
    except (ValueError, OverflowError, RecursionError):
        return value
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
