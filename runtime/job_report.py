"""What jobs share: the report, the stage clock, and the call of the translation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
    """What a job did. Times in seconds; `frames` counts pictures in a picture job."""

    input: Path
    output: Path
    width: int
    """Of the translated frames, in pixels; of the last picture in a folder job."""
    height: int
    frames: int
    """Frames in the output."""
    frames_expected: int | None
    """Frames that a whole input has; an estimate where `complete` is True and the container does not count."""
    seconds: float
    decode_seconds: float = 0.0
    translate_seconds: float = 0.0
    encode_seconds: float = 0.0
    audio_streams: int = 0
    """Audio streams copied."""
    failed_packets: int = 0
    """Video packets that could not be decoded."""
    interrupted: bool = False
    """Ctrl-C or SIGTERM; the output holds what was done."""
    failed: tuple[str, ...] = ()
    """Pictures that were skipped: "NAME: why"."""

    @property
    def complete(self) -> bool:
        """Whether everything in the input is in the output."""
        missing = self.frames_expected is not None and self.frames < self.frames_expected
        return not (self.interrupted or self.failed or self.failed_packets or missing)

    @property
    def fps(self) -> float:
        """Frames per second, all stages together."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: paths as text, times rounded, `fps` and `complete` included."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        plain |= {key: round(value, 3) for key, value in plain.items() if isinstance(value, float)}
        return plain | {"fps": round(self.fps, 2), "complete": self.complete}


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """What is known of the input before any work."""

    width: int
    """Of the frames to translate, in pixels."""
    height: int
    frames: int | None
    """Frames or pictures; None when unknown."""
    audio_streams: int = 0
    left_out: tuple[str, ...] = ()
    """Kinds of the streams that will not be in the output."""


@dataclass
class StageClock:
    """Seconds spent per stage, and altogether."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "translate": 0.0, "encode": 0.0})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] += time.perf_counter() - begin

    def report(self) -> dict[str, Any]:
        times: dict[str, Any] = {f"{name}_seconds": seconds for name, seconds in self.stages.items()}
        return times | {"seconds": time.perf_counter() - self.started}


def translated(translate: Translate, rgb: Pixels, side_by_side: bool) -> Pixels:
    """`translate(rgb)`, checked; with `rgb` to its left for `side_by_side`."""
    result = translate(rgb)
    if result.shape != rgb.shape or result.dtype != np.uint8:
        raise DsmapError(
            f"the translation gave {result.dtype} {result.shape}, expected uint8 {rgb.shape}",
            "return frames of the size that came in, as uint8 RGB",
        )
    return np.hstack([rgb, result]) if side_by_side else result
