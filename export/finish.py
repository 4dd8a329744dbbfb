"""What an export changes of the pictures that a finished training gives: detail, contrast, colourfulness."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dsmap.config import ModelConfig, parse_settings
from dsmap.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from dsmap.model import DSMAP

_BRIGHTNESS = (0.299, 0.587, 0.114)  # BT.601
_MOST = 4.0


class Finish(NamedTuple):
    """`sharpen` and `contrast` replace the network's own (`ModelConfig`); `saturation` 1 leaves colours as they are."""

    sharpen: float | None = None
    contrast: Mapping[str | None, float] = {}
    """By domain; None is every domain that is not named."""
    saturation: float = 1.0

    def network(self, config: ModelConfig) -> ModelConfig:
        """`config` with what is replaced. Raises InputError for a value out of range and for an unknown domain."""
        for domain in self.contrast:
            if domain is not None and domain not in config.domains:
                raise InputError(
                    f"--contrast names a domain {domain!r}", f"This model knows {' and '.join(config.domains)}."
                )
        changed: dict[str, Any] = {} if self.sharpen is None else {"sharpen": self.sharpen}
        if self.contrast:
            own = zip(config.domains, config.contrast, strict=True)
            changed["contrast"] = [self.contrast.get(d, self.contrast.get(None, value)) for d, value in own]
        return parse_settings(ModelConfig, config.model_dump() | changed, "the network") if changed else config

    def apply(self, model: "DSMAP") -> None:
        """What is written into the weights. Raises InputError for a value out of range."""
        from dsmap.networks import Decoder

        if not 0 <= self.saturation <= _MOST:
            raise InputError(
                f"--saturation is {self.saturation:g}", f"Pass 0 (grey) to {_MOST:g}; 1 leaves colours as they are."
            )
        for decoder in model.decoders.values():
            assert isinstance(decoder, Decoder)
            saturate(decoder.tail, self.saturation)


def parse_contrast(texts: Sequence[str]) -> dict[str | None, float]:
    """FACTOR and DOMAIN:FACTOR, as `Finish.contrast`. Raises InputError for a text that is neither."""
    found: dict[str | None, float] = {}
    for text in texts:
        domain, _, factor = text.rpartition(":")
        try:
            found[domain or None] = float(factor)
        except ValueError:
            raise InputError(f"--contrast {text!r} is no number", "Write it like 1.1 or winter:1.1.") from None
    return found


def saturate(tail: "nn.Conv2d", amount: float) -> None:
    """The last conv of a decoder gives colours `amount` times as far from grey of the same brightness, before the tanh.

    Its channels are those of red, then of green, then of blue.
    """
    import torch

    assert tail.bias is not None
    brightness = torch.tensor(_BRIGHTNESS).to(tail.weight)
    mix = amount * torch.eye(3).to(tail.weight) + (1 - amount) * brightness.expand(3, 3)
    with torch.no_grad():
        for parameter in (tail.weight, tail.bias):
            parameter.copy_(torch.tensordot(mix, parameter.unflatten(0, (3, -1)), 1).flatten(0, 1))
