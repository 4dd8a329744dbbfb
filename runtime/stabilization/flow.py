"""Optical flow between consecutive frames, and where it can be trusted.

Everything here looks back: for each pixel of the frame now, where it was in the frame before.
"""

from functools import lru_cache
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Picture = TypeVar("Picture", Pixels, Floats)

MEDIUM, FAST = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, cv2.DISOPTICAL_FLOW_PRESET_FAST
SMALLEST = 16
"""The least side of a picture, in pixels: OpenCV's DIS refuses sides below 12."""


class Flow(NamedTuple):
    """The movement from one grey picture (h, w) to the next; all float32."""

    back_hw2: Floats
    """(x, y) in pixels from a pixel of the picture now to where it was before."""
    places_hw2: Floats
    """The same as places (x, y) in the picture before, for cv2.remap."""
    forth_hw2: Floats
    """The flow forth from those places: the opposite of the flow back where both are right."""
    inside_hw: npt.NDArray[np.uint8]
    """255 where the place lies in the picture before, 0 where the pixel has come in over the edge."""


class FlowFinder:
    """Dense inverse search (Kroeger et al. 2016), OpenCV's own, both ways."""

    def __init__(self, preset: int, finest_scale: int | None = None) -> None:
        """`finest_scale`: flow is found on 1 / 2^scale of the picture's pixels and enlarged; None is the preset's."""
        self._search = cv2.DISOpticalFlow.create(preset)
        if finest_scale is not None:
            self._search.setFinestScale(finest_scale)

    def __call__(self, now_grey: Pixels, before_grey: Pixels) -> Flow:
        """From two grey pictures of one size, at least 16 x 16 (see `grey_at`)."""
        back = self._flow(now_grey, before_grey)
        forth = self._flow(before_grey, now_grey)
        height, width = now_grey.shape
        places = back + pixel_grid(width, height)
        x, y = cv2.split(places)
        inside = cv2.bitwise_and(cv2.inRange(x, 0.0, width - 1.0), cv2.inRange(y, 0.0, height - 1.0))
        return Flow(back, places, warped(forth, places), np.asarray(inside, np.uint8))

    def _flow(self, start_grey: Pixels, end_grey: Pixels) -> Floats:
        # A new array each time: one that is given would be taken for a first guess.
        flow = self._search.calc(start_grey, end_grey, None)  # type: ignore[call-overload]
        return np.asarray(flow, np.float32)


def squared_length(vectors_hw2: Floats) -> Floats:
    """(H, W, 2) -> (H, W)."""
    x, y = cv2.split(vectors_hw2)
    return np.asarray(x * x + y * y, np.float32)


@lru_cache(maxsize=4)
def pixel_grid(width: int, height: int) -> Floats:
    """(H, W, 2): each pixel's own place (x, y). Not to be written to."""
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0], grid[..., 1] = np.arange(width), np.arange(height)[:, None]
    grid.setflags(write=False)
    return grid


def grey_at(frame_rgb: Pixels, lines: int) -> Pixels:
    """The frame in grey, at most `lines` high with its aspect kept, and no side below what flow needs."""
    height, width = frame_rgb.shape[:2]
    factor = min(1.0, lines / height)
    size = (max(SMALLEST, round(width * factor)), max(SMALLEST, round(height * factor)))
    grey = cv2.cvtColor(np.ascontiguousarray(frame_rgb), cv2.COLOR_RGB2GRAY)
    if size != (width, height):
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


def warped(before: Picture, places_hw2: Floats, method: int = cv2.INTER_LINEAR) -> Picture:
    """The picture before, moved to where its content is now. Beyond its edge come the last pixels."""
    # The type stubs know no second map, which the first has in it here.
    return cv2.remap(before, places_hw2, None, method, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
