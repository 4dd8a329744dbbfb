"""Conversion of RGB to frames for an encoder: BT.709 in limited range, or RGB itself."""

from dataclasses import dataclass, field

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

# Chroma is filtered and values are rounded: otherwise they come out too dark on average.
_ENCODE_FLAGS = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP

YUV_FORMAT = "yuv420p"
"""The pixel format of most encoders, and of most videos."""
RGB_FORMATS = ("rgb24", "bgr0")
"""Pixel formats that hold RGB itself, bit for bit."""


@dataclass
class RgbToFrame:
    """Converts RGB to frames for an encoder: tagged BT.709 in limited range, or RGB itself. Keep one per video."""

    pix_fmt: str = YUV_FORMAT
    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def __call__(self, rgb: npt.NDArray) -> VideoFrame:
        """`rgb`: (H, W, 3), uint8, or uint16 with `LEVEL` for each level of 8 bits.

        Its size must suit `pix_fmt`: see `pad_to_even`.
        """
        format = "rgb48le" if rgb.dtype == np.uint16 else "rgb24"
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format=format)
        if self.pix_fmt in RGB_FORMATS:
            # Values and range are unchanged; the matrix is "none".
            frame = self._scaler.reformat(frame, format=self.pix_fmt)
            frame.colorspace, frame.color_range = 0, int(ColorRange.JPEG)
        else:
            frame = self._scaler.reformat(
                frame,
                format=self.pix_fmt,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_ENCODE_FLAGS,
            )
        frame.color_trc, frame.color_primaries = int(ColorTrc.BT709), int(ColorPrimaries.BT709)
        return frame


def new_yuv_frame(width: int, height: int) -> VideoFrame:
    """A frame for an encoder of `YUV_FORMAT`, to be filled: tagged BT.709 in limited range. Both sides are even."""
    return tagged(VideoFrame(width, height, YUV_FORMAT))


def tagged(frame: VideoFrame) -> VideoFrame:
    """`frame`, whose planes are BT.709 in limited range, with the tags that say so."""
    frame.colorspace, frame.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)
    frame.color_trc, frame.color_primaries = int(ColorTrc.BT709), int(ColorPrimaries.BT709)
    return frame


def pad_to_even(rgb: npt.NDArray, pix_fmt: str = YUV_FORMAT) -> npt.NDArray:
    """(H, W, 3) with the last row and column repeated where `pix_fmt` stores colour once for two of them."""
    height, width = rgb.shape[:2]
    across, down = (0, 0) if pix_fmt in RGB_FORMATS else (width % 2, height % 2 if "420" in pix_fmt else 0)
    if not across and not down:
        return np.ascontiguousarray(rgb)
    return np.pad(rgb, ((0, down), (0, across), (0, 0)), mode="edge")


def padded_size(width: int, height: int, pix_fmt: str) -> tuple[int, int]:
    """(width, height) after `pad_to_even`."""
    if pix_fmt in RGB_FORMATS:
        return width, height
    return width + width % 2, height + (height % 2 if "420" in pix_fmt else 0)
