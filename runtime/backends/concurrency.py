"""Several frames at once on a CPU: faster than one after the other on all cores, as no thread waits for another."""

import os
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Codes, Frames, Pending

MOST = 4
"""Frames at once. More would take more memory than they bring speed."""


class AtOnce:
    """Runs a translation on `frames_at_once` threads; with one, at once and in the caller's, or in its `own_thread`."""

    def __init__(self, frames_at_once: int, translate: Callable[..., Frames], *, own_thread: bool = False) -> None:
        self.computed = min(frames_at_once, MOST)
        # One waits, so that no thread does: 2 to 4 % more frames a second on two cores.
        self.in_flight = self.computed + 1 if self.computed > 1 else 1
        self._translate = translate
        self._under_way: list[Future[Frames]] = []
        threads = self.computed > 1 or own_thread
        self._pool = ThreadPoolExecutor(self.computed, "translate") if threads else None
        self._process = os.getpid()

    def submit(self, frames_nhwc: Frames, style_ns: Codes, *others: Any) -> Pending:
        """As `Backend.submit`; `others` are for the translation too.

        Raises DsmapError in a process that was forked off since: the threads stayed behind.
        """
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

        def wait() -> Frames:
            try:
                return under_way.result()
            except CancelledError:
                raise DsmapError("the translation was cancelled", "Run it again.") from None
            finally:
                self._under_way.remove(under_way)

        return wait

    def cancel(self) -> None:
        """What waits for its turn does not begin any more."""
        for under_way in list(self._under_way):
            under_way.cancel()

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def threads_each(cores: int, in_flight: int) -> int:
    """Threads for each of several frames at once, when helpers are shared between them and each has one of its own."""
    return max(1, cores - in_flight + 1)
