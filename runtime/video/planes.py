"""Planes of decoded frames and of those for an encoder: views of their pixels, and frames that stay Y'CbCr."""

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange

from dsmap.runtime.refine.yuv_planes import BT709, YuvKind, YuvPlanes
from dsmap.runtime.video.colour_matrix import LUMA_WEIGHTS, matrix_of, needs_own_matrix, value_range
from dsmap.runtime.video.tone_mapping import tone_of

_FORMATS = ("yuv420p", "yuvj420p")


def plane_pixels(plane: VideoPlane, kind: type[np.uint8] | type[np.uint16] = np.uint8) -> npt.NDArray:
    """(H, W), a view: rows in memory are longer than W."""
    return np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]


def can_stay_yuv(frame: VideoFrame) -> bool:
    """Whether `frame` can be refined without becoming RGB: SDR in 4:2:0 with 8 bits, of even size, in memory.

    Its matrix may be any that swscale knows.
    """
    if frame.format.name not in _FORMATS or frame.width % 2 or frame.height % 2:
        return False
    if any(plane.line_size < plane.width for plane in frame.planes):  # upside down
        return False
    return tone_of(frame) is None and not needs_own_matrix(frame)


def yuv_planes(frame: VideoFrame) -> YuvPlanes:
    """The planes of a frame that `can_stay_yuv`, or of one for an encoder; views."""
    luma, blue, red = (plane_pixels(plane) for plane in frame.planes)
    matrix = matrix_of(frame)
    weights = BT709 if matrix is None else LUMA_WEIGHTS[matrix]
    return YuvPlanes(luma, blue, red, YuvKind(weights, value_range(frame) == ColorRange.JPEG))
