"""The height at which a live session translates: given, or the largest that is fast enough."""

import threading
import time
from collections.abc import Callable

from dsmap.runtime.live.source import Pixels
from dsmap.runtime.video.scaling import scaled, size_at_height

HEIGHTS = (144, 192, 240, 288, 360, 432, 540, 720, 1080, 1440, 2160)
"""Heights to choose from, besides that of the frames."""
_SECONDS = 2.0  # that choosing may take, but for the frame under way
_ROOM = 1.1  # times faster than wanted: other programs and hot processors take their share


class WorkingHeight:
    """A height in pixels, for all threads of a session. Frames of fewer lines stay as they are."""

    def __init__(self, height: int | None = None, target_fps: float | None = None) -> None:
        """`height`: as given; without it, `target_fps` chooses one at the first frame. With neither, frames stay."""
        self.height = height
        self.chosen = False
        """Whether it was chosen by speed, and not changed since."""
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
                self.height, self.chosen = found, found is not None
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
                self.chosen = False
            return self.height or self._lines


def heights_up_to(lines: int) -> list[int]:
    """The heights to choose from for frames of so many lines, the smallest first, their own last."""
    return [*(height for height in HEIGHTS if height < lines), lines]


def largest_fast_enough(
    frame_rgb: Pixels, translate: Callable[[Pixels], object], fps: float, clock: Callable[[], float] = time.monotonic
) -> int | None:
    """The largest height at which `translate` reaches `fps`; None: the frame's own is fast enough.

    It is measured from the smallest up: time grows with the pixels, and faster where caches overflow. Takes two
    seconds at most and one frame.
    """
    steps = heights_up_to(frame_rgb.shape[0])
    began, chosen, seconds = clock(), 0, 0.0
    place: int | None = 0
    while place is not None:
        seconds = _measured(frame_rgb, translate, steps[place], clock)
        if seconds * fps * _ROOM > 1 and place > 0:
            break
        chosen = place
        likely = [
            later
            for later in range(place + 1, len(steps))
            if seconds * (steps[later] / steps[place]) ** 2 * fps * _ROOM <= 1
        ]
        place = likely[-1] if likely and clock() - began < _SECONDS else None
    return None if chosen == len(steps) - 1 else steps[chosen]


def _measured(
    frame_rgb: Pixels, translate: Callable[[Pixels], object], lines: int, clock: Callable[[], float]
) -> float:
    """Seconds that a frame of so many lines takes, after one that makes ready for the size."""
    small_rgb = scaled(frame_rgb, size_at_height(frame_rgb.shape[1], frame_rgb.shape[0], lines))
    translate(small_rgb)
    began = clock()
    translate(small_rgb)
    return clock() - began
