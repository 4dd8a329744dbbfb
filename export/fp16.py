"""Half precision, made on the torch side: what is computed in half is in the graph, and no backend has a say in it.

Weights of convolutions and matrix products, and so their arithmetic, are in half. The statistics of every norm, the
scales and shifts of AdaIN and layer norm, means over an image and the last sigmoid stay in float32: a variance
overflows half from values of 256 on. Inputs and outputs of the graphs keep their types.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.export.rewrites import MID_GREY, ScaledStem
from dsmap.model.dsmap import DSMAP
from dsmap.model.layers import LayerNorm

# Scales and shifts of a norm, in a module that also holds a convolution's weights.
_OF_NORMS = ("scale", "shift")
# Grey levels less 127.5, over 128: a power of two near the range's half, so that every one of them is exact in half.
_DIVISOR = 128.0


class CentredStem(nn.Module):
    """A `ScaledStem` for half precision: the grey levels are centred before the conv, not by its bias.

    With the centre in the bias, sums of hundreds cancel; half keeps three digits of them.
    """

    def __init__(self, stem: ScaledStem) -> None:
        super().__init__()
        self.stride, self.margin, self.pad_type = stem.stride, stem.margin, stem.pad_type
        self.weight = nn.Parameter(stem.weight * _DIVISOR)
        self.bias = nn.Parameter(stem.bias + stem.weight.sum((1, 2, 3)) * MID_GREY)

    def forward(self, x_nchw: Tensor) -> Tensor:
        centred = (x_nchw - MID_GREY) / _DIVISOR
        return F.conv2d(F.pad(centred, self.margin, self.pad_type), self.weight, self.bias, self.stride)


def to_half(model: DSMAP) -> DSMAP:
    """`model`, as `rewritten` gave it, with the weights of its convolutions and matrix products in half. In place."""
    for encoder in (*model.content_encoders.values(), *model.style_encoders.values()):
        if isinstance(encoder.stem, ScaledStem):
            encoder.stem = CentredStem(encoder.stem)
    for module in model.modules():
        if not isinstance(module, LayerNorm):
            for name, parameter in module.named_parameters(recurse=False):
                if name not in _OF_NORMS:
                    parameter.data = parameter.data.to(torch.float16)
    return model.requires_grad_(False)
