"""Conversion between frames of WebRTC and RGB: BT.601 in limited range, which VP8 is at any size.

(Untagged video in files is different: from 720 lines up it is taken for BT.709.)
"""

from dataclasses import dataclass, field
from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from dsmap.runtime.video.frame import Pixels
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.rgb_to_frame import pad_to_even

_UNSPECIFIED = (0, 2)  # H.273's numbers; 0 is RGB, which no codec of WebRTC stores
_BT601 = 6
# Chroma is filtered and values are rounded: otherwise they come out too dark on average.
_FLAGS = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def limited_size(width: int, height: int, shorter: int | None) -> tuple[int, int]:
    """(width, height) scaled down so that the shorter side has `shorter` pixels; never enlarged."""
    if shorter is None or min(width, height) <= shorter:
        return width, height
    scale = shorter / min(width, height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


@dataclass
class RtpFrames:
    """Converts the frames of one session, whose size may change at any time. Use it from one thread."""

    _to_rgb: FrameToRgb | None = field(default=None, repr=False)
    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def to_rgb(self, frame: VideoFrame, size: tuple[int, int]) -> Pixels:
        """uint8 RGB (height, width, 3) of a decoded frame, scaled to `size` (width, height)."""
        if frame.colorspace in _UNSPECIFIED:
            frame.colorspace = _BT601
        if self._to_rgb is None or (self._to_rgb.width, self._to_rgb.height) != size:
            self._to_rgb = FrameToRgb(*size, Orientation())
        self._to_rgb.shape = Fraction(frame.width, frame.height)  # it fills the result: rounding makes no bars
        return self._to_rgb(frame)

    def to_frame(self, rgb: Pixels, of: VideoFrame) -> VideoFrame:
        """yuv420p for an encoder, with the time of the frame `of`; odd sizes are padded by repeating the last row."""
        even = VideoFrame.from_ndarray(np.ascontiguousarray(pad_to_even(rgb)), format="rgb24")
        frame = self._scaler.reformat(
            even,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=_FLAGS,
        )
        frame.pts, frame.time_base = of.pts, of.time_base
        return frame
