"""What an export changes of the images that a finished training gives: detail, contrast and their edges."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dsmap.config import ModelConfig, parse_settings
from dsmap.errors import InputError
from dsmap.training.datasets import check_named_domains


class OutputAdjustments(NamedTuple):
    """`sharpen`, `contrast` and `margin` replace the network's own (`ModelConfig`)."""

    sharpen: float | None = None
    contrast: Mapping[str | None, float] = {}
    """By domain; None is every domain that is not named."""
    margin: int | None = None

    def apply(self, config: ModelConfig) -> ModelConfig:
        """`config` with what is replaced. Raises InputError for a value out of range and for an unknown domain."""
        check_named_domains("--contrast", (d for d in self.contrast if d is not None), config.domains)
        single = {"sharpen": self.sharpen, "margin": self.margin}
        changed: dict[str, Any] = {name: value for name, value in single.items() if value is not None}
        if self.contrast:
            own = zip(config.domains, config.contrast, strict=True)
            changed["contrast"] = [self.contrast.get(d, self.contrast.get(None, value)) for d, value in own]
        return parse_settings(ModelConfig, config.model_dump() | changed, "the network") if changed else config


def parse_contrast(texts: Sequence[str]) -> dict[str | None, float]:
    """FACTOR and DOMAIN:FACTOR, as `OutputAdjustments.contrast`. Raises InputError for a text that is neither."""
    found: dict[str | None, float] = {}
    for text in texts:
        domain, colon, factor = text.rpartition(":")
        name = domain if colon else None
        try:
            value = float(factor)
        except ValueError:
            raise InputError(f"--contrast {text!r} is no number", "Write it like 1.1 or winter:1.1.") from None
        if name in found:
            raise InputError(f"--contrast is given twice for {name or 'all domains'}", "Give it once.")
        found[name] = value
    return found
