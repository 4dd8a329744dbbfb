"""Base class of readers of images as video frames: no sound, no clock to repair, no connection to lose."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.audio.stream import AudioStream
from av.stream import Stream

from dsmap.errors import DsmapError
from dsmap.runtime.video.frame import ArrayPool, Pixels
from dsmap.runtime.video.scaling import scaled

if TYPE_CHECKING:  # only in PyAV's type hints
    from av.container.core import Chapter


class ImageFrames:
    """The part of `VideoReader`'s interface that is the same for all images. `pool`: for scaled frames.

    A subclass sets `width` and `height`, and iterates until it is `_cancelled`.
    """

    sample_aspect = Fraction(1)
    audio: tuple[AudioStream, ...] = ()
    copied: tuple[Stream, ...] = ()
    left_out: tuple[str, ...] = ()
    counts_exactly = True
    missing_frames = 0
    reconnections = 0
    clock_jumps = 0
    size_changes = 0
    timecode: str | None = None
    broken_off: DsmapError | None = None
    path: Path | None = None
    width: int
    height: int

    def __init__(self, source: str | Path, pool: ArrayPool | None) -> None:
        self.name = str(source)
        self.metadata: dict[str, str] = {}
        self.video_metadata: dict[str, str] = {}
        self.chapters: list[Chapter] = []
        self.failed_packets = 0
        self._pool, self._cancelled = pool, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def cancel(self) -> None:
        """End the iteration before the next frame. Any thread may call it."""
        self._cancelled = True

    def close(self) -> None:
        """Do nothing: no file is open between frames."""

    def _scaled(self, rgb: Pixels) -> Pixels:
        """uint8 (H, W, 3) at `width` and `height`."""
        return scaled(rgb, (self.width, self.height), self._pool)
