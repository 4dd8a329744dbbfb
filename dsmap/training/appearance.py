"""Appearance statistics of images: brightness, colour, contrast and detail, from fine to coarse.

Translations are softer and paler than photographs: L1 losses favour that, and a discriminator, which sees one image at
a time, hardly objects, as photographs are sharp and soft as well. It shows over many images. (Durall et al., "Watch
your Up-Convolution", CVPR 2020, found and fixed the same in the spectra of images from GANs.)
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
"""Number of values of `appearance`."""

_FAINT = 0.01  # about one grey level: smoother areas count as equal
_MIN_SPREAD = 0.05  # for images that are all alike, such as grey ones in colour
# BT.601: brightness, blue minus brightness, red minus brightness.
_TO_YCC = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


class Appearance(NamedTuple):
    """Appearance of a domain: `mean` and standard deviation `spread` of each value, (K,)."""

    mean: Tensor
    spread: Tensor


def appearance(x_nchw: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1], H and W 16 or more -> (N, K).

    For luma and both colour differences: the mean, the log contrast in each of `BANDS` octaves from the finest (pairs
    of pixels) on, and that of the coarser rest.
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
    """Cached: a captured iteration cannot copy from the host."""
    return torch.tensor(_TO_YCC, device=device, dtype=dtype)


@torch.no_grad()
def appearance_of(batches: Iterable[Tensor]) -> Appearance:
    """The appearance of a domain, from batches of two or more images in total; see `appearance`."""
    rows_nk = torch.cat([appearance(x_nchw) for x_nchw in batches])
    return Appearance(rows_nk.mean(0), rows_nk.std(0, correction=0).clamp(min=_MIN_SPREAD))


def appearance_loss(translations_nchw: Tensor, images_nchw: Tensor, target: Appearance, source: Appearance) -> Tensor:
    """Distance of the translations' mean change in appearance from the difference of the domains.

    The squared error of the mean change over the batch, in standard deviations of the target, averaged over the
    values. Single images may change differently. `translations_nchw` are of `images_nchw`, once or several times.
    """
    change_k = appearance(translations_nchw).mean(0) - appearance(images_nchw).mean(0)
    off_k = (mean_over_processes(change_k) - (target.mean - source.mean)) / target.spread
    return off_k.square().mean()


def _log_contrast(y_nchw: Tensor) -> Tensor:
    return 0.5 * (y_nchw.var((2, 3), correction=0) + _FAINT**2).log()
