"""Optical flow between consecutive frames.

It goes back in time: for each pixel of the current frame, where it was in the previous frame.
"""

from functools import lru_cache
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
AnyImage = TypeVar("AnyImage", Pixels, Floats)

MEDIUM, FAST = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, cv2.DISOPTICAL_FLOW_PRESET_FAST
MIN_SIDE = 16
"""The smallest height and width of a frame, in pixels: OpenCV's DIS refuses sides below 12."""


class Flow(NamedTuple):
    """The motion between two grey frames (h, w)."""

    back_hw2: Floats
    """Backward flow: (x, y) in pixels from a pixel of the current frame to where it was, float32."""
    places_hw2: Floats
    """The same as positions (x, y) in the previous frame, for cv2.remap, float32."""
    forth_hw2: Floats
    """Forward flow at those positions: the opposite of the backward flow where both are right, float32."""
    inside_hw: npt.NDArray[np.uint8]
    """255 where the position lies in the previous frame, 0 where the pixel has come in over the edge."""


class FlowFinder:
    """Flow by OpenCV's dense inverse search (Kroeger et al. 2016), in both directions."""

    def __init__(self, preset: int, finest_scale: int | None = None) -> None:
        """`preset`: MEDIUM or FAST. `finest_scale`: flow is found at 1 / 2^scale of the size, and enlarged."""
        self._search = cv2.DISOpticalFlow.create(preset)
        if finest_scale is not None:
            self._search.setFinestScale(finest_scale)

    def __call__(self, now_grey: Pixels, before_grey: Pixels) -> Flow:
        """The flow between two grey frames of one size, at least 16 x 16 (see `grey_at`)."""
        back = self._flow(now_grey, before_grey)
        forth = self._flow(before_grey, now_grey)
        height, width = now_grey.shape
        places = back + pixel_grid(width, height)
        x, y = cv2.split(places)
        inside = cv2.bitwise_and(cv2.inRange(x, 0.0, width - 1.0), cv2.inRange(y, 0.0, height - 1.0))
        return Flow(back, places, warped(forth, places), np.asarray(inside, np.uint8))

    def _flow(self, start_grey: Pixels, end_grey: Pixels) -> Floats:
        # None: an array that is passed in would be taken as an initial guess.
        flow = self._search.calc(start_grey, end_grey, None)  # type: ignore[call-overload]
        return np.asarray(flow, np.float32)


def squared_length(vectors_hw2: Floats) -> Floats:
    """The squared lengths (H, W), float32, of vectors (H, W, 2)."""
    x, y = cv2.split(vectors_hw2)
    return np.asarray(x * x + y * y, np.float32)


@lru_cache(maxsize=4)
def pixel_grid(width: int, height: int) -> Floats:
    """The position (x, y) of each pixel, float32 (H, W, 2); read-only."""
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0], grid[..., 1] = np.arange(width), np.arange(height)[:, None]
    grid.setflags(write=False)
    return grid


def grey_at(frame_rgb: Pixels, lines: int) -> Pixels:
    """Converts a frame to grey, at most `lines` high with its aspect kept, and no side below MIN_SIDE."""
    height, width = frame_rgb.shape[:2]
    factor = min(1.0, lines / height)
    size = (max(MIN_SIDE, round(width * factor)), max(MIN_SIDE, round(height * factor)))
    grey = cv2.cvtColor(np.ascontiguousarray(frame_rgb), cv2.COLOR_RGB2GRAY)
    if size != (width, height):
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


def warped(before: AnyImage, places_hw2: Floats, method: int = cv2.INTER_LINEAR) -> AnyImage:
    """The previous frame, moved to where its content is now. Its edge pixels are repeated outside."""
    # The type stubs require a second map, which is part of the first one here.
    return cv2.remap(before, places_hw2, None, method, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
