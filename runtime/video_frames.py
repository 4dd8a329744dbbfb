"""One video frame to and from RGB: colours, turning upright, even sizes.

Frames go to the network as R'G'B' in BT.709 (the sRGB primaries), whatever the file uses, and leave as BT.709 limited
range. BT.601 primaries are close enough to be left alone, as players do. BT.2020 and HDR (PQ, HLG) are brought to
BT.709; highlights beyond SDR white clip.
"""

import contextlib
from dataclasses import dataclass, field

import cv2  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

Pixels = npt.NDArray[np.uint8]

# Chroma interpolated, not repeated, and values rounded: without, RGB comes out 1 to 1.5 levels too dark on average.
_ROUNDED = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_DECODE_FLAGS = _ROUNDED | Interpolation.FULL_CHR_H_INT
_ENCODE_FLAGS = _ROUNDED | Interpolation.FULL_CHR_H_INP

# AVColorSpace (the file's tag) to what swscale calls its matrix. Other tags, and none, are guessed.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,  # constant luminance: swscale has no such matrix, this is the nearest
}
_HDR_TRANSFERS = {ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67}


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How stored pixels are turned upright: swap rows and columns first, then mirror."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, rgb: Pixels) -> Pixels:
        """Turn (H, W, 3) pixels upright; (W, H, 3) when the sides swap."""
        if self.swap:
            rgb = np.asarray(cv2.transpose(rgb), np.uint8)
        if self.mirror_x or self.mirror_y:
            code = -1 if self.mirror_x and self.mirror_y else int(self.mirror_x)
            rgb = np.asarray(cv2.flip(rgb, code), np.uint8)
        return rgb

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after turning; its own inverse."""
        return (height, width) if self.swap else (width, height)


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation that `frame`'s display matrix asks for; odd angles go to the nearest quarter turn."""
    try:
        # Missing from PyAV's type of side_data: every kind but motion vectors.
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)  # type: ignore[typeddict-item]
    except KeyError:
        return Orientation()
    a, b, _, c, d = (int(value) for value in matrix[:5])  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Orientation(mirror_x=a < 0, mirror_y=d < 0)


@dataclass
class FrameToRgb:
    """Turns decoded frames into upright RGB, all of one size. Keep one per video: it keeps the scaler's tables."""

    width: int
    height: int
    orientation: Orientation
    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def __call__(self, frame: VideoFrame) -> Pixels:
        """uint8 (height, width, 3), BT.709 primaries, full range. A frame of another size is scaled."""
        hdr = frame.color_trc in _HDR_TRANSFERS or frame.color_primaries == ColorPrimaries.BT2020
        try:
            converted = self._convert(frame, hdr)
        except OSError:  # tags that swscale does not know: show the values as they are
            converted = self._convert(frame, False)
        green, blue, red = (_pixels(plane) for plane in converted.planes)
        return self.orientation.apply(np.asarray(cv2.merge([red, green, blue]), np.uint8))

    def _convert(self, frame: VideoFrame, hdr: bool) -> VideoFrame:
        width, height = self.orientation.size(self.width, self.height)
        return self._scaler.reformat(
            frame,
            width,
            height,
            format="gbrp",  # swscale makes planes four times as fast as interleaved pixels
            src_colorspace=_matrix(frame),
            src_color_range=_range(frame),
            dst_color_trc=ColorTrc.BT709 if hdr else None,
            dst_color_primaries=ColorPrimaries.BT709 if hdr else None,
            interpolation=_DECODE_FLAGS,
        )


@dataclass
class RgbToFrame:
    """Turns RGB into yuv420p frames, BT.709 limited range, tagged so. Keep one per video."""

    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def __call__(self, rgb: Pixels) -> VideoFrame:
        """`rgb`: uint8 (H, W, 3), H and W even."""
        frame = self._scaler.reformat(
            VideoFrame.from_ndarray(rgb, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_ENCODE_FLAGS,
        )
        frame.color_trc, frame.color_primaries = int(ColorTrc.BT709), int(ColorPrimaries.BT709)
        return frame


def pad_to_even(rgb: Pixels) -> Pixels:
    """(H, W, 3) with the last row and column repeated where H or W is odd: H.264 yuv420p needs even sizes."""
    height, width = rgb.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(rgb)
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def size_at_height(width: int, height: int, wanted_height: int | None) -> tuple[int, int]:
    """(width, height) scaled to `wanted_height`, the aspect kept and the width even; unchanged for None."""
    if wanted_height is None or wanted_height == height:
        return width, height
    return max(2, round(width * wanted_height / height / 2) * 2), wanted_height


def _pixels(plane: VideoPlane) -> Pixels:
    """(H, W), a view: rows in memory are longer than W."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _matrix(frame: VideoFrame) -> Colorspace | None:
    if frame.format.is_rgb:
        return None
    return _MATRICES.get(frame.colorspace) or _guessed_matrix(frame)


def _guessed_matrix(frame: VideoFrame) -> Colorspace:
    """What players assume of untagged video: BT.709 from 720 lines (or 1280 columns) up, BT.601 below."""
    if frame.color_primaries == ColorPrimaries.BT2020:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601


def _range(frame: VideoFrame) -> ColorRange | None:
    if frame.format.name.startswith("yuvj"):
        return ColorRange.JPEG
    with contextlib.suppress(ValueError):
        return ColorRange(frame.color_range) if frame.color_range else None
    return None
