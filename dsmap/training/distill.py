"""Knowledge distillation: a network learns to draw what a trained one draws (Hinton et al. 2015; unpaired images).

Both translate the same images of a domain in the same style codes, and the student is told every pixel. That has
neither discriminators nor cycles, so it takes a fraction of a training, and the student may be of any shape: smaller,
with other blocks or paddings. What it learns:

- translations to both domains, in styles between the mean and those of images;
- reconstructions (a domain's images in their own domain), in one of `_OWN_EVERY` iterations of each domain;
- the style codes of images, so that they mean to the student what they mean to its teacher.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.model.dsmap import DSMAP
from dsmap.model.feature_networks import FeatureNetwork
from dsmap.training.data import Batch
from dsmap.training.losses import l1
from dsmap.training.optim import check_trained, descend_along_cosine

_BETAS = (0.9, 0.99)
_OWN_EVERY = 4
_STYLE_WEIGHT = 0.5
_CLIP_NORM = 1.0  # random weights begin with gradients that would throw them about


class Progress(NamedTuple):
    """What an iteration tells."""

    step: int
    apart: float
    """Mean difference to the teacher's images, of values in [-1, 1]."""
    style: float
    """Mean difference to the teacher's style codes."""
    features: float
    """Difference in what the feature network sees, 0 to 2; 0 without one."""


def distill(
    teacher: DSMAP,
    student: DSMAP,
    batches: Callable[[int, int], Iterable[Batch]],
    mean_styles: Mapping[str, Iterable[float]],
    *,
    steps: int,
    lr: float = 1e-3,
    seed: int = 0,
    features: FeatureNetwork | None = None,
    perceptual: float = 1.0,
) -> Iterator[Progress]:
    """Trains `student` in place, on its device, where `teacher` is too; a Progress an iteration.

    Both have the same domains and style codes of one length. `batches(start, stop)` gives those of these numbers;
    `mean_styles` (S,) of the teacher by domain. With `features` the difference of what that network sees counts
    `perceptual` times. An iteration translates to one domain, in turns. The rate falls from `lr` to 0 along a cosine.
    Raises DsmapError when a loss or a weight is not finite.
    """
    teacher.eval().requires_grad_(False)
    student.train().requires_grad_(True)
    parameters = list(student.parameters())
    optimizer = torch.optim.Adam(parameters, lr, betas=_BETAS, fused=True)
    place = parameters[0].device
    means = {d: torch.tensor(list(style), dtype=torch.float32, device=place) for d, style in mean_styles.items()}
    for batch in batches(0, steps):
        turn, side = divmod(batch.step, 2)
        target = student.domains[side]
        x = {d: part.to(place) for d, part in zip(student.domains, (batch.x_a_nchw, batch.x_b_nchw), strict=True)}
        source = target if turn % _OWN_EVERY == _OWN_EVERY - 1 else student.other(target)
        with torch.no_grad():
            codes = teacher.encode_style(x[target], target)
            style = torch.lerp(means[target].expand_as(codes), codes, _shares(len(codes), seed, batch.step).to(place))
            aim_nchw = teacher.translate(x[source], source, target, style)
        found_nchw = student.translate(x[source], source, target, style)
        apart, of_style = l1(found_nchw, aim_nchw), l1(student.encode_style(x[target], target), codes)
        seen = torch.zeros_like(apart) if features is None else _seen_apart(features, found_nchw, aim_nchw)
        loss = apart + _STYLE_WEIGHT * of_style + perceptual * seen
        descend_along_cosine(optimizer, loss, lr, batch.step, steps, _CLIP_NORM)
        yield Progress(batch.step + 1, *torch.stack([apart, of_style, seen]).tolist())
    student.eval().requires_grad_(False)
    check_trained(student, lr, steps)


@torch.no_grad()
def likeness(teacher: DSMAP, student: DSMAP, images_nchw: Iterable[Tensor], target: str, style: Tensor) -> float:
    """PSNR in dB of the student's translations to `target` in the style code `style` (S,) against the teacher's.

    Over all `images_nchw`, (N, 3, H, W) in [-1, 1] each, together: 10 log10 of 255^2 over the mean squared difference
    of grey levels, not rounded.
    """
    source, errors = student.other(target), []
    for x_nchw in images_nchw:
        codes = style.expand(len(x_nchw), -1)
        aim, found = (model.translate(x_nchw, source, target, codes) for model in (teacher, student))
        errors.append((aim - found).square().mean())
    mean = float(torch.stack(errors).mean())
    return 10 * math.log10(4 / mean) if mean else math.inf


def _shares(n: int, seed: int, step: int) -> Tensor:
    """How much of an image's style there is beside the mean: (n, 1) in [0, 1], of (seed, step) alone."""
    return torch.rand(n, 1, generator=torch.Generator().manual_seed((seed << 32) + step))


def _seen_apart(features: FeatureNetwork, found_nchw: Tensor, aim_nchw: Tensor) -> Tensor:
    """Mean squared distance of the maps, each position's channels scaled to length 1 (as in LPIPS, without weights)."""
    with torch.no_grad():
        aims = [F.normalize(tap, dim=1) for tap in features.taps(aim_nchw)]
    found = [F.normalize(tap, dim=1) for tap in features.taps(found_nchw)]
    return torch.stack([(a - b).square().sum(1).mean() for a, b in zip(found, aims, strict=True)]).mean()
