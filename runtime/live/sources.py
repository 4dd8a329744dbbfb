"""Where frames come from: what the text after `--camera` means, and what every source is."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from dsmap.runtime.video.addresses import check_address, check_not_almost_address, is_address, shown

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """One frame as it was handed to us."""

    at: float
    """When, by `time.monotonic`. What a camera's driver did before that is not seen."""
    load: Callable[[], Pixels] = field(repr=False)
    """Gives the pixels, uint8 RGB (H, W, 3). Only frames that are wanted pay for the conversion."""


@dataclass(frozen=True, kw_only=True)
class Facts:
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


class Source(Protocol):
    """An open camera, stream or file. Used by one thread."""

    facts: Facts

    def read(self) -> Captured | None:
        """The next frame, waited for; None at the end of a file. Raises SourceLostError."""

    def close(self) -> None:
        """Give the device, connection or file back."""


@dataclass(frozen=True, kw_only=True)
class Asked:
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


def find_source(text: str) -> SourceName:
    """What `--camera TEXT` means: a number or /dev/videoN, an address with ://, a file, or the name of a camera.

    Raises InputError when it is none of them.
    """
    if match := re.fullmatch(r"(?:/dev/video)?(\d+)", text):
        return SourceName(kind="camera", text=str(int(match[1])))
    if text.startswith("file://"):
        text = unquote("/" + text.removeprefix("file://").partition("/")[2])
    if is_address(text):
        check_address(text)
        return SourceName(kind="stream", text=text)
    check_not_almost_address(text)
    if Path(text).exists():
        return SourceName(kind="file", text=text)
    from dsmap.runtime.live.cameras import find_camera

    find_camera(text)
    return SourceName(kind="camera", text=text)


def opener(name: SourceName, asked: Asked, *, loop: bool) -> Callable[[threading.Event], Source]:
    """A function that opens the source, as often as it is lost; it raises InputError or DsmapError when it cannot.

    Setting the event that it is given ends waits within `read`. `loop`: a file starts over at its end.
    """
    if name.kind == "camera":
        from dsmap.runtime.live.cameras import Camera, find_camera

        return lambda stop: Camera(find_camera(name.text), asked)  # by its name it is found under another number, too
    from dsmap.runtime.live.streams import Stream

    return lambda stop: Stream(name, stop, loop=loop)
