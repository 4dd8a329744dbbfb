"""Converts networks to half precision in torch, so that the graph and not the backend decides what is float16.

Convolutions and matrix products are float16. Statistics of norms, scales and shifts of AdaIN and layer norm, means over
an image and the last sigmoid stay float32: a variance overflows float16 from values of 256 on. Inputs and outputs of
the graphs keep their types.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.export.rewrites import MID_GREY, ScaledStem, Styled
from dsmap.model.layers import LayerNorm

# Scales and shifts of a norm, in a module that also holds the weights of a convolution.
_NORM_PARAMETERS = ("scale", "shift")
# Centred grey levels are divided by a power of two near half their range: all of them are exact in float16.
_DIVISOR = 128.0


class CentredStem(nn.Module):
    """A `ScaledStem` for half precision: grey levels are centred before the convolution, not by its bias.

    A bias would have to cancel sums in the hundreds, of which float16 keeps three digits.
    """

    def __init__(self, stem: ScaledStem) -> None:
        super().__init__()
        self.stride, self.margin, self.pad_type = stem.stride, stem.margin, stem.pad_type
        self.weight = nn.Parameter(stem.weight * _DIVISOR)
        self.bias = nn.Parameter(stem.bias + stem.weight.sum((1, 2, 3)) * MID_GREY)

    def forward(self, x_nchw: Tensor) -> Tensor:
        centred = (x_nchw - MID_GREY) / _DIVISOR
        return F.conv2d(F.pad(centred, self.margin, self.pad_type), self.weight, self.bias, self.stride)


def to_half(model: Styled) -> Styled:
    """Converts the weights of convolutions and matrix products of a `rewritten` model to float16, in place."""
    half_stem(model.content_encoders)
    half_stem(model.style_encoders)
    convolutions_to_half(model)
    return model


def half_stem(encoders: nn.ModuleDict) -> None:
    """Makes first convolutions on grey levels exact in half precision, in place."""
    for encoder in encoders.values():
        if isinstance(encoder.stem, ScaledStem):
            encoder.stem = CentredStem(encoder.stem)


def convolutions_to_half(model: nn.Module) -> None:
    """Converts the weights of convolutions and matrix products to float16, in place."""
    for module in model.modules():
        if not isinstance(module, LayerNorm):
            for name, parameter in module.named_parameters(recurse=False):
                if name not in _NORM_PARAMETERS:
                    parameter.data = parameter.data.to(torch.float16)
    model.requires_grad_(False)
