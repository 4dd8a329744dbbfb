"""Enlarging a translation along the edges of its input, without any learning.

    result_rgb = guided(frame_rgb, small_rgb, translated_rgb)  # uint8, the last two at the size that was translated

The translation is described as an affine map of the input's colours around every pixel, see `local_map`. The map tells
what becomes of details that the small frame does not have:

    result = enlarged(map of the small frame) + enlarged(gain) * (brightness - enlarged(brightness of the small frame))

Details are taken in grey: that was measured to be as good as in colours, and needs half as many values for each pixel
of the full size. The map of the small frame smooths the translation where the input is smooth; that too was measured
to come nearer to a translation at full size, as what a network invents differs from size to size.

Values between two steps are 16-bit integers: OpenCV and NumPy do those several at a time, where mixed types take one
after the other.

Frames are worked on in strips of rows by a few threads; the result does not depend on them. Strips begin where rows of
both sizes do: heights without a common divisor make a single one, which needs more memory and one core.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import gcd
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.local_map import CELL, LocalMap, Pixels, fit_local_map
from dsmap.runtime.system.cpu import allowed_cores

_SHIFT = 6
_STEPS = 1 << _SHIFT
"""Steps of the gain between 0 and 1."""
_MOST_GAIN = 4.0
_BOOST, _BOOSTED = 12, 20
"""Networks sharpen fine details more than the coarser ones that the map is fitted to: the gain, in `_STEPS`, that is
added for the first levels of a detail. More of a strong edge would be a halo."""
_ROWS = 128
"""Rows of a strip: what lies between two steps stays in the cache. Half as many cost a fifth more."""
_MOST_THREADS = 4
_Item = TypeVar("_Item")


def guided(frame_rgb: Pixels, small_rgb: Pixels, translated_rgb: Pixels) -> Pixels:
    """The translation at the size of `frame_rgb`, uint8 (H, W, 3), along its edges.

    `small_rgb`, `translated_rgb`: the frame at a lower size, and its translation, uint8 (h, w, 3).
    """
    base = _Base.of(small_rgb, fit_local_map(small_rgb, translated_rgb))
    result = np.empty(frame_rgb.shape, np.uint8)
    strips = _strips(frame_rgb.shape[0], small_rgb.shape[0])
    _each(lambda strip: _enlarge(frame_rgb, base, strip, result), strips)
    return result


class _Base(NamedTuple):
    """What is enlarged, at the small size."""

    rgb: npt.NDArray[np.int16]
    grey: Pixels
    gain: npt.NDArray[np.int16]
    """(h, w, 3), in `_STEPS`."""

    @classmethod
    def of(cls, small_rgb: Pixels, local_map: LocalMap) -> "_Base":
        height, width = small_rgb.shape[:2]
        rgb = np.empty((height, width, 3), np.int16)
        gain = np.empty((height, width, 3), np.int16)
        limit = _MOST_GAIN * _STEPS
        gains = np.clip(local_map.gain * np.float32(_STEPS), -limit, limit).astype(np.int16)

        def fill(top: int) -> None:
            rows = slice(top, min(top + _ROWS, height))
            _map(small_rgb[rows], local_map, rows, rgb[rows])
            gain[rows] = _of_cells(gains, rows, width)

        _each(fill, range(0, height, _ROWS))
        return cls(rgb, np.asarray(cv2.cvtColor(small_rgb, cv2.COLOR_RGB2GRAY), np.uint8), gain)


def _map(strip_rgb: Pixels, local_map: LocalMap, rows: slice, result: npt.NDArray[np.int16]) -> None:
    """Fills `result` with the map of some rows of the small frame."""
    inputs = [plane.astype(np.float32) for plane in cv2.split(strip_rgb)]
    planes = []
    for slopes, offsets in zip(local_map.slopes, local_map.offsets, strict=True):
        total = _of_cells(offsets, rows, strip_rgb.shape[1]).copy()
        for slope, values in zip(slopes, inputs, strict=True):
            part = _of_cells(slope, rows, strip_rgb.shape[1])
            part *= values
            total += part
        total += 0.5
        planes.append(np.clip(total, 0, 255, out=total).astype(np.int16))
    cv2.merge(planes, dst=result)


def _of_cells(values: npt.NDArray, rows: slice, width: int) -> npt.NDArray:
    """The values of cells for every pixel of some rows, linear between the cells' centres."""
    first, last = max(0, rows.start // CELL - 1), min(values.shape[0], -(-rows.stop // CELL) + 1)
    size = values.shape[1] * CELL, (last - first) * CELL
    pixels = np.asarray(cv2.resize(values[first:last], size, interpolation=cv2.INTER_LINEAR))
    return pixels[rows.start - first * CELL : rows.stop - first * CELL, :width]


class _Strip(NamedTuple):
    """Rows of the full size, and the rows of the small one that they are made of."""

    rows: slice
    small: slice
    before: int
    """How many rows of the enlarged small ones lie before them."""


def _strips(height: int, small: int) -> Iterator[_Strip]:
    """Strips whose first and last rows fall on rows of the small size, so that they fit together exactly."""
    shared = gcd(height, small)
    full_step, small_step = height // shared, small // shared
    times = max(1, _ROWS // full_step)
    for first in range(0, shared, times):
        last = min(first + times, shared)
        low, high = max(0, first - 1), min(shared, last + 1)
        yield _Strip(
            slice(first * full_step, last * full_step),
            slice(low * small_step, high * small_step),
            (first - low) * full_step,
        )


def _enlarge(frame_rgb: Pixels, base: _Base, strip: _Strip, result: Pixels) -> None:
    """Fills some rows of the result."""
    rows, small, before = strip
    count, width = rows.stop - rows.start, frame_rgb.shape[1]
    lines = (small.stop - small.start) * frame_rgb.shape[0] // base.rgb.shape[0]

    def enlarged(values: npt.NDArray) -> npt.NDArray:
        whole = cv2.resize(values[small], (width, lines), interpolation=cv2.INTER_LINEAR)
        return np.asarray(whole)[before : before + count]

    grey = np.asarray(cv2.cvtColor(frame_rgb[rows], cv2.COLOR_RGB2GRAY))
    detail = np.subtract(grey, enlarged(base.grey), dtype=np.int16)
    fine = np.clip(detail, -_BOOSTED, _BOOSTED)
    fine *= _BOOST
    fine += _STEPS // 2
    fine >>= _SHIFT
    detail += fine
    details = cv2.multiply(cv2.merge([detail] * 3), enlarged(base.gain), scale=1 / _STEPS)
    total = np.asarray(cv2.add(enlarged(base.rgb), details))
    result[rows] = np.clip(total, 0, 255, out=total)


def _each(work: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call `work` for every item, in threads."""
    for _ in _threads().map(work, items):
        pass


@cache
def _threads() -> ThreadPoolExecutor:
    cores = allowed_cores() or os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, _MOST_THREADS), thread_name_prefix="refine")
