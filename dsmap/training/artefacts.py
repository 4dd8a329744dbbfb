"""Removes artefacts of decoders from their images: grids in step with blocks of pixels, specks in smooth areas."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW = 9  # blocks a side over which a grid is taken to be constant
_SIGNIFICANCE = 3.0  # a grid must exceed chance by this factor, in variances
_MAX_DETAIL, _FREE_DETAIL = 2.0, 0.004  # times the detail of the source; half a grey level is always allowed
_BLUR_SIGMA, _DETAIL_WINDOW = 1.5, 9  # pixels


def remove_grid(x_nchw: Tensor, period: int) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] without patterns that repeat every `period` pixels, a divisor of H and W.

    Detail is what a blur removes. Its mean over the surrounding blocks at each position of a `period` x `period` block,
    less the mean over all positions, is the grid, as far as it exceeds what detail leaves in such a mean by chance.
    """
    detail = F.pixel_unshuffle(x_nchw - _gaussian_blur(x_nchw, 1.5 * period), period)
    mean = _box_blur(detail, _WINDOW)
    by_chance = (_box_blur(detail.square(), _WINDOW) - mean.square()).clamp(min=0) / _WINDOW**2
    positions = mean.unflatten(1, (-1, period**2))
    grid = (positions - positions.mean(2, keepdim=True)).flatten(1, 2)
    share = (1 - _SIGNIFICANCE * by_chance / (grid.square() + 1e-8)).clamp(min=0)
    return (x_nchw - F.pixel_shuffle(share * grid, period)).clamp(-1, 1)


def limit_detail(y_nchw: Tensor, source_nchw: Tensor) -> Tensor:
    """Translations (N, 3, H, W) in [-1, 1] that are smooth where their source images are smooth.

    Their detail is limited to `_MAX_DETAIL` times that of the source, as a root mean square over a window and the
    colours. Specks in a clear sky disappear; texture on rock and grass stays.
    """
    (detail, strength), (_, allowed) = _detail_of(y_nchw), _detail_of(source_nchw)
    share = ((_MAX_DETAIL * allowed + _FREE_DETAIL) / (strength + 1e-8)).clamp(max=1)
    return y_nchw - (1 - share) * detail


def _detail_of(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
    """What a blur removes, and its local strength (N, 1, H, W)."""
    detail = x_nchw - _gaussian_blur(x_nchw, _BLUR_SIGMA)
    return detail, _box_blur(detail.square().mean(1, keepdim=True), _DETAIL_WINDOW).sqrt()


def _box_blur(y_nchw: Tensor, window: int) -> Tensor:
    """Means over windows of `window` positions a side; edges are repeated."""
    return F.avg_pool2d(F.pad(y_nchw, (window // 2,) * 4, mode="replicate"), window, stride=1)


def _gaussian_blur(x_nchw: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; edges are repeated."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=x_nchw.dtype, device=x_nchw.device)
    line = torch.exp(-offsets.square() / (2 * sigma**2))
    line = (line / line.sum()).expand(x_nchw.shape[1], 1, -1)
    y = F.pad(x_nchw, (reach,) * 4, mode="replicate")
    y = F.conv2d(y, line[:, :, :, None], groups=x_nchw.shape[1])
    return F.conv2d(y, line[:, :, None, :], groups=x_nchw.shape[1])
