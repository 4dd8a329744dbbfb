"""Ctrl-C and SIGTERM as something to look at between two iterations."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ECHO = 1.0  # seconds within which a signal is the first one again


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The event is set by the first Ctrl-C or SIGTERM; a person's second Ctrl-C raises KeyboardInterrupt at once.

    SIGTERM never does, nor a signal that follows the first within a second: torchrun hands on what it gets, and what
    goes to the whole group therefore comes twice. Outside the main thread, where Python takes no signals, the event is
    never set.
    """
    stopped = threading.Event()
    first = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, _frame: object) -> None:
        nonlocal first
        if not stopped.is_set():
            first = time.monotonic()
            stopped.set()
        elif number == signal.SIGINT and time.monotonic() - first > _ECHO:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
