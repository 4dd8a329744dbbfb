"""Initialisation of generators that reproduce their input sharply, in normalised colours.

A training from random weights spends most of its time on learning to reproduce the input. Networks whose content can
hold every pixel can start there: the training then changes only what the domains differ in.
"""

import torch
from torch import Tensor, nn

from dsmap.config import ModelConfig
from dsmap.model.dsmap import DSMAP
from dsmap.model.layers import LayerNorm
from dsmap.model.networks import ContentEncoder, Decoder, DomainMapping, StyleMLP

_FAINT = 0.1  # weight of the shared content beside the skip at the start
_CONTRAST = 0.5  # tanh(0.5 z) of an image normalised to z: about the spread of photographs


@torch.no_grad()
def start_as_identity(model: DSMAP) -> None:
    """Set the weights of every generator that pass the image through; the others stay as they are.

    Every value of a block of pixels becomes two channels of the skip, one for its positive and one for its negative
    part, as ReLUs follow. The mapping gathers four blocks into the channels of one position, the decoder's residual
    blocks start with branches of 0, and the upsampling restores the blocks. Images come out normalised by their own
    mean and deviation: colours and contrast are left to the style.

    Raises ValueError for other networks (`ModelConfig.can_hold_every_pixel`).
    """
    if not model.config.can_hold_every_pixel:
        raise ValueError("the content of this network cannot hold every pixel")
    for part in model.modules():
        if isinstance(part, ContentEncoder):
            _split_signs(part.stem, model.config.patch)
        elif isinstance(part, DomainMapping):
            part.up_norm.weight.mul_(_FAINT)
            _gather(part.down, part.down_norm, _values(model.config))
        elif isinstance(part, StyleMLP):
            _silence_second_norms(part)
        elif isinstance(part, Decoder):
            _put_back(part, _values(model.config))


def _values(config: ModelConfig) -> int:
    """Number of values in a block of pixels."""
    return 3 * config.patch**2


def _split_signs(stem: nn.Conv2d, patch: int) -> None:
    """Channels k and values + k: a block's value k, and its negative."""
    values = 3 * patch**2
    stem.weight[: 2 * values] = 0
    for k in range(values):
        colour, pixel = divmod(k, patch**2)
        row, column = divmod(pixel, patch)
        stem.weight[k, colour, patch + row, patch + column] = 1
        stem.weight[values + k, colour, patch + row, patch + column] = -1


def _gather(conv: nn.Conv2d, norm: LayerNorm, values: int) -> None:
    """Channel place * values + k: value k of the block at that place, from both signs."""
    conv.weight[: 4 * values] = 0
    for place in range(4):
        row, column = divmod(place, 2)
        for k in range(values):
            conv.weight[place * values + k, k, 1 + row, 1 + column] = 1
            conv.weight[place * values + k, values + k, 1 + row, 1 + column] = -1
    norm.weight.fill_(1)


def _silence_second_norms(mlp: StyleMLP) -> None:
    """The second norm of every residual block outputs 0 for every style at first."""
    last = mlp.layers[-1]
    for parameter in (last.weight, last.bias):
        assert isinstance(parameter, Tensor)
        parameter.unflatten(0, (mlp.n_norms, -1))[1::2] = 0


def _put_back(decoder: Decoder, values: int) -> None:
    """The inverse of `_gather` and of `_split_signs`."""
    up = decoder.ups[0]
    assert isinstance(up.conv, nn.Conv2d)
    assert isinstance(up.norm, LayerNorm)
    places = up.conv.weight.unflatten(0, (-1, 4))  # by the place in a block, as pixel_shuffle reads
    places[: 2 * values] = 0
    decoder.tail.weight[:] = 0
    for k in range(values):
        for place in range(4):
            places[k, place, place * values + k, 1, 1] = 1
            places[values + k, place, place * values + k, 1, 1] = -1
        decoder.tail.weight[k, k, 1, 1] = _CONTRAST
        decoder.tail.weight[k, values + k, 1, 1] = -_CONTRAST
    up.norm.weight.fill_(1)
