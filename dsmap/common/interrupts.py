"""Ctrl-C, SIGTERM and a closed terminal ask to stop after the current frame, so that files are finished, not torn."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dsmap.common.signals import stop_signal_numbers


class StopRequest:
    """Tells whether somebody asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.insisted = False
        """Asked again: nothing is worth waiting for."""
        self._interruptible = False

    def __bool__(self) -> bool:
        return self.requested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In this block a second signal raises KeyboardInterrupt: for slow work that may be cut off."""
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == getattr(signal, "SIGHUP", None):  # it comes twice: from the kernel and from the shell
            self.requested = True
            return
        if self.requested and self._interruptible:
            raise KeyboardInterrupt
        self.insisted = self.requested
        self.requested = True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP (the terminal was closed) set the request.

    See `StopRequest.interruptible` for the second Ctrl-C or SIGTERM.
    Python allows signal handlers in the main thread only; elsewhere the request stays False.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in stop_signal_numbers()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        outer = getattr(before[signal.SIGINT], "__self__", None)
        if isinstance(outer, StopRequest):  # a block around this one, which did not hear of it
            outer.requested |= request.requested
