"""Repairing the timestamps of single frames; for a clock that jumps see `timeline`."""

from fractions import Fraction

LONGEST_GAP = 3600  # seconds; an mp4 cannot hold much longer ones


class TimestampRepair:
    """Makes timestamps strictly increasing: missing and repeated ones are filled in, valid ones are kept.

    Where the file's clock jumps back, or ahead by more than an hour, it continues from the previous frame.
    """

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self._frame = max(1, round(1 / rate / time_base))
        self._second = round(1 / time_base)
        self._last: int | None = None
        self._moved_by = 0

    def next(self, pts: int | None, duration: int) -> int:
        """The timestamp of a frame with `pts`; all in ticks."""
        last, frame = self._last, duration or self._frame
        if last is None:
            pts = pts or 0
        elif pts is None:
            pts = last + frame
        else:
            if 0 < pts - last <= self._second:  # in step (again)
                self._moved_by = 0
            if not -self._second <= pts + self._moved_by - last <= LONGEST_GAP * self._second:
                self._moved_by = last + frame - pts
            pts = max(pts + self._moved_by, last + 1)  # + 1: so that the frames after it can keep theirs
        self._last = pts
        return pts
