"""Listing, finding and reading cameras, through OpenCV."""

import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from dsmap.common.images import read_rgb  # noqa: F401  # its module silences OpenCV's log, as we report failures
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.live.source import CapturedFrame, CaptureRequest, Pixels, SourceLostError, StreamInfo

_COMPRESSED = "MJPG"  # USB has no bandwidth for large uncompressed frames
_RATE_TOLERANCE = 0.1  # cameras say 29.97 or 30.00003 for 30
_FRAME_TIMEOUT = "2"  # seconds that OpenCV waits for a frame on Linux; its default is 10


class CameraSource:
    """The camera with this index. Raises InputError when there is none, DsmapError when it gives no frames."""

    def __init__(self, index: int, asked: CaptureRequest) -> None:
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", _FRAME_TIMEOUT)
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
                    f"camera {index} opens, but gives no frames",
                    "close other programs that use it, or ask for another size with --size",
                ) from None
            height, width = first_rgb.shape[:2]
            rate = self._capture.get(cv2.CAP_PROP_FPS)
            pixel_format = _fourcc_name(self._capture.get(cv2.CAP_PROP_FOURCC))
            self.info = StreamInfo(
                width=width,
                height=height,
                rate=rate if rate > 0 else None,
                live=True,
                pixel_format=pixel_format,
                refused=_refused(asked, width, height, rate, pixel_format),
            )
        except BaseException:
            self._capture.release()
            raise

    def read(self) -> CapturedFrame:
        """See `FrameSource`."""
        try:
            grabbed = self._capture.grab()
            at = time.monotonic()  # before decoding, which is part of the latency
            good, bgr = self._capture.retrieve() if grabbed else (False, None)
        except cv2.error as error:
            raise SourceLostError(" ".join(str(error).split())) from error
        if not good or bgr is None or not bgr.size:
            raise SourceLostError("it gives no frames")
        return CapturedFrame(at=at, load=lambda: _to_rgb(np.asarray(bgr, np.uint8)))

    def close(self) -> None:
        """See `FrameSource`."""
        self._capture.release()


def list_cameras() -> dict[int, str]:
    """Cameras by index, with their names, as the system lists them, without opening any."""
    from cv2_enumerate_cameras import enumerate_cameras

    # The backend that OpenCV uses by default, so that indices are those of `VideoCapture(index)`.
    backends = {"linux": cv2.CAP_V4L2, "win32": cv2.CAP_MSMF, "darwin": cv2.CAP_AVFOUNDATION}
    found = enumerate_cameras(backends.get(sys.platform, cv2.CAP_ANY))
    return {camera.index: camera.name or "" for camera in sorted(found, key=lambda camera: camera.index)}


def find_camera(text: str) -> int:
    """The index of the camera given by its number, its name or part of the name. Raises InputError."""
    if text.isascii() and text.isdecimal():
        return int(text)
    cameras = list_cameras()
    wanted = text.casefold()
    named = [index for index, name in cameras.items() if name.casefold() == wanted]
    matching = named or [index for index, name in cameras.items() if wanted in name.casefold()]
    if not matching:
        found = f"; cameras: {_listed(cameras)}" if cameras else ""
        raise InputError(
            f"there is no camera or file {text!r}{found}",
            "pass a camera's number or name, an address or a video file; --list-cameras lists the cameras",
        )
    if len(matching) > 1:
        found = _listed({index: cameras[index] for index in matching})
        raise InputError(f"{len(matching)} cameras match {text!r}: {found}", "pass the number of one of them")
    return matching[0]


def _listed(cameras: dict[int, str]) -> str:
    return ", ".join(f"{index} ({name})" if name else str(index) for index, name in cameras.items())


def _cannot_open(index: int) -> DsmapError:
    cameras = {found: name for found, name in list_cameras().items() if found != index}
    device = Path(f"/dev/video{index}")
    if device.exists():
        if not os.access(device, os.R_OK | os.W_OK):
            return DsmapError(
                f"camera {index} cannot be used: no permission for {device}",
                "add yourself to the group video: sudo usermod -aG video $USER, then log in again",
            )
        return DsmapError(
            f"camera {index} ({device}) cannot be opened", "close other programs that use it, or pass another --camera"
        )
    if not cameras:
        return InputError(
            "no camera was found",
            "plug one in, or pass a video file or an address as --camera",
        )
    return InputError(f"there is no camera {index}; found: {_listed(cameras)}", f"pass --camera {next(iter(cameras))}")


def _ask(capture: cv2.VideoCapture, asked: CaptureRequest) -> None:
    """Request size, rate and format. Cameras do not report what they refuse: see `_refused`."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # frames buffered in the driver add latency
    if not (asked.size or asked.fps):
        return
    compressed = cv2.VideoWriter.fourcc(*_COMPRESSED)
    capture.set(cv2.CAP_PROP_FOURCC, compressed)  # first, as sizes depend on the format
    if asked.size:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, asked.size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, asked.size[1])
    if asked.fps:
        capture.set(cv2.CAP_PROP_FPS, asked.fps)
    capture.set(cv2.CAP_PROP_FOURCC, compressed)  # again, as drivers change it with the size


def _fourcc_name(code: float) -> str | None:
    """The four letters of a pixel format; None where the driver does not report it."""
    if not 0 < code < 1 << 32:
        return None
    letters = int(code).to_bytes(4, "little")
    return letters.decode("ascii").strip() if letters.isascii() and letters.decode("ascii").isprintable() else None


def _refused(asked: CaptureRequest, width: int, height: int, rate: float, pixel_format: str | None) -> str | None:
    refused = []
    if asked.size and asked.size != (width, height):
        refused.append(f"{asked.size[0]}x{asked.size[1]} was requested, but it delivers {width}x{height}")
    if asked.fps and rate > 0 and abs(rate - asked.fps) > _RATE_TOLERANCE * asked.fps:
        refused.append(f"{asked.fps:g} frames per second were requested, but it reports {rate:g}")
    if (asked.size or asked.fps) and pixel_format not in (None, _COMPRESSED):
        refused.append(f"{_COMPRESSED} was requested, but it delivers {pixel_format}")
    return "; ".join(refused) or None


def _to_rgb(bgr: Pixels) -> Pixels:
    code = cv2.COLOR_GRAY2RGB if bgr.ndim == 2 or bgr.shape[2] == 1 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(bgr, code), np.uint8)
