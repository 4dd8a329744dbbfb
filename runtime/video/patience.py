"""Patience with a stream that sends data and no frames."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Patience:
    """Counts the seconds in which a stream gave no frame; it is over after `seconds` of them.

    Seconds in which the consumer of the frames holds the stream up do not count.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._without = 0.0
        self._last = time.monotonic()
        self._seen = False

    def saw_frame(self) -> None:
        """Reset: a frame came."""
        self._without, self._seen = 0.0, True

    def count(self) -> None:
        """Count the time since the last call as spent waiting for the stream."""
        now = time.monotonic()
        self._without += now - self._last
        self._last = now

    def leave_out(self) -> None:
        """Do not count the time since the last call."""
        self._last = time.monotonic()

    @contextmanager
    def decoding(self, *, counts: bool) -> Iterator[None]:
        """Context in which a consumer has a packet: that time `counts` for packets of the video that give no frame."""
        self.count()
        self._seen = False
        yield
        if counts and not self._seen:
            self.count()
        else:
            self.leave_out()

    @property
    def is_over(self) -> bool:
        """Whether the stream has given no frame for too long."""
        return self._without > self.seconds
