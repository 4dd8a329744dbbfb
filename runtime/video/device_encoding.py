"""Encoding frames that are in the memory of the first NVIDIA GPU, on its own encoder (NVENC)."""

from fractions import Fraction
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.codec.hwaccel import HWAccel
from av.container import OutputContainer
from av.video.frame import CudaContext, VideoFrame
from av.video.stream import VideoStream

from dsmap.errors import DsmapError
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.video.cuda_context import CURRENT_CONTEXT, primary_context
from dsmap.runtime.video.encoder_table import Encoder
from dsmap.runtime.video.rgb_to_frame import tagged


class DeviceEncoding:
    """What a stream needs for such frames. Frames in the host's memory are uploaded by PyAV.

    FFmpeg works in the context that is current when its own are made: the primary one, see `CURRENT_CONTEXT`.
    """

    pix_fmt = "nv12"

    def __init__(self) -> None:
        self._context = CudaContext(primary_ctx=False, current_ctx=True)

    def add_stream(self, container: OutputContainer, encoder: Encoder, rate: Fraction) -> VideoStream:
        """A stream of `container`, to be set up like any other. Raises DsmapError where the GPU cannot be used so."""
        device = HWAccel("cuda", options=CURRENT_CONTEXT)
        try:
            with primary_context():
                stream = container.add_stream(encoder.library, rate=rate, hwaccel=device, options=encoder.options)
        except (av.FFmpegError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DsmapError(
                f"{encoder.title} does not take frames in the GPU's memory: {reason}", "Leave out --hwaccel."
            ) from error
        return cast(VideoStream, stream)

    def frame(self, result: DeviceResult) -> VideoFrame:
        """The frame for the encoder, tagged as `RgbToFrame` does; it keeps the result's memory.

        Raises DsmapError where FFmpeg does not take it.
        """
        try:
            with primary_context():
                frame = VideoFrame.from_dlpack(result.planes(), format=self.pix_fmt, cuda_context=self._context)
        except av.FFmpegError as error:
            raise DsmapError(
                f"FFmpeg does not take frames in the GPU's memory: {error.strerror or error}", "Leave out --hwaccel."
            ) from error
        return tagged(frame)
