"""Base types of a live session's sources: requests, properties and frames."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dsmap.runtime.video.addresses import shown

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CapturedFrame:
    """A captured frame."""

    at: float
    """Time of capture, by `time.monotonic`; a camera driver's own delay is not included."""
    load: Callable[[], Pixels] = field(repr=False)
    """Returns the pixels, uint8 RGB (H, W, 3). Only frames that are used are converted."""


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """What a source delivers."""

    width: int
    """Pixels."""
    height: int
    rate: float | None
    """Frames per second as reported; None when unknown."""
    live: bool
    """Whether frames come at their own time; a file waits until frames are wanted."""
    pixel_format: str | None = None
    """Of a camera, such as MJPG or YUYV; None when unknown."""
    refused: str | None = None
    """What was requested but is not delivered, in words."""
    decoder: str | None = None
    """What decodes a file or stream: "software" or a device; None for cameras."""
    decoding: str = ""
    """A line on that for the user, where a device was asked for."""


class SourceLostError(Exception):
    """No more frames for now: unplugged, or disconnected. Its text says why in a few words."""


class FrameSource(Protocol):
    """An open camera, stream or file. Used by one thread."""

    info: StreamInfo

    def read(self) -> CapturedFrame | None:
        """The next frame, waited for; None at the end of a file. Raises SourceLostError."""

    def close(self) -> None:
        """Release the device, connection or file."""


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """What is requested of cameras."""

    size: tuple[int, int] | None = None
    """(width, height); None leaves it to the camera."""
    fps: float | None = None


@dataclass(frozen=True, kw_only=True)
class SourceName:
    """A source as the user named it."""

    kind: Literal["camera", "stream", "file"]
    text: str
    """The camera's number or (a part of) its name, the whole address, or the path."""

    @property
    def shown(self) -> str:
        """Its name for messages; an address without its secrets."""
        if self.kind == "camera":
            return f"camera {self.text}"
        return self.text if self.kind == "file" else shown(self.text)
