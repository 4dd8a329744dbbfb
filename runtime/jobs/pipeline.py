"""A pipeline of reading, translating, finishing and writing at the same time, joined by short queues.

    with Pipeline(reader, begin, finish, in_flight=2) as pipeline:
        for item in pipeline.results(stop):
            ...  # encode it

Each stage has a thread of its own; writing is the caller's. Order is kept. The queues are short, so that memory stays
flat and little is lost on a stop. All heavy calls (libav, OpenCV, the network) let other threads run.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from dsmap.common.interrupts import StopRequest
from dsmap.runtime.jobs.report import StageClock
from dsmap.runtime.video.frame import Frame

Other = TypeVar("Other")
"""What passes through as it is: packets."""
Result = TypeVar("Result")
"""What a translation gives, for `finish`."""

GRACE = 0.3
"""Seconds that frames in flight get to finish after a request to stop."""
_DEPTH = 2  # items between two stages
_PASSING = 64  # packets between two frames do not fill the queues: they are small, and many in some files
_POLL = 0.05  # seconds between two checks of a blocked stage for a stop
_JOIN = 0.3  # seconds that the stages may take to stop
_END: Any = object()


class Done(NamedTuple):
    """A frame that is ready to be written."""

    frame: Frame
    """As it was read."""
    rgb: Any
    """What `finish` gave: uint8 (H, W, 3), or a frame for an encoder."""


class _InFlight(NamedTuple, Generic[Result]):
    """A frame that is being translated."""

    frame: Frame
    wait: Callable[[], Result]


class Pipeline(Generic[Other, Result]):
    """`begin(frame, index)` starts a translation and gives what waits for it; `finish(frame, result)` comes in order.

    At most `in_flight` frames are between the two. `cancel` is called when those in flight are not wanted any more.
    An error in any stage stops all of them, and `results` raises it.
    """

    def __init__(
        self,
        items: Iterable[Frame | Other],
        begin: Callable[[Frame, int], Callable[[], Result]],
        finish: Callable[[Frame, Result], Any],
        *,
        in_flight: int = 1,
        clock: StageClock | None = None,
        cancel: Callable[[], None] | None = None,
    ) -> None:
        self._items, self._begin, self._finish = items, begin, finish
        self._clock = clock or StageClock()
        self._cancel = cancel
        self._read: queue.Queue[Any] = queue.Queue(_DEPTH + _PASSING)
        self._translating: queue.Queue[Any] = queue.Queue(in_flight + _PASSING)
        self._finished: queue.Queue[Any] = queue.Queue(_DEPTH + _PASSING)
        # Queues count packets too: these count the frames.
        self._room_read = threading.Semaphore(_DEPTH)
        self._room_translating = threading.Semaphore(in_flight)
        self._room_finished = threading.Semaphore(_DEPTH)
        self._draining, self._aborted = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._read_to_the_end = False
        self.ended = False
        """Whether `results` has given everything, to the input's end."""
        stages = (self._read_all, self._translate_all, self._finish_all)
        names = ("decode", "translate", "finish")
        self._threads = [
            threading.Thread(target=self._guarded, args=(stage,), name=name, daemon=True)
            for stage, name in zip(stages, names, strict=True)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._abort()
        deadline = time.monotonic() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def results(self, stop: StopRequest) -> Iterator[Done | Other]:
        """What is ready, in order, until the end or until `stop` is set: then what is done within `GRACE` seconds.

        A second request ends it at once. `stop` is set where the translation raises KeyboardInterrupt.
        """
        deadline = float("inf")
        while True:
            if stop and not self._draining.is_set():
                self._draining.set()
                deadline = time.monotonic() + GRACE
            if self._aborted.is_set() or time.monotonic() > deadline or stop.force_stop:
                break
            try:
                item = self._finished.get(timeout=_POLL)
            except queue.Empty:
                continue
            if item is _END:
                self.ended = self._read_to_the_end and self._error is None
                break
            if isinstance(item, Done):
                self._room_finished.release()
            yield item
        if isinstance(self._error, KeyboardInterrupt):
            stop.requested = True
        elif self._error is not None:
            raise self._error

    def _read_all(self) -> None:
        items = iter(self._items)
        while not self._draining.is_set():
            with self._clock.stage("decode"):
                item = next(items, _END)
            room = self._room_read if isinstance(item, Frame) else None
            self._read_to_the_end = item is _END
            if item is _END or not self._put(self._read, item, room):
                return

    def _translate_all(self) -> None:
        index = 0
        for item in self._taken(self._read):
            if not isinstance(item, Frame):
                if not self._put(self._translating, item):
                    return
                continue
            self._room_read.release()
            if self._draining.is_set():
                self._read_to_the_end = False
                return  # what has not begun is not wanted any more
            if not self._acquire(self._room_translating):
                return
            self._clock.begin_translation()
            under = _InFlight(item, self._begin(item, index))
            index += 1
            if not self._put(self._translating, under):
                _wait_out(under)
                return

    def _finish_all(self) -> None:
        for item in self._taken(self._translating):
            room = None
            if isinstance(item, _InFlight):
                result = item.wait()
                self._clock.end_translation()
                self._room_translating.release()
                with self._clock.stage("finish"):
                    item, room = Done(item.frame, self._finish(item.frame, result)), self._room_finished
            if not self._put(self._finished, item, room):
                return

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            if self._error is None and not self._aborted.is_set():
                self._error = error
            # What was done before a Ctrl-C in the translation is still wanted, after an error nothing is.
            if not isinstance(error, KeyboardInterrupt):
                self._abort()
            self._draining.set()
        if self._aborted.is_set():
            self._wait_for_abandoned()
        followers = {"decode": self._read, "translate": self._translating, "finish": self._finished}
        self._put(followers[threading.current_thread().name], _END)

    def _wait_for_abandoned(self) -> None:
        """For frames that nobody wants any more: to a translator, they are under way until they are waited for."""
        while True:
            try:
                item = self._translating.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, _InFlight):
                _wait_out(item)

    def _abort(self) -> None:
        under_way = not self._aborted.is_set() and any(thread.is_alive() for thread in self._threads)
        self._draining.set()
        self._aborted.set()
        if under_way and self._cancel:
            self._cancel()

    def _taken(self, source: queue.Queue[Any]) -> Iterator[Any]:
        while not self._aborted.is_set():
            try:
                item = source.get(timeout=_POLL)
            except queue.Empty:
                continue
            if item is _END:
                return
            yield item

    def _put(self, target: queue.Queue[Any], item: Any, room: threading.Semaphore | None = None) -> bool:
        """False when nobody wants it any more."""
        if room is not None and not self._acquire(room):
            return False
        while not self._aborted.is_set():
            try:
                target.put(item, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False

    def _acquire(self, room: threading.Semaphore) -> bool:
        while not self._aborted.is_set():
            if room.acquire(timeout=_POLL):
                return True
        return False


def _wait_out(under: _InFlight[Any]) -> None:
    with contextlib.suppress(Exception):
        under.wait()
