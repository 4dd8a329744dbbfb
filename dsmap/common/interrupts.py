"""Requests to stop: Ctrl-C, SIGTERM and SIGHUP (the terminal was closed) end the work in order, with whole files."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ECHO_SECONDS = 1.0
"""A signal that follows the first one within this time may be the same one, delivered again."""


_ASKING = {int(signal.SIGINT): "you", int(signal.SIGTERM): "SIGTERM"}
_by = "you"


def stopped_by() -> str:
    """Who asked last, to follow "stopped by": you (Ctrl-C), SIGTERM, or the terminal."""
    return _by


class StopRequest:
    """Tells whether somebody asked to stop.

    The first signal sets `requested`. What a second one does depends on who asks: see `stop_on_signals`.
    """

    def __init__(self, *, second_ctrl_c_raises: bool = False) -> None:
        self.requested = False
        self.force_stop = False
        """Asked again: nothing is worth waiting for."""
        self._second_ctrl_c_raises = second_ctrl_c_raises
        self._interruptible = False
        self._first = 0.0

    def __bool__(self) -> bool:
        return self.requested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """In this block a second Ctrl-C or SIGTERM raises KeyboardInterrupt: for slow work that may be cut off."""
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        global _by
        _by = _ASKING.get(number, "the terminal, which was closed,")
        if not self.requested:
            self._first = time.monotonic()
            self.requested = True
        elif self._second_ctrl_c_raises:
            if number == signal.SIGINT and time.monotonic() - self._first > ECHO_SECONDS:
                raise KeyboardInterrupt
        elif number == getattr(signal, "SIGHUP", None):  # it comes twice: from the kernel and from the shell
            return
        elif self._interruptible:
            raise KeyboardInterrupt
        else:
            self.force_stop = True


@contextmanager
def stop_on_signals(*, second_ctrl_c_raises: bool = False) -> Iterator[StopRequest]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP set the request.

    A second Ctrl-C or SIGTERM, but never a SIGHUP, sets `force_stop`, or raises KeyboardInterrupt in an `interruptible`
    block. With `second_ctrl_c_raises` a second Ctrl-C raises at once, unless it follows within `ECHO_SECONDS`: torchrun
    passes on what it gets, so what goes to the whole process group comes twice. Other signals never do.

    A SIGHUP that is ignored, as under nohup, stays ignored. Python allows signal handlers in the main thread only;
    elsewhere the request stays False.
    """
    request = StopRequest(second_ctrl_c_raises=second_ctrl_c_raises)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in _stop_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        outer = getattr(before[signal.SIGINT], "__self__", None)
        if isinstance(outer, StopRequest):  # a block around this one, which did not hear of it
            outer.requested |= request.requested


def _stop_signals() -> tuple[int, ...]:
    """Ctrl-C, SIGTERM and, unless it is ignored, SIGHUP: the terminal was closed, or the connection to it broke."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return (signal.SIGINT, signal.SIGTERM)
    return (signal.SIGINT, signal.SIGTERM, hangup)
