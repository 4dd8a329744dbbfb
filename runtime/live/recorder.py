"""Recording results: encoded in a separate thread, with capture timestamps, without sound."""

import os
import queue
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from dsmap.common.atomic import finish_file
from dsmap.common.output_files import naming_error, numbered
from dsmap.common.part_files import part_file
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.live.source import Pixels
from dsmap.runtime.video.scaling import scaled
from dsmap.runtime.video.writer import FORMATS, VideoWriter

_TIME_BASE = Fraction(1, 90_000)
_DEPTH = 8  # frames that may wait for the encoder: it may fall behind briefly
_POLL = 0.1  # seconds


class Recorder:
    """Writes frames to `path` until `finish`; the file gets its name when it is complete.

    Frames are fitted into the first one's size. If the encoder cannot keep up, frames are left out and counted in
    `dropped`. If the file cannot be written, `error` says why. `rate`: approximate frames per second.
    """

    def __init__(self, path: Path, *, rate: float, overwrite: bool) -> None:
        self.path = path
        self.frames = 0
        """Frames encoded."""
        self.dropped = 0
        self.error: Exception | None = None
        self.begun: float | None = None
        """Capture time of the first frame."""
        self._rate = Fraction(min(max(rate, 1.0), 240.0)).limit_denominator(1000)
        self._overwrite = overwrite
        self._queue: queue.Queue[tuple[Pixels, float]] = queue.Queue(_DEPTH)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def put(self, rgb: Pixels, at: float) -> None:
        """Record a frame captured at `at` (seconds). Never blocks. The pixels must not be changed afterwards."""
        self.begun = at if self.begun is None else self.begun
        try:
            self._queue.put_nowait((rgb, at))
        except queue.Full:
            self.dropped += 1

    @property
    def done(self) -> bool:
        """Whether the file is finished, or failed."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Ask for the file to be finished; returns immediately."""
        self._ending.set()

    def wait(self) -> None:
        """Wait until the file is finished, or has failed."""
        while self._thread.is_alive():  # in steps, so that Ctrl-C gets through
            self._thread.join(_POLL)

    def as_dict(self) -> dict[str, object]:
        """For the report."""
        fact = getattr(self.error, "fact", None) or (str(self.error) if self.error else None)
        return {"file": str(self.path), "frames": self.frames, "dropped": self.dropped, "error": fact}

    def _run(self) -> None:
        try:
            part = part_file(self.path)
        except OSError as error:
            self.error = DsmapError(f"cannot record to {self.path}: {error.strerror}", "check the folder and the disk")
            self._ending.set()
            return
        writer = _Writer(part, self._rate)
        try:
            for rgb, at in iter(self._next, None):
                writer.add(rgb, at)
                self.frames += 1
            if self.frames:
                writer.close()
                _finish(part, self.path, self._overwrite)
        except Exception as error:
            self.error = error
        finally:
            if not self.frames:
                part.unlink(missing_ok=True)
            self._ending.set()

    def _next(self) -> tuple[Pixels, float] | None:
        while True:
            try:
                return self._queue.get(timeout=_POLL)
            except queue.Empty:
                if self._ending.is_set():
                    return None


class _Writer:
    """Opens the file with the first frame, and writes each frame when the next one determines its duration."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path = path
        self._rate = rate
        self._video: VideoWriter | None = None
        self._size = (0, 0)
        self._held: tuple[Pixels, int] | None = None
        self._begun = 0.0

    def add(self, rgb: Pixels, at: float) -> None:
        if self._video is None:
            self._begun, self._size = at, (rgb.shape[1], rgb.shape[0])
            width, height = self._size
            self._video = VideoWriter(
                self.path, width=width, height=height, time_base=_TIME_BASE, rate=self._rate, recoverable=True
            )
        pts = round((at - self._begun) / _TIME_BASE)
        if self._held is not None:
            pts = max(pts, self._held[1] + 1)  # the other camera's frame may be a little older
            self._write(self._held, pts - self._held[1])
        self._held = fit(rgb, *self._size), pts

    def close(self) -> None:
        if self._held is not None:
            self._write(self._held, round(1 / self._rate / _TIME_BASE))
            self._held = None
        if self._video is not None:
            self._video.close()

    def _write(self, held: tuple[Pixels, int], duration: int) -> None:
        if self._video is None:
            return
        try:
            self._video.write(*held, duration)
        except BaseException:
            self._video.discard()
            raise


def fit(rgb: Pixels, width: int, height: int) -> Pixels:
    """`rgb` scaled to fit width x height, aspect kept, with black bars; unchanged if it has that size."""
    old_height, old_width = rgb.shape[:2]
    if (old_width, old_height) == (width, height):
        return rgb
    factor = min(width / old_width, height / old_height)
    size = (max(1, round(old_width * factor)), max(1, round(old_height * factor)))
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = scaled(rgb, size)
    return out


def check_recording(path: Path) -> None:
    """Raise InputError unless the name suits a recording; `check_outputs` checks that it may be written."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"cannot record as {path.suffix or 'a file without a suffix'} ({path.name})",
            f"name a {', '.join(sorted(FORMATS))} file with --record",
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file", "name a file with --record")


def unused(path: Path, taken: Sequence[Path] = ()) -> Path:
    """`path`, or NAME-2, NAME-3 and so on when that exists or is one of `taken`."""
    return next(name for name in numbered(path) if name not in taken and not os.path.lexists(name))


def name_by_time(suffix: str) -> str:
    """dsmap-live-YYYYMMDD-HHMMSS and the suffix."""
    return time.strftime("dsmap-live-%Y%m%d-%H%M%S") + suffix


def _finish(part: Path, path: Path, overwrite: bool) -> None:
    """Give the recording its name. Raises DsmapError when that fails, saying where the recording is."""
    try:
        finish_file(part, path, replace=overwrite)
    except OSError as error:
        raise naming_error("recording", part, path, error) from error
