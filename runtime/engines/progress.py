"""Progress of a TensorRT build, and Ctrl-C during it."""

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dsmap.runtime.engines.tensorrt_api import Flavour

PROGRESS_STEPS = 1000

BuildProgress = Callable[[str, int, int], None]
"""Called with what TensorRT is doing, how far the whole build is, and PROGRESS_STEPS. It never goes backwards."""


class BuildMonitor:
    """Turns TensorRT's nested phases into one number, and passes on a request to stop.

    TensorRT may call from several threads, and loses exceptions: they are kept, and raised by `check`.
    """

    def __init__(self, progress: BuildProgress | None, interrupted: threading.Event) -> None:
        self._progress, self._interrupted = progress, interrupted
        self._lock = threading.RLock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
        self._shown = 0
        self._error: BaseException | None = None

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[phase] = (parent, max(steps, 1), 0)
            self._report(phase)

    def step(self, phase: str, step: int) -> bool:
        """Whether to go on."""
        with self._lock:
            parent, steps, done = self._phases.get(phase, (None, 1, 0))
            self._phases[phase] = (parent, steps, min(steps, max(done, step + 1)))
            self._report(phase)
            return self._error is None and not self._interrupted.is_set()

    def finish(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)

    def check(self) -> None:
        """Raises what stopped the build."""
        if self._error is not None:
            raise self._error
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _report(self, phase: str) -> None:
        self._shown = max(self._shown, int(PROGRESS_STEPS * self._fraction(phase)))
        if self._progress is None or self._error is not None:
            return
        try:
            self._progress(phase, self._shown, PROGRESS_STEPS)
        except BaseException as error:
            self._error = error

    def _fraction(self, phase: str) -> float:
        """How much of the whole is done, seen from a phase: what it has done counts as part of its parent's step."""
        fraction, seen = 0.0, set()
        name: str | None = phase
        while name is not None and name in self._phases and name not in seen:
            seen.add(name)
            parent, steps, done = self._phases[name]
            fraction = min(1.0, (done + fraction) / steps)
            name = parent
        return fraction

    def for_trt(self, flavour: Flavour) -> Any:
        """Itself as the object that TensorRT takes."""
        return _reporter_class(flavour.module)(self)


@functools.cache
def _reporter_class(trt: Any) -> Any:
    """Made once: a class that TensorRT's interface knows is not thrown away."""

    class Reporter(trt.IProgressMonitor):
        def __init__(self, monitor: BuildMonitor) -> None:
            trt.IProgressMonitor.__init__(self)
            self.monitor = monitor

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.monitor.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.monitor.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            self.monitor.finish(phase_name)

    return Reporter


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Set by Ctrl-C within the block: an exception in the middle of TensorRT's code would be lost.

    In other threads, and where Ctrl-C is ignored, it is never set.
    """
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield interrupted
        return
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
