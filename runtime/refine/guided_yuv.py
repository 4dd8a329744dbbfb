"""The same as `guided` for frames that stay Y'CbCr in 4:2:0, as videos hold them: half the values, and no conversions.

    guided_yuv(frame, small_rgb, translated_rgb, result)    # fills the planes of `result`: BT.709 in limited range

Brightness is the frame's own luma. What is enlarged is the same map and gain, as Y'CbCr: the luma at full size, the
colours at half of it. All of this is linear, so the result is that of `guided` but for rounding and for colours that
RGB does not have, which whatever shows them clips.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.local_map import Floats, LocalMap, Pixels, fit_local_map
from dsmap.runtime.refine.mapped import STEPS, boost, gains, mapped, of_cells
from dsmap.runtime.refine.strips import Strip, in_threads, strips
from dsmap.runtime.refine.yuv_planes import BLACK, COLOUR_SPAN, LUMA_SPAN, YuvKind, YuvPlanes, from_rgb

_SHIFT = 5
UNITS = 1 << _SHIFT
"""Of a level, in what is enlarged: rounding comes last."""
_Fine = npt.NDArray[np.int16]


def guided_yuv(
    frame: YuvPlanes, small_rgb: Pixels, translated_rgb: Pixels, result: YuvPlanes, fine: Sequence[_Fine] = ()
) -> None:
    """Fills `result` (BT.709, limited range) with the translation at the size of `frame`, along its edges.

    `small_rgb`, `translated_rgb`: as for `guided`. `fine`: filled with the colours, blue and red difference in `UNITS`,
    by whoever changes them further: a change of less than half a level is lost in `result`.
    """
    height, small = frame.luma.shape[0], small_rgb.shape[:2]
    luma = np.asarray(cv2.resize(frame.luma, small[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    base = _YuvBase.of(small_rgb, fit_local_map(small_rgb, translated_rgb), luma)
    # Of the colours' rows, so that a strip has whole ones of those too.
    in_threads(lambda strip: _enlarge(frame, base, strip, result, fine), strips(height // 2, small[0], 2))


class _YuvBase(NamedTuple):
    """What is enlarged, at the small size; both (h, w) for luma, blue and red difference."""

    values: list[npt.NDArray[np.int16]]
    """In `UNITS` of a level."""
    gains: list[npt.NDArray[np.int16]]
    """In `STEPS`."""
    luma: Pixels
    """Of the frame."""

    @classmethod
    def of(cls, small_rgb: Pixels, local_map: LocalMap, luma: Pixels) -> "_YuvBase":
        size = small_rgb.shape[:2]
        values = [np.empty(size, np.int16) for _ in range(3)]
        gain = [np.empty(size, np.int16) for _ in range(3)]
        matrix, offset = from_rgb(YuvKind())
        of_all = np.asarray(cv2.transform(gains(local_map), matrix * 255 / LUMA_SPAN))
        whole = [np.rint(plane).astype(np.int16) for plane in cv2.split(of_all)]
        to_yuv = np.hstack([matrix * UNITS, offset[:, None] * UNITS + 0.5]).astype(np.float32)

        def keep(rows: slice, planes: list[Floats]) -> None:
            yuv = np.asarray(cv2.transform(cv2.merge(planes), to_yuv)).astype(np.int16)
            for plane, target in zip(cv2.split(yuv), values, strict=True):
                target[rows] = plane
            for plane, target in zip(whole, gain, strict=True):
                target[rows] = of_cells(plane, rows, size[1])

        mapped(small_rgb, local_map, keep)
        return cls(values, gain, luma)


def _enlarge(frame: YuvPlanes, base: _YuvBase, strip: Strip, result: YuvPlanes, fine: Sequence[_Fine]) -> None:
    """Fills some rows of the result; those of the strip are the colours'."""
    height, width = strip.rows.stop - strip.rows.start, frame.luma.shape[1]
    rows = slice(strip.rows.start * 2, strip.rows.stop * 2)
    detail = np.subtract(frame.luma[rows], strip.enlarged(base.luma, width, 2), dtype=np.int16)
    boost(detail, 1.0 if frame.kind.is_full else LUMA_SPAN / 255)
    scale = UNITS / STEPS * (LUMA_SPAN / 255 if frame.kind.is_full else 1.0)
    half = np.asarray(cv2.resize(detail, (width // 2, height), interpolation=cv2.INTER_AREA))
    parts = zip(base.values, base.gains, result[:3], (None, *(fine or (None, None))), strict=True)
    for plane, (values, gain, target, exact) in zip((detail, half, half), parts, strict=True):
        times, across, span = (2, width, LUMA_SPAN) if plane is detail else (1, width // 2, COLOUR_SPAN)
        details = cv2.multiply(plane, strip.enlarged(gain, across, times), scale=scale)
        total = np.asarray(cv2.add(strip.enlarged(values, across, times), details), np.int16)
        place = slice(strip.rows.start * times, strip.rows.stop * times)
        if exact is not None:
            exact[place] = total
        round_off(total, span, target[place])


def round_off(values: _Fine, span: int, result: Pixels) -> None:
    """Fills `result` with values in `UNITS`, rounded and limited to a range of so many levels; they are used up."""
    values += UNITS // 2
    values >>= _SHIFT
    result[:] = np.clip(values, BLACK, BLACK + span, out=values)
