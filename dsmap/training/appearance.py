"""What images look like in numbers: brightness, colour, contrast and detail, from fine to coarse.

Networks that translate give softer and paler images than photographs: L1 losses pull there, and a discriminator,
which sees one image at a time, hardly minds, as photographs are sharp and soft as well. Over many images it shows.
(Durall et al., "Watch your Up-Convolution", CVPR 2020, found and mended the like in the spectra of images from GANs.)
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.common.distributed import mean_over_processes
from dsmap.model.layers import at_least_float32

BANDS = 4
APPEARANCE_DIM = 3 * (BANDS + 2)
"""How many numbers `appearance` gives."""

_FAINT = 0.01  # about a grey level: smoother areas count as equally smooth
_MIN_SPREAD = 0.05  # where all images are alike, as the colours of grey ones are
# BT.601: brightness, blue minus brightness, red minus brightness.
_TO_YCC = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


class Appearance(NamedTuple):
    """What the images of a domain look like: `mean` and standard deviation `spread` of each number, (K,)."""

    mean: Tensor
    spread: Tensor


def appearance(x_nchw: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1], H and W 16 or more -> (N, K).

    For brightness and both differences of colour: the mean, the logarithm of the contrast in each of `BANDS` octaves
    from the finest (pairs of pixels) on, and that of what is coarser.
    """
    x_nchw = at_least_float32(x_nchw)
    y = torch.einsum("dc,nchw->ndhw", _to_ycc(x_nchw.device, x_nchw.dtype), x_nchw)
    found = [y.mean((2, 3))]
    for _ in range(BANDS):
        coarser = F.avg_pool2d(y, 2)
        again = F.interpolate(coarser, scale_factor=2.0, mode="nearest")
        found.append(_log_contrast(y[:, :, : again.shape[2], : again.shape[3]] - again))
        y = coarser
    return torch.cat([*found, _log_contrast(y)], 1)


@lru_cache
def _to_ycc(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Made once: a captured iteration cannot copy from the host."""
    return torch.tensor(_TO_YCC, device=device, dtype=dtype)


@torch.no_grad()
def appearance_of(batches: Iterable[Tensor]) -> Appearance:
    """Of a domain, from batches of its images, as `appearance` takes them, two or more in all."""
    rows_nk = torch.cat([appearance(x_nchw) for x_nchw in batches])
    return Appearance(rows_nk.mean(0), rows_nk.std(0, correction=0).clamp(min=_MIN_SPREAD))


def appearance_loss(translations_nchw: Tensor, images_nchw: Tensor, target: Appearance, source: Appearance) -> Tensor:
    """How far translations have changed in appearance from what lies between the domains, as a mean over the batch.

    The square of the mean change less the difference of the domains' means, in standard deviations of the target; a
    mean over the numbers. Single images may change otherwise; `translations_nchw` are of `images_nchw`, once or
    several times around.
    """
    change_k = appearance(translations_nchw).mean(0) - appearance(images_nchw).mean(0)
    off_k = (mean_over_processes(change_k) - (target.mean - source.mean)) / target.spread
    return off_k.square().mean()


def _log_contrast(y_nchw: Tensor) -> Tensor:
    return 0.5 * (y_nchw.var((2, 3), correction=0) + _FAINT**2).log()
