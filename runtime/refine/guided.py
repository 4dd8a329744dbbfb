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
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.local_map import Floats, LocalMap, Pixels, fit_local_map
from dsmap.runtime.refine.mapped import STEPS, boost, gains, mapped, of_cells
from dsmap.runtime.refine.strips import Strip, in_threads, strips


def guided(frame_rgb: Pixels, small_rgb: Pixels, translated_rgb: Pixels) -> Pixels:
    """The translation at the size of `frame_rgb`, uint8 (H, W, 3), along its edges.

    `small_rgb`, `translated_rgb`: the frame at a lower size, and its translation, uint8 (h, w, 3).
    """
    base = _Base.of(small_rgb, fit_local_map(small_rgb, translated_rgb))
    result = np.empty(frame_rgb.shape, np.uint8)
    of_both = strips(frame_rgb.shape[0], small_rgb.shape[0])
    in_threads(lambda strip: _enlarge(frame_rgb, base, strip, result), of_both)
    return result


class _Base(NamedTuple):
    """What is enlarged, at the small size."""

    rgb: npt.NDArray[np.int16]
    grey: Pixels
    gain: npt.NDArray[np.int16]
    """(h, w, 3), in `STEPS`."""

    @classmethod
    def of(cls, small_rgb: Pixels, local_map: LocalMap) -> "_Base":
        rgb, gain = np.empty(small_rgb.shape, np.int16), np.empty(small_rgb.shape, np.int16)
        of_all = gains(local_map).astype(np.int16)

        def keep(rows: slice, planes: list[Floats]) -> None:
            cv2.merge([np.add(plane, 0.5, out=plane).astype(np.int16) for plane in planes], dst=rgb[rows])
            gain[rows] = of_cells(of_all, rows, small_rgb.shape[1])

        mapped(small_rgb, local_map, keep)
        return cls(rgb, np.asarray(cv2.cvtColor(small_rgb, cv2.COLOR_RGB2GRAY), np.uint8), gain)


def _enlarge(frame_rgb: Pixels, base: _Base, strip: Strip, result: Pixels) -> None:
    """Fills some rows of the result."""
    width = frame_rgb.shape[1]
    grey = np.asarray(cv2.cvtColor(frame_rgb[strip.rows], cv2.COLOR_RGB2GRAY))
    detail = np.subtract(grey, strip.enlarged(base.grey, width), dtype=np.int16)
    boost(detail)
    details = cv2.multiply(cv2.merge([detail] * 3), strip.enlarged(base.gain, width), scale=1 / STEPS)
    total = np.asarray(cv2.add(strip.enlarged(base.rgb, width), details))
    result[strip.rows] = np.clip(total, 0, 255, out=total)
