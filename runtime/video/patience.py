"""How long a stream may go on without a picture."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Patience:
    """Counts the seconds in which a stream gave no picture; it is over after `seconds` of them.

    Seconds in which those who use the pictures hold the stream up are none of its fault, and do not count.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._without = 0.0
        self._last = time.monotonic()
        self._seen = False

    def saw_frame(self) -> None:
        """Begin anew."""
        self._without, self._seen = 0.0, True

    def count(self) -> None:
        """The time since the last call was spent waiting for the stream."""
        now = time.monotonic()
        self._without += now - self._last
        self._last = now

    def leave_out(self) -> None:
        """The time since the last call was spent on something else."""
        self._last = time.monotonic()

    @contextmanager
    def decoding(self, *, counts: bool) -> Iterator[None]:
        """Around the time in which others have a packet: it `counts` when it is of the video and no picture comes."""
        self.count()
        self._seen = False
        yield
        if counts and not self._seen:
            self.count()
        else:
            self.leave_out()

    @property
    def is_over(self) -> bool:
        """Whether it has gone on for too long."""
        return self._without > self.seconds
