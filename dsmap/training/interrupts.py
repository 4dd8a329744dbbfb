"""Ctrl-C, SIGTERM and SIGHUP (the terminal is closed) as something to look at between two iterations."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dsmap.common.signals import stop_signal_numbers

_ECHO = 1.0  # seconds within which a signal is the first one again


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The event is set by the first Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C raises KeyboardInterrupt at once.

    The others never do, nor a signal that follows the first within a second: torchrun hands on what it gets, and what
    goes to the whole group therefore comes twice. A SIGHUP that is ignored, as nohup has it, stays ignored. Outside the
    main thread, where Python takes no signals, the event is never set.
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

    before = {number: signal.signal(number, stop) for number in stop_signal_numbers()}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
