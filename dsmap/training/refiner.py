"""Training of a refiner: distillation of a model's own translations at full size."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.model.refiner import Refiner
from dsmap.training.optim import check_trained, descend_along_cosine
from dsmap.training.refiner_data import Patches

_EDGES = 0.5
"""Weight of the differences between neighbours, against that of levels: without it details come out soft."""
_AREA = 16
"""Pixels of a side: about as far as the network sees."""
_OF_BASE = 0.5
_LEVELS = 128.0  # to the optimiser a level is small
_WARM_UP = 100  # iterations
_LEAK = 0.2  # at first; 0 from half of the training on
_SCORED = 32  # patches at a time


class RefinerProgress(NamedTuple):
    """An iteration; steps count from 1."""

    step: int
    error: float
    """Mean absolute difference to the details of translations at full size, in levels."""


def train_refiner(
    refiner: Refiner, patches: Patches, *, steps: int, batch_size: int, lr: float, seed: int = 0
) -> Iterator[RefinerProgress]:
    """Trains `refiner` in place, on its device, then measures its `peaks`.

    The rate falls from `lr` to 0 along a cosine. Raises DsmapError when a loss or a weight is not finite.
    """
    refiner.train().requires_grad_(True)
    optimizer = torch.optim.Adam(refiner.parameters(), lr, betas=(0.9, 0.99), fused=True)
    chance, device = np.random.default_rng(seed), refiner.head.weight.device
    for step in range(steps):
        # The last layer begins at 0, so the first gradients of the others are tiny, and Adam makes large steps of them.
        warm = min(1.0, (step + 1) / _WARM_UP)
        refiner.leak = _LEAK * max(0.0, 1 - 2 * step / steps)
        frame, base, aim = (x.to(device) for x in _drawn(patches, batch_size, chance))
        wrong = (refiner(frame, base) - with_areas_of(base, aim)) / _LEVELS
        error = wrong.abs().mean()
        descend_along_cosine(optimizer, error + _EDGES * _edges(wrong), warm * lr, step, steps, 1.0)
        yield RefinerProgress(step + 1, float(error.detach()) * _LEVELS)
    refiner.leak = 0.0
    refiner.eval().requires_grad_(False)
    check_trained(refiner, lr, steps)
    frame, base, _ = (x.to(device) for x in _drawn(patches, _SCORED, chance))
    refiner.measure_peaks(frame, base)


def with_areas_of(base_nchw: Tensor, aim_nchw: Tensor) -> Tensor:
    """The details of `aim_nchw`, on areas whose tone lies half-way between both.

    At another size a network gives whole areas another tone, by what it sees of the rest. A refiner that learnt all of
    this came nearer on pictures like those of its training, and was worse than its base on others.
    """
    difference = base_nchw - aim_nchw
    areas = F.avg_pool2d(difference, min(_AREA, *difference.shape[2:]))
    return aim_nchw + _OF_BASE * F.interpolate(areas, difference.shape[2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def psnr_of(refiner: Refiner, patches: Patches) -> tuple[float, float]:
    """PSNR in dB to the translations at full size: of the bases, and of the refined ones, over all patches."""
    device, errors = refiner.head.weight.device, []
    for start in range(0, len(patches), _SCORED):
        places = range(start, min(start + _SCORED, len(patches)))
        frame, base, aim = (x.to(device) for x in patches.tensors(places, [False] * len(places)))
        refined = refiner(frame, base).clamp(0, 255).round()
        errors += [torch.stack([(x - aim).square().mean((1, 2, 3)) for x in (base, refined)], 1)]
    before, after = torch.cat(errors).mean(0).tolist()
    return _decibels(before), _decibels(after)


def _drawn(patches: Patches, count: int, chance: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    places: Sequence[int] = chance.integers(len(patches), size=count).tolist()
    return patches.tensors(places, (chance.random(count) < 0.5).tolist())


def _edges(wrong_nchw: Tensor) -> Tensor:
    """Mean absolute Laplacian of an error."""
    kernel = wrong_nchw.new_tensor([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]]).expand(3, 1, 3, 3)
    return F.conv2d(wrong_nchw, kernel, groups=3).abs().mean()


def _decibels(error: float) -> float:
    return 10 * math.log10(255**2 / error) if error else math.inf
