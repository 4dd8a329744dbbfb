"""The local map of a small frame, as values that are ready to be enlarged."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.local_map import CELL, Floats, LocalMap, Pixels
from dsmap.runtime.refine.strips import ROWS, in_threads

_SHIFT = 6
STEPS = 1 << _SHIFT
"""Steps of the gain between 0 and 1."""
_MOST_GAIN = 4.0
_BOOST, _BOOSTED = 12, 20
"""Networks sharpen fine details more than the coarser ones that the map is fitted to: the gain, in `STEPS`, that is
added for the first levels of a detail. More of a strong edge would be a halo."""


def mapped(small_rgb: Pixels, local_map: LocalMap, keep: Callable[[slice, list[Floats]], None]) -> None:
    """Gives `keep` the map of the small frame, some rows at a time: them, and red, green, blue, each 0 to 255."""
    height = small_rgb.shape[0]

    def fill(top: int) -> None:
        rows = slice(top, min(top + ROWS, height))
        keep(rows, _mapped_rows(small_rgb[rows], local_map, rows))

    in_threads(fill, range(0, height, ROWS))


def gains(local_map: LocalMap) -> npt.NDArray[np.float32]:
    """The gain of red, green and blue in every cell, in `STEPS`: (rows, columns, 3)."""
    limit = _MOST_GAIN * STEPS
    return np.clip(local_map.gain * np.float32(STEPS), -limit, limit)


def of_cells(values: npt.NDArray, rows: slice, width: int) -> npt.NDArray:
    """The values of cells for every pixel of some rows, linear between the cells' centres."""
    first, last = max(0, rows.start // CELL - 1), min(values.shape[0], -(-rows.stop // CELL) + 1)
    size = values.shape[1] * CELL, (last - first) * CELL
    pixels = np.asarray(cv2.resize(values[first:last], size, interpolation=cv2.INTER_LINEAR))
    return pixels[rows.start - first * CELL : rows.stop - first * CELL, :width]


def boost(detail: npt.NDArray[np.int16], unit: float = 1.0) -> None:
    """Adds what networks sharpen to details, in place; a level is `unit` in them."""
    most = round(_BOOSTED * unit)
    fine = np.clip(detail, -most, most)
    fine *= _BOOST
    fine += STEPS // 2
    fine >>= _SHIFT
    detail += fine


def _mapped_rows(strip_rgb: Pixels, local_map: LocalMap, rows: slice) -> list[Floats]:
    inputs = [plane.astype(np.float32) for plane in cv2.split(strip_rgb)]
    planes = []
    for slopes, offsets in zip(local_map.slopes, local_map.offsets, strict=True):
        total = of_cells(offsets, rows, strip_rgb.shape[1]).copy()
        for slope, values in zip(slopes, inputs, strict=True):
            part = of_cells(slope, rows, strip_rgb.shape[1])
            part *= values
            total += part
        planes.append(np.clip(total, 0, 255, out=total))
    return planes
