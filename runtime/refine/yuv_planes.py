"""Frames as planes of Y'CbCr in 4:2:0, and what their values are in RGB."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.runtime.refine.local_map import Pixels

Matrix = npt.NDArray[np.float64]
BLACK, GREY = 16, 128
LUMA_SPAN, COLOUR_SPAN = 219, 224
BT709 = (0.2126, 0.0722)


class YuvKind(NamedTuple):
    """What the values of a frame mean."""

    weights: tuple[float, float] = BT709
    """Of red and blue in the luma."""
    is_full: bool = False
    """Whether they have the full range, 0 to 255."""


class YuvPlanes(NamedTuple):
    """A frame in 4:2:0 with 8 bits: uint8 luma (H, W), and blue and red difference (H/2, W/2); H and W are even."""

    luma: Pixels
    blue: Pixels
    red: Pixels
    kind: YuvKind = YuvKind()


def from_rgb(kind: YuvKind) -> tuple[Matrix, Matrix]:
    """(m, offset): luma, blue and red difference are m @ rgb + offset, of red, green and blue from 0 to 255."""
    red, blue = kind.weights
    green = 1 - red - blue
    luma_span, colour_span = (255, 255) if kind.is_full else (LUMA_SPAN, COLOUR_SPAN)
    rows = [
        np.array([red, green, blue]) * luma_span,
        np.array([-red, -green, 1 - blue]) / (2 * (1 - blue)) * colour_span,
        np.array([1 - red, -green, -blue]) / (2 * (1 - red)) * colour_span,
    ]
    return np.array(rows) / 255, np.array([0.0 if kind.is_full else BLACK, GREY, GREY])
