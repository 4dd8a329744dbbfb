"""Base types of a live session's sources: what is asked of one, what it turns out to be, and its frames."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dsmap.runtime.video.addresses import shown

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CapturedFrame:
    """One frame as it was handed to us."""

    at: float
    """When, by `time.monotonic`. What a camera's driver did before that is not seen."""
    load: Callable[[], Pixels] = field(repr=False)
    """Gives the pixels, uint8 RGB (H, W, 3). Only frames that are wanted pay for the conversion."""


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """What a source turned out to give."""

    width: int
    """Pixels."""
    height: int
    rate: float | None
    """Frames per second as it says; None when it does not."""
    live: bool
    """Whether frames come when they like; a file waits for its beginning."""
    pixel_format: str | None = None
    """Of a camera, such as MJPG or YUYV; None when it does not say."""
    refused: str | None = None
    """What was asked of it and is not given, in words."""


class SourceLostError(Exception):
    """No more frames for now: unplugged, or the connection broke. Its text says why in a few words."""


class FrameSource(Protocol):
    """An open camera, stream or file. Used by one thread."""

    info: StreamInfo

    def read(self) -> CapturedFrame | None:
        """The next frame, waited for; None at the end of a file. Raises SourceLostError."""

    def close(self) -> None:
        """Give the device, connection or file back."""


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """What is asked of the cameras."""

    size: tuple[int, int] | None = None
    """(width, height); None leaves it to the camera."""
    fps: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceName:
    """Which source is meant."""

    kind: Literal["camera", "stream", "file"]
    text: str
    """The camera's number or (a part of) its name, the whole address, or the path."""

    @property
    def shown(self) -> str:
        """How people read it; an address without the secrets that it may hold."""
        if self.kind == "camera":
            return f"camera {self.text}"
        return self.text if self.kind == "file" else shown(self.text)
