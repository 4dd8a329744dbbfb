"""Capturing in a thread per camera: it keeps the latest frame, and reopens the camera when it is lost."""

import threading
import time
from collections.abc import Callable
from typing import Literal

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.live.mailbox import LatestFrame
from dsmap.runtime.live.source import CapturedFrame, FrameSource, SourceLostError, StreamInfo

Opener = Callable[[threading.Event], FrameSource]

_FIRST_PAUSE, _MAX_PAUSE = 0.25, 2.0  # seconds between two attempts to reopen a lost camera
_LEAVE = 0.5  # seconds to wait for the thread; a driver or a network may hold it longer


class Capture:
    """Reads a source in its own thread from `start` to `close`, and keeps its latest frame.

    `name` is for messages. `open_source` opens the source, again whenever it is lost. `notify`, which may be replaced,
    gets a line about each event, from that thread. If the source cannot be opened the first time, `error` says why, and
    the thread ends.

    `latest` is filled only while `wanted`; other frames are counted in `unwanted`.
    """

    def __init__(self, name: str, open_source: Opener, notify: Notify) -> None:
        self.name = name
        self.latest: LatestFrame[CapturedFrame] = LatestFrame()
        self.status: Literal["opening", "live", "lost", "ended"] = "opening"
        self.info: StreamInfo | None = None
        self.error: Exception | None = None
        self.captured = 0
        """Frames read."""
        self.unwanted = 0
        """Of those, frames that came while not `wanted`: before the model was ready, or during a pause."""
        self.reconnections = 0
        self.lost_seconds = 0.0
        self.ready = threading.Event()
        """Set when the source has been opened, or has failed."""
        self._wanted = False
        self._lost_at: float | None = None
        self.notify = notify
        self._open_source = open_source
        self._stop = threading.Event()
        self._begin = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"capture {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def wanted(self) -> bool:
        """Whether frames are kept."""
        return self._wanted

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        self._wanted = wanted
        self.unwanted += self.latest.clear()  # an earlier frame is old by now
        if wanted:
            self._begin.set()

    def lost_for(self) -> float:
        """Seconds since the source was lost; 0 while it is available."""
        lost_at = self._lost_at
        return time.monotonic() - lost_at if lost_at is not None else 0.0

    def stop(self) -> None:
        """Ask the thread to end; returns immediately."""
        self._stop.set()
        self._begin.set()

    def close(self) -> None:
        """End the thread and release the source. If a driver blocks the thread, it is abandoned: it is a daemon."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(_LEAVE)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and self.status != "ended":
                source = self._opened()
                if source is None:
                    break
                try:
                    self._read_from(source)
                finally:
                    source.close()
        except Exception as error:
            self.error = error
            self.status = "ended"
        finally:
            self.ready.set()

    def _opened(self) -> FrameSource | None:
        """The open source, however many attempts that takes; None when asked to stop."""
        pause = _FIRST_PAUSE
        if self._lost_at is not None:
            self._stop.wait(pause)
        while not self._stop.is_set():
            try:
                source = self._open_source(self._stop)
            except DsmapError:
                if self.info is None:
                    raise
                self._stop.wait(pause)
                pause = min(2 * pause, _MAX_PAUSE)
                continue
            self._note_opened(source.info)
            return source
        return None

    def _note_opened(self, info: StreamInfo) -> None:
        if self._lost_at is not None:
            lost = self.lost_for()
            self.reconnections += 1
            self.lost_seconds += lost
            self.notify(f"{self.name} is back after {lost:.1f} s")
        if info.refused and (self.info is None or info.refused != self.info.refused):
            self.notify(f"{self.name}: {info.refused}")
        if info.decoding and (self.info is None or info.decoding != self.info.decoding):
            self.notify(f"{self.name}: {info.decoding}")
        self.info, self.status, self._lost_at = info, "live", None
        self.ready.set()

    def _read_from(self, source: FrameSource) -> None:
        if not source.info.live:
            self._begin.wait()  # until frames are wanted, so that the first ones are not lost
        while not self._stop.is_set():
            try:
                frame = source.read()
            except SourceLostError as error:
                if self._stop.is_set():
                    return
                self.status, self._lost_at = "lost", time.monotonic()
                self.notify(f"{self.name} was lost ({error}); trying to open it again")
                return
            if frame is None:
                self.status = "ended"
                return
            self.captured += 1
            if self._wanted:
                self.latest.put(frame)
            else:
                self.unwanted += 1
