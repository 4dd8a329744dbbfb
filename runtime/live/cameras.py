"""Cameras, through OpenCV."""

import os
import re
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from dsmap.errors import DsmapError, InputError
from dsmap.images import read_picture_rgb  # noqa: F401  # its module silences OpenCV's log, as failures are told by us
from dsmap.runtime.live.sources import Asked, Captured, Facts, Pixels, SourceLostError

_SYSFS = Path("/sys/class/video4linux")
_MOST_TRIED = 4  # indices to try where the system has no list
_RATE_TOLERANCE = 0.1  # cameras say 29.97 or 30.00003 for 30
_WAITS_FOR_PICTURE = "2"  # seconds that Linux's driver waits for one; OpenCV's own number is 10


class Camera:
    """The camera with that index. Raises InputError when there is none, DsmapError when it gives no pictures."""

    def __init__(self, index: int, asked: Asked) -> None:
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", _WAITS_FOR_PICTURE)
        self._index = index
        self._capture = cv2.VideoCapture(index)
        try:
            if not self._capture.isOpened():
                raise _cannot_open(index)
            _ask(self._capture, asked)
            try:
                first_rgb = self.read().load()
            except SourceLostError:
                raise DsmapError(
                    f"camera {index} opens, but gives no pictures",
                    "close other programs that use it, or ask for another size with --size",
                ) from None
            height, width = first_rgb.shape[:2]
            rate = self._capture.get(cv2.CAP_PROP_FPS)
            refused = _refused(asked, width, height, rate)
            self.facts = Facts(width=width, height=height, rate=rate if rate > 0 else None, live=True, refused=refused)
        except BaseException:
            self._capture.release()
            raise

    def read(self) -> Captured:
        """See `Source`."""
        try:
            grabbed = self._capture.grab()
            at = time.monotonic()  # before the decoding, which is part of the delay
            good, bgr = self._capture.retrieve() if grabbed else (False, None)
        except cv2.error as error:
            raise SourceLostError(" ".join(str(error).split())) from error
        if not good or bgr is None or not bgr.size:
            raise SourceLostError("it gives no pictures")
        return Captured(at=at, load=lambda: _to_rgb(np.asarray(bgr, np.uint8)))

    def close(self) -> None:
        """See `Source`."""
        self._capture.release()


def list_cameras() -> dict[int, str]:
    """Cameras by index, with their names. Where the system has no list, the first few are tried and are nameless."""
    if sys.platform == "linux":
        found = {}
        for path in sorted(_SYSFS.glob("video*")):
            # Most cameras have a second device, for metadata; only the first gives pictures.
            if (match := re.fullmatch(r"video(\d+)", path.name)) and _text(path / "index") in ("", "0"):
                found[int(match[1])] = _text(path / "name")
        return dict(sorted(found.items()))
    return {index: "" for index in range(_MOST_TRIED) if _opens(index)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _opens(index: int) -> bool:
    capture = cv2.VideoCapture(index)
    opened = capture.isOpened()
    capture.release()
    return opened


def _cannot_open(index: int) -> DsmapError:
    cameras = {found: name for found, name in list_cameras().items() if found != index}
    device = Path(f"/dev/video{index}")
    if device.exists():
        if not os.access(device, os.R_OK | os.W_OK):
            return DsmapError(
                f"camera {index} may not be used: no permission for {device}",
                "add yourself to the group video: sudo usermod -aG video $USER, then log in again",
            )
        return DsmapError(
            f"camera {index} ({device}) cannot be opened", "close other programs that use it, or pass another --camera"
        )
    if not cameras:
        return InputError(
            f"there is no camera {index}: no camera was found",
            "plug one in, or pass a video file or an address as --camera",
        )
    names = ", ".join(f"{found} ({name})" if name else str(found) for found, name in cameras.items())
    return InputError(f"there is no camera {index}; found: {names}", f"pass --camera {next(iter(cameras))}")


def _ask(capture: cv2.VideoCapture, asked: Asked) -> None:
    """Cameras take what they can and say nothing; see `_refused`."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old frame in the driver is delay
    if asked.size or asked.fps:
        # Uncompressed, USB has room for small pictures only.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if asked.size:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, asked.size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, asked.size[1])
    if asked.fps:
        capture.set(cv2.CAP_PROP_FPS, asked.fps)


def _refused(asked: Asked, width: int, height: int, rate: float) -> str | None:
    refused = []
    if asked.size and asked.size != (width, height):
        refused.append(f"{asked.size[0]}x{asked.size[1]} was asked for and it gives {width}x{height}")
    if asked.fps and rate > 0 and abs(rate - asked.fps) > _RATE_TOLERANCE * asked.fps:
        refused.append(f"{asked.fps:g} frames per second were asked for and it says {rate:g}")
    return "; ".join(refused) or None


def _to_rgb(picture: Pixels) -> Pixels:
    code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 or picture.shape[2] == 1 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(picture, code), np.uint8)
