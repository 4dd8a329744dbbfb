"""Keeps what an administrator has changed in the `config.pbtxt` of a model that is written again.

The last line of a configuration is a checksum of what is not theirs to change: so other changes are noticed.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from dsmap.errors import InputError
from dsmap.runtime.triton import interface as served

_NAMES = (served.BACKEND, served.PRECISION, served.TRUST_ENGINES, served.MAX_MEGAPIXELS)
_PARAMETER = re.compile(
    rf'^parameters\s*\{{\s*key\s*:\s*"({"|".join(_NAMES)})"\s*value\s*:?\s*'
    r'\{\s*string_value\s*:\s*"((?:[^"\\\n]|\\.)*)"\s*\}\s*\}',
    re.MULTILINE,
)
_INSTANCES = re.compile(r"^instance_group\s*\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", re.MULTILINE)
_CHECKSUM = "# The checksum of all else: "


class KeptConfig(NamedTuple):
    """A configuration to write."""

    text: str
    kept: tuple[str, ...]
    """What is as the administrator has changed it: names of parameters, instance_group."""


def config_to_write(config: Path, text: str) -> KeptConfig:
    """`text` for the file `config`, with the parameters and the instances that an administrator has set there.

    Raises InputError if anything else was changed there: that would be lost.
    """
    kept: list[str] = []
    if config.exists():
        before = config.read_text(encoding="utf-8")
        _check_unchanged(config, before)
        text, kept = _with_changes(text, before)
    return KeptConfig(f"{text}\n{_CHECKSUM}{_checksum(text)}\n", tuple(kept))


def _check_unchanged(config: Path, before: str) -> None:
    text, _, checksum = before.rpartition(_CHECKSUM)
    if checksum.strip() != _checksum(text):
        raise InputError(
            f"{config} was changed in more than --overwrite keeps: {', '.join(_NAMES)} and instance_group",
            "Note your changes and remove the model's folder; make them again after the export.",
        )


def _checksum(text: str) -> str:
    """Of a configuration without what is the administrator's to change."""
    rest = _INSTANCES.sub("instance_group", _PARAMETER.sub(r"\1", text))
    lines = [line.rstrip() for line in rest.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _with_changes(text: str, before: str) -> tuple[str, list[str]]:
    """`text` with what was set in `before`, and the names of what differed."""
    values = {found[1]: found[2] for found in _PARAMETER.finditer(before)}
    if instances := _INSTANCES.search(before):
        values["instance_group"] = instances[1]
    kept: list[str] = []

    def put(found: re.Match[str]) -> str:
        group = found.re.groups  # the value is the last
        name = found[1] if group == 2 else "instance_group"
        value = values.get(name, found[group])
        if value != found[group]:
            kept.append(name)
        start, end = (place - found.start() for place in found.span(group))
        return f"{found[0][:start]}{value}{found[0][end:]}"

    return _INSTANCES.sub(put, _PARAMETER.sub(put, text)), kept
