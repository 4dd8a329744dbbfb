"""Adjusts the output of a trained network: sharpness, contrast and a margin against border artefacts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dsmap.config import ModelConfig, parse_settings
from dsmap.errors import InputError
from dsmap.training.datasets import check_named_domains


class OutputAdjustments(NamedTuple):
    """Values that replace those of a network (`ModelConfig`)."""

    sharpen: float | None = None
    contrast: Mapping[str | None, float] = {}
    """By domain; None stands for every domain that is not named."""
    margin: int | None = None

    def apply(self, config: ModelConfig) -> ModelConfig:
        """`config` with the values replaced. Raises InputError for a value out of range and for an unknown domain."""
        check_named_domains("--contrast", (d for d in self.contrast if d is not None), config.domains)
        single = {"sharpen": self.sharpen, "margin": self.margin}
        changed: dict[str, Any] = {name: value for name, value in single.items() if value is not None}
        if self.contrast:
            own = zip(config.domains, config.contrast, strict=True)
            changed["contrast"] = [self.contrast.get(d, self.contrast.get(None, value)) for d, value in own]
        return parse_settings(ModelConfig, config.model_dump() | changed, "the network") if changed else config


def parse_contrast(texts: Sequence[str]) -> dict[str | None, float]:
    """Parses FACTOR and DOMAIN:FACTOR into `OutputAdjustments.contrast`. Raises InputError for anything else."""
    found: dict[str | None, float] = {}
    for text in texts:
        domain, colon, factor = text.rpartition(":")
        name = domain if colon else None
        try:
            value = float(factor)
        except ValueError:
            raise InputError(f"--contrast {text!r} is not a number", "Write it like 1.1 or winter:1.1.") from None
        if name in found:
            raise InputError(f"--contrast is given twice for {name or 'all domains'}", "Give it once.")
        found[name] = value
    return found
