"""The translation of a frame as an affine map of its colours around every pixel.

A guided filter with a colour guide (He, Sun and Tang 2013). Statistics are taken at half the size, in cells of 2x2
pixels over windows of 3x3 cells, so that the map costs little at any size (as in the fast guided filter, He and Sun
2015).
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
    """result[c] = sum over p of slopes[c][p] * input[p] + offsets[c], for red, green and blue.

    One value for each cell: every plane is (rows, columns).
    """

    slopes: list[list[Floats]]
    offsets: list[Floats]

    @property
    def gain(self) -> Floats:
        """What a grey step of one level in the input becomes: (rows, columns, 3)."""
        return np.stack([red + green + blue for red, green, blue in self.slopes], 2)


def fit_local_map(input_rgb: Pixels, output_rgb: Pixels) -> LocalMap:
    """The map from `input_rgb` to `output_rgb`, uint8 (H, W, 3); the last cells may lie partly outside."""
    source, target = _half(input_rgb), _half(output_rgb)
    # Means of bytes would be rounded to whole levels, too coarse to subtract their squares.
    mean_in, mean_out = (_windows(rgb.astype(np.uint16) << 8) / np.float32(256) for rgb in (source, target))
    turned = [target, *(_turned(target, by) for by in (1, 2))]
    squares = _windows(_product(source, source)) - mean_in * mean_in
    crossed = _windows(_product(source, _turned(source, 1))) - mean_in * np.roll(mean_in, -1, 2)
    # covariance[by][..., p]: of the input's p with the output's p + by
    covariance = [
        _windows(_product(source, out)) - mean_in * np.roll(mean_out, -by, 2) for by, out in enumerate(turned)
    ]
    return _solved(squares, crossed, covariance, mean_in, mean_out)


def _solved(squares: Floats, crossed: Floats, covariance: list[Floats], mean_in: Floats, mean_out: Floats) -> LocalMap:
    """Least squares in every window, with `_EPSILON` on the diagonal, by the inverse of a symmetric 3x3 matrix."""
    rr, gg, bb = _planes(squares + np.float32(_EPSILON))
    rg, gb, br = _planes(crossed)
    cofactors = [
        [gg * bb - gb * gb, br * gb - rg * bb, rg * gb - br * gg],
        [br * gb - rg * bb, rr * bb - br * br, br * rg - rr * gb],
        [rg * gb - br * gg, br * rg - rr * gb, rr * gg - rg * rg],
    ]
    scale = 1 / (rr * cofactors[0][0] + rg * cofactors[0][1] + br * cofactors[0][2])
    inverse = [[np.asarray(scale * cofactor, np.float32) for cofactor in row] for row in cofactors]
    by_output = [_planes(values) for values in covariance]
    slopes, offsets, means = [], [], _planes(mean_in)
    for c, mean in enumerate(_planes(mean_out)):
        with_input = [by_output[(c - p) % 3][p] for p in range(3)]
        slopes.append([_sum_of_products(row, with_input) for row in inverse])
        offsets.append(mean - _sum_of_products(slopes[-1], means))
    return LocalMap([[_averaged(plane) for plane in of] for of in slopes], [_averaged(plane) for plane in offsets])


def _sum_of_products(one: list[Floats], other: list[Floats]) -> Floats:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _planes(values: Floats) -> list[Floats]:
    return [np.asarray(plane, np.float32) for plane in cv2.split(values)]


def _half(rgb: Pixels) -> Pixels:
    """At half the size, for whole cells: beyond its last rows and columns, the frame goes on as they are."""
    bottom, right = -rgb.shape[0] % CELL, -rgb.shape[1] % CELL
    whole = cv2.copyMakeBorder(rgb, 0, bottom, 0, right, cv2.BORDER_REPLICATE) if bottom or right else rgb
    size = (rgb.shape[1] + right) // 2, (rgb.shape[0] + bottom) // 2
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)


def _turned(rgb: Pixels, by: int) -> Pixels:
    """The channels in another order: `by` further on comes first."""
    turned = np.empty_like(rgb)
    cv2.mixChannels([rgb], [turned], [n for c in range(3) for n in ((c + by) % 3, c)])
    return turned


def _product(a: Pixels, b: Pixels) -> npt.NDArray[np.uint16]:
    return np.multiply(a, b, dtype=np.uint16)


def _windows(values: npt.NDArray) -> Floats:
    """Means over windows of cells, float32 (rows, columns, 3)."""
    size = values.shape[1] * 2 // CELL, values.shape[0] * 2 // CELL
    return _averaged(cv2.resize(values, size, interpolation=cv2.INTER_AREA).astype(np.float32))


def _averaged(values: npt.ArrayLike) -> Floats:
    return np.asarray(cv2.blur(np.asarray(values, np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)
