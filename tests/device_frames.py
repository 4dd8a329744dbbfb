"""Frames as a decoder leaves them in a device's memory, here in ordinary memory, and what the host makes of them."""

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np

from dsmap.runtime.backends.device_frame import DeviceFrame, PlanesKind, Siting
from dsmap.runtime.backends.dlpack import read_plane
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation

WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # by H.273's number of the matrix
CENTRE = Siting(0.5, 0.5)  # swscale's, where a frame does not tell


def picture(width: int, height: int, matrix: int, full: bool, ten_bits: bool, phase: float = 0) -> av.VideoFrame:
    """Smooth, and of other values in each plane and column."""
    kind, shift = (np.uint16, 6) if ten_bits else (np.uint8, 0)
    frame = av.VideoFrame(width, height, "p010le" if ten_bits else "nv12")
    for index, plane in enumerate(frame.planes):
        rows, columns = np.mgrid[: plane.height, : plane.line_size // kind().itemsize]
        odd = index * (columns % 2)
        values = np.sin(rows / 5 + index + phase + odd) + np.cos(columns / 11 - 2 * odd)
        plane.update((((values * 45 + 128) * (4 if ten_bits else 1)).astype(kind) << shift).tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def on_device(frame: av.VideoFrame, full: bool) -> DeviceFrame:
    capsules = [plane.__dlpack__() for plane in frame.planes]
    (luma, device), (chroma, _) = map(read_plane, capsules)
    assert device == 1
    assert luma.pitch == chroma.pitch >= frame.width
    kind = PlanesKind(
        frame.width, frame.height, frame.format.name == "p010le", luma.pitch, *WEIGHTS[frame.colorspace], full
    )
    return DeviceFrame(
        kind=kind, luma=luma, chroma=chroma, owner=capsules, wait=lambda: None, to_rgb=lambda: by_host(frame)
    )


def by_host(frame: av.VideoFrame) -> np.ndarray:
    return FrameToRgb(frame.width, frame.height, Orientation())(frame)


def plane_values(frame: av.VideoFrame) -> list[np.ndarray]:
    """Luma, and chroma in pairs."""
    rows = [np.frombuffer(memoryview(plane), np.uint8) for plane in frame.planes]
    shapes = [(plane.height, plane.line_size) for plane in frame.planes]
    return [
        row[: height * pitch].reshape(height, pitch)[:, : frame.width].astype(int)
        for row, (height, pitch) in zip(rows, shapes, strict=True)
    ]
