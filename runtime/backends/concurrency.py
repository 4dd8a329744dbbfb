"""A pool of threads that translates several frames at once.

On a CPU that is faster than one frame after the other on all cores: no thread waits for another.
"""

import os
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.backends.device_frame import DeviceFrame

MAX_CONCURRENT = 4
"""Frames at once. More would cost more memory than they gain speed."""


class TranslationPool:
    """Runs a translation on `frames_at_once` threads.

    One frame at a time runs in the caller's thread, or with `own_thread` in one of the pool's.
    """

    def __init__(self, frames_at_once: int, translate: Callable[..., Any], *, own_thread: bool = False) -> None:
        self.concurrency = min(frames_at_once, MAX_CONCURRENT)
        # One more is queued, so that no thread waits: 2 to 4 % more frames a second on two cores.
        self.in_flight = self.concurrency + 1 if self.concurrency > 1 else 1
        self._translate = translate
        self._under_way: list[Future[Any]] = []
        threads = self.concurrency > 1 or own_thread
        self._pool = ThreadPoolExecutor(self.concurrency, "translate") if threads else None
        self._process = os.getpid()
        self._closed = False

    def submit(self, frames_nhwc: Frames | DeviceFrame, style_ns: Codes, *others: Any) -> Callable[[], Any]:
        """As `Backend.submit`; `others` are passed to the translation.

        Raises DsmapError once closed, and in a process that was forked since: it does not have the threads.
        """
        if self._closed:
            raise closed_error()
        if self._pool is None:
            done = self._translate(frames_nhwc, style_ns, *others)
            return lambda: done
        if os.getpid() != self._process:
            raise DsmapError(
                "the translator was loaded before this process was forked, and its threads are not in this one",
                "Load one in each process, with frames_at_once=1, or start processes with multiprocessing's 'spawn'.",
            )
        under_way = self._pool.submit(self._translate, frames_nhwc, style_ns, *others)
        self._under_way.append(under_way)

        def wait() -> Any:
            try:
                return under_way.result()
            except CancelledError:
                raise DsmapError("the translation was cancelled", "Run it again.") from None
            finally:
                self._under_way.remove(under_way)

        return wait

    def cancel(self) -> None:
        """Cancels frames that have not begun."""
        for under_way in list(self._under_way):
            under_way.cancel()

    def close(self) -> None:
        """Ends the threads, after what was submitted."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()


def closed_error() -> DsmapError:
    """What a translation raises that was asked for, or is waited for, after the end."""
    return DsmapError("the translator is closed", "Load another one.")


def threads_each(cores: int, in_flight: int) -> int:
    """Threads for each of several frames at once: each has one of its own, and they share the rest."""
    return max(1, cores - in_flight + 1)
