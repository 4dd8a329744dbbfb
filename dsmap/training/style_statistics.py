"""Statistics of a domain's style codes: mean and standard deviation over its images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dsmap.common.sampling import pick_evenly
from dsmap.errors import InputError
from dsmap.model.dsmap import DSMAP
from dsmap.training.image_tensors import load_readable_nchw


class StyleStatistics(NamedTuple):
    """Mean and standard deviation of the S components of a domain's style codes."""

    mean: list[float]
    std: list[float]
    pictures: int
    """Number of images they come from; 0 means the prior N(0, I) of the training."""


def prior_statistics(style_dim: int) -> StyleStatistics:
    """The statistics of N(0, I), for a model without its training images."""
    return StyleStatistics([0.0] * style_dim, [1.0] * style_dim, 0)


@torch.no_grad()
def style_statistics(
    model: DSMAP, domain: str, images: Sequence[Path], shorter_side: int, limit: int | None = None
) -> StyleStatistics:
    """Mean and standard deviation of the style codes of `images` (of `limit` of them, evenly picked).

    Unreadable images are skipped. Raises InputError if fewer than two are left.
    """
    if limit is not None:
        images = pick_evenly(images, limit)
    device = next(model.parameters()).device
    codes = [
        model.encode_style(x_nchw.to(device), domain)[0].float().cpu()
        for x_nchw in load_readable_nchw(images, shorter_side, model.config.multiple_of)
    ]
    if len(codes) < 2:
        raise InputError(
            f"only {len(codes)} readable images of {domain}; its mean style needs two",
            "Point to a folder with more images of that domain.",
        )
    codes_ns = torch.stack(codes)
    return StyleStatistics(codes_ns.mean(0).tolist(), codes_ns.std(0).tolist(), len(codes))


def styles_by_domain(
    model: DSMAP, images: Mapping[str, Sequence[Path]], shorter_side: int, limit: int | None = None
) -> dict[str, StyleStatistics]:
    """`style_statistics` of each domain in `images`."""
    return {name: style_statistics(model, name, paths, shorter_side, limit) for name, paths in images.items()}
