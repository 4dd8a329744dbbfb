"""The same as `guided` for frames that stay Y'CbCr in 4:2:0, as videos hold them: fewer values, and no conversions.

    guided_yuv(frame, small_rgb, translated_rgb, result)    # fills the planes of `result`: BT.709 in limited range

Brightness is the frame's own luma. What is enlarged is the same map and gain: those of the luma at full size, those of
red, green and blue at half of it, where they become the two colours. That is linear, so the result is the one of
`guided` but for rounding, with one exception: what RGB limits to 0 and 255. Red, green and blue are limited at half the
size, or white that is overdrawn would have a tint.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.local_map import Floats, LocalMap, Pixels, fit_local_map
from dsmap.runtime.refine.mapped import STEPS, boost, gains, mapped, of_cells
from dsmap.runtime.refine.strips import Strip, in_threads, strips
from dsmap.runtime.refine.yuv_planes import BLACK, BT709, COLOUR_SPAN, GREY, LUMA_SPAN, YuvKind, YuvPlanes, from_rgb

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
    """What is enlarged, at the small size: (h, w) for luma, red, green and blue."""

    values: list[_Fine]
    """In `UNITS` of a level: of the limited range for luma, of 0 to 255 for the others."""
    gains: list[_Fine]
    """In `STEPS`, for details in levels of 0 to 255."""
    luma: Pixels
    """Of the frame."""

    @classmethod
    def of(cls, small_rgb: Pixels, local_map: LocalMap, luma: Pixels) -> "_YuvBase":
        values = [np.empty(luma.shape, np.int16) for _ in range(4)]
        gain = [np.empty(luma.shape, np.int16) for _ in range(4)]
        weights = [float(weight) for weight in from_rgb(YuvKind())[0][0]]
        of_rgb = list(cv2.split(gains(local_map)))
        whole = [np.rint(plane).astype(np.int16) for plane in (_weighted(weights, of_rgb), *of_rgb)]

        def keep(rows: slice, planes: list[Floats]) -> None:
            for plane, target in zip((_weighted(weights, planes) + BLACK, *planes), values, strict=True):
                plane *= UNITS
                plane += 0.5
                target[rows] = plane
            for plane, target in zip(whole, gain, strict=True):
                target[rows] = of_cells(plane, rows, luma.shape[1])

        mapped(small_rgb, local_map, keep)
        return cls(values, gain, luma)


def _weighted(weights: list[float], planes: Sequence[npt.NDArray]) -> npt.NDArray:
    red, green, blue = planes
    return red * weights[0] + green * weights[1] + blue * weights[2]


def _enlarge(frame: YuvPlanes, base: _YuvBase, strip: Strip, result: YuvPlanes, fine: Sequence[_Fine]) -> None:
    """Fills some rows of the result; those of the strip are the colours'."""
    half, width = strip.rows, frame.luma.shape[1]
    rows = slice(half.start * 2, half.stop * 2)
    detail = np.subtract(frame.luma[rows], strip.enlarged(base.luma, width, 2), dtype=np.int16)
    unit = 1.0 if frame.kind.is_full else LUMA_SPAN / 255
    boost(detail, unit)
    luma = _detailed(base, 0, detail, strip, 1 / unit)
    round_off(luma, LUMA_SPAN, result.luma[rows])
    detail = np.asarray(cv2.resize(detail, (width // 2, half.stop - half.start), interpolation=cv2.INTER_AREA))
    rgb = [_detailed(base, channel, detail, strip, 1 / unit) for channel in (1, 2, 3)]
    targets = zip(_colours(rgb), (result.blue, result.red), fine or (None, None), strict=True)
    for plane, target, exact in targets:
        if exact is not None:
            exact[half] = plane
        round_off(plane, COLOUR_SPAN, target[half])


def _detailed(base: _YuvBase, number: int, detail: npt.NDArray, strip: Strip, scale: float) -> _Fine:
    """The strip's rows of the luma or of a channel, enlarged to the size of the details, with those, in `UNITS`."""
    width, times = detail.shape[1], len(detail) // (strip.rows.stop - strip.rows.start)
    gain = strip.enlarged(base.gains[number], width, times)
    details = cv2.multiply(detail, gain, scale=scale * UNITS / STEPS)
    return np.asarray(cv2.add(strip.enlarged(base.values[number], width, times), details), np.int16)


def _colours(rgb: list[_Fine]) -> tuple[_Fine, _Fine]:
    """Blue and red difference, in `UNITS` of the limited range, of red, green and blue, which are limited."""
    for plane in rgb:
        np.clip(plane, 0, 255 * UNITS, out=plane)
    red, green, blue = rgb
    of_red, of_blue = BT709
    luma = cv2.addWeighted(cv2.addWeighted(red, of_red, green, 1 - of_red - of_blue, 0), 1, blue, of_blue, 0)

    def difference(plane: _Fine, weight: float) -> _Fine:
        scale = COLOUR_SPAN / 255 / (2 * (1 - weight))
        return np.asarray(cv2.addWeighted(plane, scale, luma, -scale, GREY * UNITS), np.int16)

    return difference(blue, of_blue), difference(red, of_red)


def round_off(values: _Fine, span: int, result: Pixels) -> None:
    """Fills `result` with values in `UNITS`, rounded and limited to a range of so many levels; they are used up."""
    values += UNITS // 2
    values >>= _SHIFT
    result[:] = np.clip(values, BLACK, BLACK + span, out=values)
