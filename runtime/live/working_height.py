"""The height at which a live session translates: given, or the largest that is fast enough."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dsmap.runtime.live.source import Pixels
from dsmap.runtime.video.scaling import scaled, size_at_height

HEIGHTS = (96, 120, 144, 192, 240, 288, 360, 432, 540, 720, 1080, 1440, 2160)
"""Heights to choose from, besides that of the frames. Below 96 lines hardly anything can be recognised."""
_SECONDS = 2.0  # that choosing may take, but for the frame under way
_ROOM = 1.1  # times faster than wanted: other programs and hot processors take their share


class WorkingHeight:
    """A height in pixels, for all threads of a session. Frames of fewer lines stay as they are."""

    def __init__(self, height: int | None = None, target_fps: float | None = None) -> None:
        """`height`: as given; without it, `target_fps` chooses one at the first frame. With neither, frames stay."""
        self.height = height
        self.found: FoundHeight | None = None
        """What was chosen by speed, unless it has been changed since."""
        self._target = None if height is not None else target_fps
        self._lines: int | None = None  # of the frames
        self._lock = threading.Lock()

    def of(self, frame_rgb: Pixels, translate: Callable[[Pixels], object]) -> int | None:
        """The height for a frame, uint8 RGB (H, W, 3); None keeps its own. The first call may choose it."""
        self._lines = frame_rgb.shape[0]
        if self._target is not None:
            target, self._target = self._target, None
            found = largest_fast_enough(frame_rgb, translate, target)
            with self._lock:
                self.height, self.found = found.height, found
        return self.height

    def step(self, by: int) -> int | None:
        """One height up (1) or down (-1), at most the frames' own; the new one, None before the first frame."""
        with self._lock:
            if self._lines is None:
                return None
            steps = heights_up_to(self._lines)
            now = self.height or self._lines
            further = [one for one in steps if (one > now if by > 0 else one < now)]
            if further:
                self.height = further[0] if by > 0 else further[-1]
                self.found = None
            return self.height or self._lines


def heights_up_to(lines: int) -> list[int]:
    """The heights to choose from for frames of so many lines, the smallest first, their own last."""
    return [*(height for height in HEIGHTS if height < lines), lines]


class FoundHeight(NamedTuple):
    """The height that a search ended with."""

    height: int | None
    """None: the frame's own."""
    fast_enough: bool
    """False where even the smallest is too slow."""


def largest_fast_enough(
    frame_rgb: Pixels, translate: Callable[[Pixels], object], fps: float, clock: Callable[[], float] = time.monotonic
) -> FoundHeight:
    """The largest height at which `translate` reaches `fps`, by measuring a few.

    It begins with the smallest and goes on with the largest one that should be fast enough, by the heights measured
    until then, until none is left or two seconds have passed; the height under way is measured to its end.
    """
    steps, began = heights_up_to(frame_rgb.shape[0]), clock()
    seconds = {0: _measured(frame_rgb, translate, steps[0], clock)}
    limit = 1 / (fps * _ROOM)
    best, too_slow = 0, len(steps)
    while seconds[best] <= limit and clock() - began < _SECONDS:
        known = {steps[place]: took for place, took in seconds.items()}
        likely = [place for place in range(best + 1, too_slow) if _expected(known, steps[place]) <= limit]
        if not likely:
            break
        place = likely[-1]
        seconds[place] = _measured(frame_rgb, translate, steps[place], clock)
        best, too_slow = (place, too_slow) if seconds[place] <= limit else (best, place)
    return FoundHeight(None if best == len(steps) - 1 else steps[best], seconds[best] <= limit)


def _expected(known: Mapping[int, float], lines: int) -> float:
    """Seconds of a frame of so many lines, from those of other heights: on a line through the two nearest, both scales
    logarithmic. Time grows with the pixels at least, which is all that is known from one height."""
    below = max(height for height in known if height < lines)
    above = min((height for height in known if height > lines), default=None)
    other = above or max((height for height in known if height < below), default=None)
    steepness = 2.0
    if other is not None:
        measured = math.log(known[other] / known[below]) / math.log(other / below)
        steepness = measured if above else max(2.0, measured)
    return known[below] * (lines / below) ** steepness


def _measured(
    frame_rgb: Pixels, translate: Callable[[Pixels], object], lines: int, clock: Callable[[], float]
) -> float:
    """Seconds that a frame of so many lines takes, after one that makes ready for the size."""
    small_rgb = scaled(frame_rgb, size_at_height(frame_rgb.shape[1], frame_rgb.shape[0], lines))
    translate(small_rgb)
    began = clock()
    translate(small_rgb)
    return max(clock() - began, 1e-9)
