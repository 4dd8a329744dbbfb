"""Reports of jobs, their stage clock, and the check of translated frames."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError

Pixels = npt.NDArray[np.uint8]
Translate = Callable[[Pixels], Pixels]
"""From uint8 (H, W, 3) RGB to the same shape and type; it must not change what it is given."""
Progress = Callable[[int, int | None], None]
"""Called after every frame with (frames done, frames expected; None when unknown)."""


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a job did. Times in seconds; for images and folders, `frames` counts images."""

    input: Path
    output: Path
    width: int
    """Of the translated frames, in pixels; of the last image in a folder job."""
    height: int
    frames: int
    """Frames in the output."""
    frames_expected: int | None
    """Frames in the whole input; an estimate where `complete` is True and the container has no count."""
    seconds: float
    result_size: tuple[int, int] | None = None
    """(width, height) of the output; None for a folder, whose images differ."""
    decode_seconds: float = 0.0
    translate_seconds: float = 0.0
    """While at least one frame was being translated. Stages run at the same time, so their seconds overlap."""
    finish_seconds: float = 0.0
    """Scaling, stabilizing, joining side by side."""
    encode_seconds: float = 0.0
    first_frame_seconds: float | None = None
    """From the start of the job to the first translated frame."""
    resumed_frames: int = 0
    """Frames from an earlier, interrupted job."""
    decoder: str = "software"
    """What decoded the video: "software", or a device; where it changed, the last one."""
    audio_streams: int = 0
    """Audio streams in the output, copied or re-encoded."""
    failed_packets: int = 0
    """Video packets that could not be decoded."""
    codec_change: tuple[str, str] | None = None
    """The video's first and last codec, where a recording changes it: what follows the change could not be decoded."""
    dropped_packets: int = 0
    """Damaged packets of audio and other copied streams, which no container takes."""
    broken_off: str | None = None
    """Why a network stream broke off, if it did."""
    reconnections: int = 0
    """How often the connection to a network stream was restored."""
    size_changes: int = 0
    """How often the frame size changed; all frames have the size of the first one in the output."""
    interrupted: bool = False
    """Ctrl-C or SIGTERM; the output holds what was done."""
    resumable: bool = False
    """Interrupted, and the finished parts are kept for another run."""
    kept_previous: bool = False
    """Interrupted, and an earlier result was kept under the output's name."""
    failed: tuple[str, ...] = ()
    """Images that were skipped: "NAME: why"."""
    notes: tuple[str, ...] = ()
    """Notes about images that were translated, such as a damaged profile or further pages."""

    @property
    def complete(self) -> bool:
        """Whether the whole input is in the output."""
        missing = self.frames_expected is not None and self.frames < self.frames_expected
        lost = self.failed_packets or self.dropped_packets or self.broken_off
        return not (self.interrupted or self.failed or lost or missing)

    @property
    def fps(self) -> float:
        """Frames per second of all stages together, without the frames of an earlier job."""
        return (self.frames - self.resumed_frames) / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: paths as text, times rounded, `fps` and `complete` included."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        plain |= {key: round(value, 6) for key, value in plain.items() if isinstance(value, float)}
        return plain | {"fps": round(self.fps, 2), "complete": self.complete}


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """What is known of the input before any work."""

    width: int
    """Of the frames to translate, in pixels."""
    height: int
    frames: int | None
    """Frames or images; None when unknown."""
    source_size: tuple[int, int] | None = None
    """(width, height) of the input's frames; None where they differ."""
    result_size: tuple[int, int] | None = None
    """(width, height) of the output; None for images, which have that of `VideoOptions.size_of_result`."""
    audio_streams: int = 0
    subtitle_streams: int = 0
    chapters: int = 0
    left_out: tuple[str, ...] = ()
    """The streams that will not be in the output."""
    notes: tuple[str, ...] = ()
    """Notes for the user, a line each: HDR, alpha, interlaced."""


class StageClock:
    """Seconds that each stage was at work, and altogether. The stages run at the same time, so these do not add up.

    `detailed` keeps the seconds of every single call, for percentiles. A stage is timed from one thread, translations
    from two: one begins them, another waits for them.
    """

    def __init__(self, *, detailed: bool = False) -> None:
        self.started = time.perf_counter()
        self.stages = {"decode": 0.0, "translate": 0.0, "finish": 0.0, "encode": 0.0}
        self.calls: dict[str, list[float]] | None = {name: [] for name in self.stages} if detailed else None
        self.first_frame: float | None = None
        """Seconds until the first frame was translated."""
        self._lock = threading.Lock()
        self._begun: deque[float] = deque()
        self._busy_since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - begin)

    def begin_translation(self) -> None:
        """A frame goes to the network; several may be there at once."""
        with self._lock:
            self._begun.append(time.perf_counter())
            if len(self._begun) == 1:
                self._busy_since = self._begun[0]

    def end_translation(self) -> None:
        """The oldest of them is done. The stage's time is that in which any was there."""
        with self._lock:
            now = time.perf_counter()
            begun = self._begun.popleft()
            self.stages["translate"] += now - self._busy_since
            self._busy_since = now
            if self.calls is not None:
                self.calls["translate"].append(now - begun)
            if self.first_frame is None:
                self.first_frame = now - self.started

    def report(self) -> dict[str, Any]:
        """The fields of a `JobReport` that are times."""
        times: dict[str, Any] = {f"{name}_seconds": seconds for name, seconds in self.stages.items()}
        first = {"first_frame_seconds": self.first_frame}
        return times | first | {"seconds": time.perf_counter() - self.started}

    def _add(self, name: str, seconds: float) -> None:
        self.stages[name] += seconds
        if self.calls is not None:
            self.calls[name].append(seconds)


def check_translated(result: Pixels, rgb: Pixels) -> Pixels:
    """`result`, if it may stand in for `rgb`. Raises DsmapError."""
    if result.shape != rgb.shape or result.dtype != np.uint8:
        raise DsmapError(
            f"the translation gave {result.dtype} {result.shape}, expected uint8 {rgb.shape}",
            "return frames of the size that came in, as uint8 RGB",
        )
    return result
