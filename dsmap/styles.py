"""The style codes of a domain: what its pictures' codes look like on average, and how far they spread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dsmap.data import load_picture_nchw
from dsmap.errors import InputError
from dsmap.images import list_pictures
from dsmap.model import DSMAP
from dsmap.picking import pick_evenly


class StyleStatistics(NamedTuple):
    """Style codes of one domain: `mean` and standard deviation `std` of each of the S numbers."""

    mean: list[float]
    std: list[float]
    pictures: int
    """How many pictures they come from; 0 means the prior N(0, I) the network is trained against."""


def prior_statistics(style_dim: int) -> StyleStatistics:
    """The statistics of N(0, I), for a model whose training pictures are not at hand."""
    return StyleStatistics([0.0] * style_dim, [1.0] * style_dim, 0)


@torch.no_grad()
def style_statistics(
    model: DSMAP, domain: str, pictures: Sequence[Path], shorter_side: int, limit: int | None = None
) -> StyleStatistics:
    """Mean and spread of the style codes of `pictures` (of `limit` of them, evenly picked).

    Pictures that cannot be read are passed over; InputError when fewer than two are left.
    """
    if limit is not None:
        pictures = pick_evenly(pictures, limit)
    device = next(model.parameters()).device
    codes = []
    for path in pictures:
        try:
            x_nchw = load_picture_nchw(path, shorter_side, model.config.multiple_of)
        except InputError:
            continue
        codes.append(model.encode_style(x_nchw.to(device), domain)[0].float().cpu())
    if len(codes) < 2:
        raise InputError(
            f"only {len(codes)} readable pictures of {domain}; its mean style needs two",
            "Point to a folder with more pictures of that domain.",
        )
    codes_ns = torch.stack(codes)
    return StyleStatistics(codes_ns.mean(0).tolist(), codes_ns.std(0).tolist(), len(codes))


def with_defaults(
    styles: Mapping[str, StyleStatistics], folders: Mapping[str, Path], model: DSMAP, shorter_side: int
) -> dict[str, StyleStatistics]:
    """`styles` by domain, those of the domains in `folders` over the pictures there in place of all.

    Raises InputError as `style_statistics` does.
    """
    chosen = {d: style_statistics(model, d, list_pictures(folder), shorter_side) for d, folder in folders.items()}
    return {**styles, **chosen}
