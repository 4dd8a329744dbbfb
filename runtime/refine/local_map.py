"""The translation of a frame as an affine map of its colours around every pixel.

A guided filter with a colour guide (He, Sun and Tang 2013). Statistics are taken in cells of 4x4 pixels over windows of
3x3 cells, so that the map costs little at any size (as in the fast guided filter, He and Sun 2015).
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CELL = 4
"""Pixels of a side."""
_EPSILON = 10.0
"""Variance of the input, in levels squared, far below which it counts as smooth."""


class LocalMap(NamedTuple):
    """result[c] = sum over p of slopes[p][..., c] * input[p] + offsets[..., c]; one value for each cell."""

    slopes: tuple[Floats, Floats, Floats]
    """For the input's red, green and blue; each (rows, columns, 3)."""
    offsets: Floats

    @property
    def gain(self) -> Floats:
        """What a grey step of one level in the input becomes: (rows, columns, 3)."""
        return np.asarray(self.slopes[0] + self.slopes[1] + self.slopes[2], np.float32)


def fit_local_map(input_rgb: Pixels, output_rgb: Pixels) -> LocalMap:
    """The map from `input_rgb` to `output_rgb`, uint8 (H, W, 3); the last cells may lie partly outside."""
    bottom, right = -input_rgb.shape[0] % CELL, -input_rgb.shape[1] % CELL
    source, target = (
        cv2.copyMakeBorder(rgb, 0, bottom, 0, right, cv2.BORDER_REPLICATE) for rgb in (input_rgb, output_rgb)
    )
    # Means of bytes would be rounded to whole levels, too coarse to subtract their squares.
    mean_in, mean_out = (_windows(np.asarray(rgb).astype(np.uint16) << 8) / np.float32(256) for rgb in (source, target))
    turned = [np.asarray(target), *(_turned(target, by) for by in (1, 2))]
    squares = _windows(_product(source, source)) - mean_in * mean_in
    crossed = _windows(_product(source, _turned(source, 1))) - mean_in * np.roll(mean_in, -1, 2)
    # covariance[by][..., p]: of the input's p with the output's p + by
    covariance = [
        _windows(_product(source, out)) - mean_in * np.roll(mean_out, -by, 2) for by, out in enumerate(turned)
    ]
    return _solved(squares, crossed, covariance, mean_in, mean_out)


def _solved(squares: Floats, crossed: Floats, covariance: list[Floats], mean_in: Floats, mean_out: Floats) -> LocalMap:
    """Least squares in every window, with `_EPSILON` on the diagonal, by the inverse of a symmetric 3x3 matrix."""
    rr, gg, bb = np.moveaxis(squares + np.float32(_EPSILON), 2, 0)
    rg, gb, br = np.moveaxis(crossed, 2, 0)
    cofactors = [
        [gg * bb - gb * gb, br * gb - rg * bb, rg * gb - br * gg],
        [br * gb - rg * bb, rr * bb - br * br, br * rg - rr * gb],
        [rg * gb - br * gg, br * rg - rr * gb, rr * gg - rg * rg],
    ]
    scale = 1 / (rr * cofactors[0][0] + rg * cofactors[0][1] + br * cofactors[0][2])
    with_output = [[covariance[(c - p) % 3][..., p] for c in range(3)] for p in range(3)]
    slopes = [
        np.stack([scale * sum(row[q] * with_output[q][c] for q in range(3)) for c in range(3)], 2) for row in cofactors
    ]
    offsets = mean_out - sum(slope * mean_in[..., p, None] for p, slope in enumerate(slopes))
    red, green, blue = (_averaged(slope) for slope in slopes)
    return LocalMap((red, green, blue), _averaged(offsets))


def _turned(rgb: npt.ArrayLike, by: int) -> Pixels:
    """The channels in another order: `by` further on comes first."""
    turned = np.empty_like(np.asarray(rgb))
    cv2.mixChannels([np.asarray(rgb)], [turned], [n for c in range(3) for n in ((c + by) % 3, c)])
    return turned


def _product(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    return np.multiply(np.asarray(a), np.asarray(b), dtype=np.uint16)


def _windows(values: npt.ArrayLike) -> Floats:
    """Means over windows of cells, float32 (rows, columns, 3)."""
    values = np.asarray(values)
    size = values.shape[1] // CELL, values.shape[0] // CELL
    return _averaged(cv2.resize(values, size, interpolation=cv2.INTER_AREA).astype(np.float32))


def _averaged(values: npt.ArrayLike) -> Floats:
    return np.asarray(cv2.blur(np.asarray(values, np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)
