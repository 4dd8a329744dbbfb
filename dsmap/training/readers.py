"""Processes that read training images ahead, connected by pipes.

PyTorch's DataLoader passes batches through /dev/shm, of which a container has 64 MB or none, and waits forever for a
batch that does not fit (pytorch #1355, #5040). A pipe needs no such space, and its end reveals at once that a reader
has died. Reader t % count reads step t, so that no batch depends on their number.
"""

import atexit
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2

from dsmap.common.cpu import usable_cpus
from dsmap.common.memory import available_bytes
from dsmap.common.notify import Notify
from dsmap.config import DataConfig
from dsmap.errors import DsmapError, InputError, first_line

MAX_AHEAD = 4
"""Batches that each reader reads ahead."""
_MEMORY_SHARE = 0.25  # of the available memory, for readers and their batches
_READER_BYTES = 64_000_000  # of a process, with an image of a usual size
_PATIENCE = 0.2  # seconds between checks for a stop request
_REPORT_EVERY = 60.0  # seconds without a batch
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

T = TypeVar("T")


class ReaderPlan(NamedTuple):
    """How images are read: number of `readers` (0: in the training process), each `ahead` batches."""

    readers: int
    ahead: int
    bytes: int
    """Approximate memory."""
    reason: str
    """Why there are fewer readers or batches ahead than configured; empty if there are not."""


def plan_readers(data: DataConfig, *, cpus: int, available: int | None) -> ReaderPlan:
    """The readers that fit `cpus` processors and `available` bytes of memory (None: unknown)."""
    batch = 2 * data.batch_size * 3 * data.crop**2 * 5  # bytes: as uint8 in the pipe, then as float32
    count, ahead, reasons = data.workers, MAX_AHEAD, []
    if count > cpus:
        reasons.append(f"this process may use {cpus} CPU{'s' if cpus > 1 else ''}")
        count = cpus

    def needed() -> int:
        return count * (_READER_BYTES + ahead * batch)

    if available is not None and needed() > available * _MEMORY_SHARE:
        reasons.append(f"{max(0, available) / 1e9:.1f} GB of memory are available")
        while count and needed() > available * _MEMORY_SHARE:
            count, ahead = (count, ahead - 1) if ahead > 1 else (count - 1, MAX_AHEAD)
    return ReaderPlan(count, ahead, needed(), " and ".join(reasons))


def readers_here(data: DataConfig, local_world_size: int = 1) -> ReaderPlan:
    """The readers for one of `local_world_size` training processes on this machine."""
    available = available_bytes()
    each = None if available is None else available // local_world_size
    return plan_readers(data, cpus=max(1, usable_cpus() // local_world_size), available=each)


class _Opening(NamedTuple):
    """A reader opens this image next: if it dies, the last one is suspect."""

    path: Path


class _Done(NamedTuple):
    step: int
    result: Any


class _Failed(NamedTuple):
    step: int
    fact: str
    advice: str
    exit_code: int


class _ReaderProcess:
    """A reader process, as the training process sees it."""

    def __init__(self, process: multiprocessing.process.BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.opened: Path | None = None


class Readers(Generic[T]):
    """`count` processes that call `read` for the steps start .. stop - 1; iterating yields the results in order.

    `read(step, opening)` calls `opening(path)` before each image; its result must be picklable. `prepare` converts it
    to what is yielded, in a thread of this process. Raises DsmapError when a reader dies, naming the image it was
    reading, and what `read` raises (other errors as DsmapError). Ends early if `stop_asked`. `say` gets a line when a
    batch takes minutes. `close` ends the processes in any state.
    """

    def __init__(
        self,
        read: Callable[[int, Callable[[Path], None]], Any],
        start: int,
        stop: int,
        *,
        count: int,
        ahead: int = MAX_AHEAD,
        prepare: Callable[[Any], T],
        stop_asked: Callable[[], bool] = lambda: False,
        say: Notify = lambda _line: None,
    ) -> None:
        self._read, self._start, self._stop, self._ahead = read, start, stop, ahead
        self._prepare, self._stop_asked, self._say = prepare, stop_asked, say
        self._inbox: queue.SimpleQueue[tuple[int, T] | DsmapError] = queue.SimpleQueue()
        self._closed = False
        self._readers: list[_ReaderProcess] = []
        atexit.register(self.close)  # before multiprocessing waits for processes that ignore SIGTERM
        try:
            for _ in range(count):
                self._readers.append(self._begin())
        except OSError as error:
            self.close()
            raise DsmapError(
                f"cannot start a process that reads images: {error.strerror or error}",
                "Read them in the training process: --set data.workers=0.",
            ) from error
        self._thread = threading.Thread(target=self._receive, name="dsmap-readers", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        count = len(self._readers)
        for step in range(self._start, min(self._stop, self._start + count * self._ahead)):
            self._order(step)
        arrived: dict[int, T] = {}
        for step in range(self._start, self._stop):
            asked, reports = time.monotonic(), 1
            while step not in arrived:
                try:
                    found = self._inbox.get(timeout=_PATIENCE)
                except queue.Empty:
                    if self._stop_asked():
                        return
                    if time.monotonic() - asked > reports * _REPORT_EVERY:
                        reports += 1
                        self._say(self._still_waiting(step, time.monotonic() - asked))
                    continue
                if isinstance(found, DsmapError):
                    raise found
                arrived[found[0]] = found[1]
            if step + count * self._ahead < self._stop:
                self._order(step + count * self._ahead)
            yield arrived.pop(step)

    def close(self) -> None:
        """End the processes, even in the middle of an image."""
        atexit.unregister(self.close)
        self._closed = True
        for reader in self._readers:
            reader.process.kill()
        for reader in self._readers:
            reader.process.join(5)
        if self._readers and hasattr(self, "_thread"):
            self._thread.join(5)
        for reader in self._readers:
            reader.connection.close()

    def _begin(self) -> _ReaderProcess:
        context = multiprocessing.get_context()
        ours, theirs = context.Pipe()
        # A forked reader has copies of our ends; pipes that it does not close would never end.
        inherited = [*(reader.connection for reader in self._readers), ours]
        arguments = (theirs, self._read, inherited if context.get_start_method() == "fork" else [])
        process = context.Process(target=_serve, args=arguments, name="dsmap-reader", daemon=True)
        try:
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return _ReaderProcess(process, ours)

    def _order(self, step: int) -> None:
        with suppress(OSError):  # it has died: the other thread reports it
            self._reader_of(step).connection.send(step)

    def _reader_of(self, step: int) -> _ReaderProcess:
        return self._readers[step % len(self._readers)]

    def _receive(self) -> None:
        """Receive what the readers send until one of them dies; runs in a thread."""
        try:
            by_connection = {reader.connection: reader for reader in self._readers}
            while not self._closed:
                for connection in wait(list(by_connection)):
                    reader = by_connection[connection]  # type: ignore[index]
                    try:
                        message = reader.connection.recv()
                    except (EOFError, OSError):
                        self._inbox.put(_death(reader))
                        return
                    self._take(reader, message)
        except Exception as error:  # or the training would wait for this thread
            reason = f"{type(error).__name__}: {first_line(error)}"
            failed = DsmapError(f"batches cannot be taken from their readers: {reason}", "Continue with --resume auto.")
            failed.__cause__ = error
            self._inbox.put(failed)

    def _take(self, reader: _ReaderProcess, message: object) -> None:
        if isinstance(message, _Opening):
            reader.opened = message.path
        elif isinstance(message, _Done):
            reader.opened = None
            self._inbox.put((message.step, self._prepare(message.result)))
        elif isinstance(message, _Failed):
            kind = InputError if message.exit_code == InputError.exit_code else DsmapError
            self._inbox.put(kind(message.fact, message.advice))

    def _still_waiting(self, step: int, seconds: float) -> str:
        opened = self._reader_of(step).opened
        at = f", at {opened}" if opened else ""
        return f"waiting for the images of step {step + 1} for {seconds:.0f} s{at}"


def _serve(
    connection: Connection, read: Callable[[int, Callable[[Path], None]], Any], inherited: Sequence[Connection]
) -> None:
    """Main loop of a reader, until its pipe ends."""
    for name in _STOP_SIGNALS:  # they may reach the whole group: only the training process decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for other in inherited:
        other.close()
    cv2.setNumThreads(0)  # the readers are the parallelism; OpenCV's thread pool does not survive a fork
    with suppress(EOFError, OSError):  # the training process has gone
        while True:
            step = connection.recv()
            connection.send(_attempt(read, step, lambda path: connection.send(_Opening(path))))


def _attempt(read: Callable[[int, Callable[[Path], None]], Any], step: int, opening: Callable[[Path], None]) -> Any:
    opened: list[Path] = []

    def open_next(path: Path) -> None:
        opened[:] = [path]
        opening(path)

    try:
        return _Done(step, read(step, open_next))
    except DsmapError as error:
        return _Failed(step, error.fact, error.advice, error.exit_code)
    except ConnectionError:
        raise
    except Exception as error:  # MemoryError too
        reason = f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")
        fact = f"the images of step {step + 1} cannot be read: {reason}{f' (at {opened[-1]})' if opened else ''}"
        return _Failed(step, fact, "Continue with --resume auto; --set data.workers=0 reads without processes.", 1)


def _death(reader: _ReaderProcess) -> DsmapError:
    """The error for a reader that has died."""
    reader.process.join(5)
    code = reader.process.exitcode
    how = f"exit code {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
    image = f" while it read {reader.opened}" if reader.opened else ""
    if code == -signal.SIGKILL if hasattr(signal, "SIGKILL") else False:
        cause = "The system ends processes like this when memory runs out: use fewer (--set data.workers=1), then"
    elif reader.opened:
        cause = "Remove that image if it happens again, and"
    else:
        cause = "Look for its message above, and"
    return DsmapError(f"a process that reads images has died{image} ({how})", f"{cause} continue with --resume auto.")
