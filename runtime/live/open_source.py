"""Finding and opening the source that `--camera` names."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from dsmap.common.notify import Notify
from dsmap.runtime.live.cameras import CameraSource, find_camera
from dsmap.runtime.live.source import CaptureRequest, FrameSource, SourceName
from dsmap.runtime.live.streams import StreamSource
from dsmap.runtime.video.addresses import check_address, check_not_almost_address, is_address
from dsmap.runtime.video.hardware import OFF


def find_source(text: str) -> SourceName:
    """The source that `--camera TEXT` names: a number or /dev/videoN, an address, a file, or a camera's name.

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
    find_camera(text)
    return SourceName(kind="camera", text=text)


def opener(
    name: SourceName,
    asked: CaptureRequest,
    *,
    loop: bool,
    hwaccel: str = OFF,
    notify: Notify = lambda _line: None,
) -> Callable[[threading.Event], FrameSource]:
    """A function that opens the source, and reopens it when lost; it raises InputError or DsmapError.

    Its argument is an event that ends waits within `read`. `loop`: a file starts over at its end. `hwaccel`, `notify`:
    see `open_decoding`.
    """
    if name.kind == "camera":
        return lambda stop: CameraSource(
            find_camera(name.text), asked
        )  # by its name it is found under another number, too
    return lambda stop: StreamSource(name, stop, loop=loop, hwaccel=hwaccel, notify=notify)
