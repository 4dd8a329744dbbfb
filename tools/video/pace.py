"""How fast a job runs, and how long it will take."""

import time
from collections.abc import Callable

from dsmap.common.text import duration

_MEASURED_FRAMES, _MEASURED_SECONDS = 2, 1.0  # after the first; frames under way together come at once
_WORTH_TELLING = 60.0  # seconds
_FASTER_LINES = 270  # of the shorter side
_REPORTED_EVERY, _LATER_EVERY = 10.0, 60.0  # seconds, in the first minute and after it


class Pace:
    """Frames over time, from the first frame that is done: what comes before it is not the usual speed.

    There is no speed before two more frames are done and a second has passed.
    """

    def __init__(
        self,
        lines: int | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        columns: int | None = None,
        may_shrink: bool = True,
    ) -> None:
        """`lines`: the height that frames are translated at, `columns` their width; None when unknown.

        `may_shrink`: whether to advise a lower height.
        """
        self._lines, self._clock = lines, clock
        self._may_shrink = may_shrink
        self._shorter = min(lines or 0, columns or lines or 0)
        self._begun = clock()
        self._first: tuple[float, int] | None = None
        self._done = 0
        self._expected: int | None = None
        self._now = self._begun
        self._advised = False
        self._reported = self._begun

    def advance(self, done: int, expected: int | None) -> None:
        """So many frames are done."""
        self._now, self._done, self._expected = self._clock(), done, expected
        if self._first is None:
            self._first = self._now, done

    @property
    def fps(self) -> float | None:
        """Frames a second; None before it is known."""
        if self._first is None:
            return None
        seconds, frames = self._now - self._first[0], self._done - self._first[1]
        return frames / seconds if frames >= _MEASURED_FRAMES and seconds >= _MEASURED_SECONDS else None

    @property
    def left(self) -> float | None:
        """Seconds to the end, from `fps`; None when unknown."""
        if not self.fps or not self._expected:
            return None
        return max(0, self._expected - self._done) / self.fps

    def status(self) -> str:
        """For a bar: "12.5 fps, 3 min left"."""
        left = self.left
        return (
            rate(self.fps) + " fps" + (f", {duration(left)} left" if left is not None else "") if self.fps else "- fps"
        )

    def advice(self) -> str | None:
        """Once, as soon as the speed of a long job is known: how long it will take, and what would be faster."""
        left = self.left
        if self._advised or left is None or left < _WORTH_TELLING:
            return None
        self._advised = True
        at = f" at {self._lines} lines" if self._lines else ""
        line = f"about {duration(left)} left{at}"
        if self._may_shrink and self._lines and self._shorter > 1.3 * _FASTER_LINES:
            # The network's time grows with its pixels; decoding, refining and encoding the full size stay as they are.
            share = _FASTER_LINES / self._shorter
            line += f"; --height {round(self._lines * share)}: {duration(left * share**2)} at best"
        return line

    def report(self) -> str | None:
        """A line for logs, every ten seconds in the first minute and every minute after it."""
        every = _REPORTED_EVERY if self._now - self._begun < 60 else _LATER_EVERY
        if self._now - self._reported < every:
            return None
        self._reported = self._now
        of = f" of {self._expected}" if self._expected else ""
        return f"{self._done}{of} frames" + (f", {self.status()}" if self.fps else "")


def rate(fps: float) -> str:
    """With one decimal, slow ones with two digits that say something: "12.5", "0.031"."""
    return f"{fps:.1f}" if fps >= 0.95 or fps == 0 else f"{fps:.2g}"
