"""Knowledge distillation (Hinton et al. 2015): a student network learns the images that a trained teacher gives.

Both translate the same images in the same style codes, so every pixel has a target. There are neither discriminators
nor cycles: it takes a fraction of the time of adversarial training. The student may have any architecture. It learns

- translations to both domains, in styles between the mean and those of images;
- reconstructions within a domain, in one of `_RECONSTRUCT_EVERY` iterations for each domain;
- the style codes of images, so that codes mean the same to the student as to the teacher.
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
_RECONSTRUCT_EVERY = 4
_STYLE_WEIGHT = 0.5
_CLIP_NORM = 1.0  # the first gradients of random weights are large


class DistillProgress(NamedTuple):
    """Losses of an iteration."""

    step: int
    image: float
    """Mean absolute difference to the teacher's images, whose values are in [-1, 1]."""
    style: float
    """Mean absolute difference to the teacher's style codes."""
    features: float
    """Perceptual distance to the teacher's images, 0 to 2; 0 without a feature network."""


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
) -> Iterator[DistillProgress]:
    """Trains `student` in place, on the device of both networks.

    Teacher and student have the same domains and the same length of style codes. `batches(start, stop)` gives the
    batches with these numbers; `mean_styles` (S,) are the teacher's, by domain. With `features` the perceptual distance
    counts with the weight `perceptual`. Iterations alternate between the two target domains. The learning rate falls
    from `lr` to 0 along a cosine. Raises DsmapError when a loss or a weight is not finite.
    """
    teacher.eval().requires_grad_(False)
    student.train().requires_grad_(True)
    parameters = list(student.parameters())
    optimizer = torch.optim.Adam(parameters, lr, betas=_BETAS, fused=True)
    device = parameters[0].device
    means = {d: torch.tensor(list(style), dtype=torch.float32, device=device) for d, style in mean_styles.items()}
    for batch in batches(0, steps):
        turn, side = divmod(batch.step, 2)
        target = student.domains[side]
        x = {d: part.to(device) for d, part in zip(student.domains, (batch.x_a_nchw, batch.x_b_nchw), strict=True)}
        source = target if turn % _RECONSTRUCT_EVERY == _RECONSTRUCT_EVERY - 1 else student.other(target)
        with torch.no_grad():
            codes = teacher.encode_style(x[target], target)
            shares = _style_shares(len(codes), seed, batch.step).to(device)
            style = torch.lerp(means[target].expand_as(codes), codes, shares)
            aim_nchw = teacher.translate(x[source], source, target, style)
        y_nchw = student.translate(x[source], source, target, style)
        image_loss, style_loss = l1(y_nchw, aim_nchw), l1(student.encode_style(x[target], target), codes)
        distance = torch.zeros_like(image_loss) if features is None else perceptual_distance(features, y_nchw, aim_nchw)
        loss = image_loss + _STYLE_WEIGHT * style_loss + perceptual * distance
        descend_along_cosine(optimizer, loss, lr, batch.step, steps, _CLIP_NORM)
        yield DistillProgress(batch.step + 1, *torch.stack([image_loss, style_loss, distance]).tolist())
    student.eval().requires_grad_(False)
    check_trained(student, lr, steps)


@torch.no_grad()
def psnr_to_teacher(teacher: DSMAP, student: DSMAP, images_nchw: Iterable[Tensor], target: str, style: Tensor) -> float:
    """PSNR in dB of the student's translations to `target` against the teacher's, in the style code `style` (S,).

    Over all `images_nchw`, each (N, 3, H, W) in [-1, 1], together: 10 log10 of 255^2 over the mean squared difference
    of grey levels, which are not rounded.
    """
    source, errors = student.other(target), []
    for x_nchw in images_nchw:
        codes = style.expand(len(x_nchw), -1)
        aim, found = (model.translate(x_nchw, source, target, codes) for model in (teacher, student))
        errors.append((aim - found).square().mean())
    mean = float(torch.stack(errors).mean())
    return 10 * math.log10(4 / mean) if mean else math.inf


def _style_shares(n: int, seed: int, step: int) -> Tensor:
    """Weights of an image's style against the mean: (n, 1) in [0, 1], determined by (seed, step)."""
    return torch.rand(n, 1, generator=torch.Generator().manual_seed((seed << 32) + step))


def perceptual_distance(features: FeatureNetwork, y_nchw: Tensor, aim_nchw: Tensor) -> Tensor:
    """Mean squared distance of feature maps with channels normalised at each position (LPIPS without weights)."""
    with torch.no_grad():
        aims = [F.normalize(tap, dim=1) for tap in features.taps(aim_nchw)]
    found = [F.normalize(tap, dim=1) for tap in features.taps(y_nchw)]
    return torch.stack([(a - b).square().sum(1).mean() for a, b in zip(found, aims, strict=True)]).mean()
