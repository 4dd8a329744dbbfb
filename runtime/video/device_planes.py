"""Frames that a decoder left in the memory of a device: where their planes lie, and how they come to the host."""

from collections.abc import Callable

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from dsmap.runtime.backends.device_frame import DeviceFrame, PlanesKind
from dsmap.runtime.backends.dlpack import DEVICES, read_plane
from dsmap.runtime.video.colour_matrix import LUMA_WEIGHTS, matrix_of, needs_own_matrix, value_range
from dsmap.runtime.video.cuda_context import synchronise
from dsmap.runtime.video.hardware import DEVICE_FORMATS
from dsmap.runtime.video.tone_mapping import tone_of

_ON_CUDA = "cuda"  # PyAV's format of such frames, and the device


def stored_format(frame: VideoFrame) -> str:
    """The format of the pixels, wherever they are: "nv12", not "cuda"."""
    return str((frame.sw_format or frame.format).name)


def on_host(frame: VideoFrame) -> VideoFrame:
    """`frame` with its pixels in the host's memory, and everything else that belongs to it."""
    if frame.sw_format is None:
        return frame
    matrix, frame.colorspace = frame.colorspace, 1  # swscale refuses others, although nothing is converted
    copied = frame.reformat(format=frame.sw_format.name)
    copied.colorspace = frame.colorspace = matrix
    return copied


def planar(frame: VideoFrame) -> VideoFrame:
    """A frame that a device has decoded, and that is on the host, in the format of software's; any other one itself."""
    if (name := DEVICE_FORMATS.get(frame.format.name)) is None:
        return frame
    matrix, frame.colorspace = frame.colorspace, 1  # as above
    ordered = frame.reformat(format=name)
    ordered.colorspace = frame.colorspace = matrix
    return ordered


def device_frame(
    frame: VideoFrame, to_rgb: Callable[[VideoFrame], npt.NDArray[np.uint8]], clip: int
) -> DeviceFrame | None:
    """`frame` for a backend that takes it where it is; None where it has to come to the host.

    That is for frames in the host's memory, and those whose colours take more than a matrix to become RGB. `to_rgb`:
    converts the frame, once it is on the host. `clip`: as in `PlanesKind`.
    """
    stored = stored_format(frame)
    if frame.format.name != _ON_CUDA or stored not in ("nv12", "p010le") or frame.width % 2 or frame.height % 2:
        return None
    if tone_of(frame) is not None or needs_own_matrix(frame):
        return None
    weights = LUMA_WEIGHTS.get(matrix_of(frame) or Colorspace.ITU709)
    capsules = [plane.__dlpack__() for plane in frame.planes]
    (luma, device), (chroma, _) = map(read_plane, capsules)
    if weights is None or device != DEVICES[_ON_CUDA] or luma.pitch != chroma.pitch:
        return None
    full = value_range(frame) == ColorRange.JPEG
    kind = PlanesKind(frame.width, frame.height, stored == "p010le", luma.pitch, *weights, full, clip)
    return DeviceFrame(
        kind=kind,
        luma=luma,
        chroma=chroma,
        owner=(frame, capsules),
        wait=synchronise,
        to_rgb=lambda: to_rgb(on_host(frame)),
    )
