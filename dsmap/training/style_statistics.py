"""Statistics of a domain's style codes over its images: mean, standard deviation, principal axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dsmap.common.sampling import pick_evenly
from dsmap.config import MAX_STYLE_AXES
from dsmap.errors import DsmapError, InputError
from dsmap.model.any_model import StyledModel
from dsmap.training.image_tensors import load_readable_nchw


class StyleStatistics(NamedTuple):
    """Mean, standard deviation and principal axes of a domain's style codes, of S components."""

    mean: list[float]
    std: list[float]
    pictures: int
    """Number of images they come from; 0 means the prior N(0, I) of the training."""
    axes: list[list[float]] = []  # noqa: RUF012  # never changed
    """Principal axes of the codes, the longest first, as long as the standard deviation along them; empty: unknown."""


def prior_statistics(style_dim: int) -> StyleStatistics:
    """The statistics of N(0, I), for a model without its training images."""
    return StyleStatistics([0.0] * style_dim, [1.0] * style_dim, 0)


@torch.no_grad()
def style_statistics(
    model: StyledModel, domain: str, images: Sequence[Path], shorter_side: int, limit: int | None = None
) -> StyleStatistics:
    """Statistics of the style codes of `images` (of `limit` of them, evenly picked).

    Unreadable images are skipped. Raises InputError if fewer than two are left.
    """
    if limit is not None:
        images = pick_evenly(images, limit)
    device = next(model.parameters()).device
    codes = [
        model.encode_style(x_nchw.to(device), domain)[0].float().cpu()
        for x_nchw in load_readable_nchw(images, shorter_side, model.config.multiple_of)
    ]
    return statistics_of_codes(codes, domain)


def statistics_of_codes(codes: Sequence[Tensor], domain: str) -> StyleStatistics:
    """The statistics of style codes (S,), float32. Raises InputError for fewer than two, DsmapError if not finite."""
    if len(codes) < 2:
        raise InputError(
            f"only {len(codes)} readable images of {domain}; its mean style needs two",
            "Point to a folder with more images of that domain.",
        )
    codes_ns = torch.stack(list(codes))
    if not codes_ns.isfinite().all():
        raise DsmapError(f"the style encoder of {domain} gives codes that are not finite", "Use another checkpoint.")
    return StyleStatistics(codes_ns.mean(0).tolist(), codes_ns.std(0).tolist(), len(codes), _principal_axes(codes_ns))


def _principal_axes(codes_ns: Tensor) -> list[list[float]]:
    deviations_ns = (codes_ns - codes_ns.mean(0)).double()
    _, lengths, directions = torch.linalg.svd(deviations_ns, full_matrices=False)
    # An axis may point either way: the largest component is positive, so that a seed gives the same style everywhere.
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    axes = signs * directions * lengths[:, None] / (len(codes_ns) - 1) ** 0.5
    return axes[: min(len(codes_ns) - 1, MAX_STYLE_AXES)].tolist()


def styles_by_domain(
    model: StyledModel, images: Mapping[str, Sequence[Path]], shorter_side: int, limit: int | None = None
) -> dict[str, StyleStatistics]:
    """`style_statistics` of each domain in `images`."""
    return {name: style_statistics(model, name, paths, shorter_side, limit) for name, paths in images.items()}
