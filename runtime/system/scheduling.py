"""Scheduling of this process's threads."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def usual_priority() -> Iterator[None]:
    """Takes back the real-time priority that a library gives this process's threads in the block.

    SVT-AV1 does so where it may, as for root in a container: at the highest priority of all, which starves every other
    process of the machine, and which child processes inherit.
    """
    before = _real_time_threads()
    try:
        yield
    finally:
        for thread in _real_time_threads() - before:
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> set[int]:
    """Linux's numbers of this process's real-time threads."""
    if not hasattr(os, "sched_getscheduler"):
        return set()
    found = set()
    with contextlib.suppress(OSError):  # no /proc
        for name in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                if os.sched_getscheduler(int(name)) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
                    found.add(int(name))
    return found
