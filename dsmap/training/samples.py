"""Sample grids: outputs of the generators for a few fixed images."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsmap.errors import InputError
from dsmap.model.dsmap import DSMAP
from dsmap.training.data import Batch
from dsmap.training.image_tensors import load_image_nchw, to_rgb
from dsmap.training.style_statistics import StyleStatistics

COLUMNS = ("input", "reconstruction", "exemplar", "translation", "mean style", "random", "cycle")
_MARGIN, _HEADER = 4, 22


def load_samples(paths: Sequence[Path], size: int, count: int = 4) -> Tensor:
    """`count` of the images, evenly picked, centre-cropped to squares: float32 (count, 3, size, size) in [-1, 1].

    Unreadable ones are replaced by the next. Raises InputError if none can be read.
    """
    count = min(count, len(paths))
    crops: list[Tensor] = []
    for i in range(count):
        for path in paths[i * len(paths) // count : (i + 1) * len(paths) // count]:
            with suppress(InputError):
                crops.append(_centre(load_image_nchw(path, size, size), size))
                break
    if not crops:
        raise InputError(f"none of the images in {paths[0].parent} can be read", "Put whole images there.")
    return torch.cat(crops)


@torch.no_grad()
def draw_grid(
    model: DSMAP, x: dict[str, Tensor], source: str, styles: dict[str, StyleStatistics], seed: int = 0
) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) with a row per image of `source` and the columns COLUMNS, all translated into the other domain.

    `x` holds the fixed images of both domains (N, 3, H, W) in [-1, 1]; those of the target are the exemplars.
    """
    target = model.other(source)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(len(x[source])):
        x_nchw = x[source][i : i + 1].to(device)
        exemplar = x[target][i % len(x[target])][None].to(device)
        content = model.encode(x_nchw, source)
        mapped = model.map(content, target)
        reconstruction = model.decode(model.map(content, source), model.encode_style(x_nchw, source), source)
        translation = model.decode(mapped, model.encode_style(exemplar, target), target)
        mean = torch.tensor(styles[target].mean, device=device)[None]
        random = model.random_style(1, generator)
        cycle = model.translate(translation, target, source, model.encode_style(x_nchw, source))
        rows.append([x_nchw, reconstruction, exemplar, translation, model.decode(mapped, mean, target),
                     model.decode(mapped, random, target), cycle])  # fmt: skip
    return _draw(rows, COLUMNS)


def draw_batch(batch: Batch, domains: tuple[str, str]) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) with a column per domain: the images of a batch, as the network sees them."""
    rows = [list(pair) for pair in zip(batch.x_a_nchw.split(1), batch.x_b_nchw.split(1), strict=True)]
    return _draw(rows, domains)


def _centre(x_nchw: Tensor, size: int) -> Tensor:
    top, left = ((side - size) // 2 for side in x_nchw.shape[-2:])
    return x_nchw[..., top : top + size, left : left + size]


def _draw(rows: list[list[Tensor]], columns: Sequence[str]) -> npt.NDArray[np.uint8]:
    height, width = rows[0][0].shape[-2:]
    grid = np.full(
        (_HEADER + len(rows) * (height + _MARGIN), len(columns) * (width + _MARGIN) - _MARGIN, 3), 255, np.uint8
    )
    for j, name in enumerate(columns):
        left = j * (width + _MARGIN)
        cv2.putText(grid, name, (left + 2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
        for i, row in enumerate(rows):
            top = _HEADER + i * (height + _MARGIN)
            grid[top : top + height, left : left + width] = to_rgb(row[j])[0]
    return grid
