"""One video frame to and from RGB: colours, turning upright, even sizes.

Frames go to the network as R'G'B' in BT.709 (the sRGB primaries), whatever the file uses, and leave as BT.709 limited
range. BT.601 primaries are close enough to be left alone, as players do. BT.2020, P3 and HDR (PQ, HLG) are brought to
SDR in BT.709: see `tone`.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from dsmap.errors import InputError
from dsmap.runtime.tone import Tone, ToneMapper, tone_of

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
_ABORTING_FORMATS = ("yaf16le", "yaf16be", "yaf32le", "yaf32be")  # swscale ends the whole process on some of these


# Limited range to full, for grey pictures: swscale takes all of them for full.
_EXPANDED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


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


class Pool(Protocol):
    """Arrays to use again."""

    def take(self, shape: tuple[int, ...]) -> Pixels:
        """A uint8 array of this shape, contiguous, its content of no meaning."""


@dataclass
class FrameToRgb:
    """Turns decoded frames into upright RGB, all of one size. Keep one per video: it keeps the scaler's tables.

    With a `pool` the results lie in its arrays.
    """

    width: int
    height: int
    orientation: Orientation
    pool: Pool | None = None
    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)
    _mapper: ToneMapper | None = field(default=None, repr=False)

    def __call__(self, frame: VideoFrame) -> Pixels:
        """uint8 (height, width, 3), BT.709 primaries, full range. A frame of another size is scaled.

        Raises InputError for the few pixel formats that cannot be converted.
        """
        tone = tone_of(frame)
        if tone is None and not _needs_16_bits(frame):
            planes = [_pixels(plane) for plane in self._convert(frame, "gbrp").planes]
        else:
            wide, white = self._convert(frame, "gbrp16le"), _white(frame)
            if tone is not None:
                wide, white = self._mapper_for(tone, white)(wide), 65535
            planes = [cv2.convertScaleAbs(_pixels(plane, np.uint16), alpha=255 / white) for plane in wide.planes]
        if frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG:
            planes = [cv2.LUT(plane, _EXPANDED) for plane in planes]
        green, blue, red = planes
        return self._upright([red, green, blue])

    def _upright(self, planes: Sequence[npt.NDArray]) -> Pixels:
        if self.orientation == Orientation():
            target = self.pool.take((self.height, self.width, 3)) if self.pool else None
            return np.asarray(cv2.merge(planes, target), np.uint8)
        turned = self.orientation.apply(np.asarray(cv2.merge(planes), np.uint8))
        if self.pool is None:
            return turned
        target = self.pool.take(turned.shape)
        np.copyto(target, turned)
        return target

    def _mapper_for(self, tone: Tone, white: float) -> ToneMapper:
        """One table for the whole clip, also where the metadata's peak changes on the way: the tone must not jump."""
        kind = (tone.transfer, tone.primaries)
        if self._mapper is None or kind != (self._mapper.tone.transfer, self._mapper.tone.primaries):
            self._mapper = ToneMapper(tone, *self.orientation.size(self.width, self.height), white)
        return self._mapper

    def _convert(self, frame: VideoFrame, format: str) -> VideoFrame:
        width, height = self.orientation.size(self.width, self.height)
        try:
            if frame.format.name in _ABORTING_FORMATS:
                raise ValueError(frame.format.name)
            return self._scaler.reformat(
                frame,
                width,
                height,
                format=format,  # swscale makes planes four times as fast as interleaved pixels
                src_colorspace=_matrix(frame),
                src_color_range=_range(frame),
                interpolation=_DECODE_FLAGS,
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"the video's pixels ({frame.format.name}, {frame.width}x{frame.height}) cannot be converted to RGB",
                "convert the video to H.264 first",
            ) from error


RGB_FORMATS = ("rgb24", "bgr0")
"""The formats of `RgbToFrame` that hold RGB itself, bit for bit."""


@dataclass
class RgbToFrame:
    """Turns RGB into frames for an encoder: BT.709 limited range, tagged so; or RGB itself. Keep one per video."""

    pix_fmt: str = "yuv420p"
    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    def __call__(self, rgb: Pixels) -> VideoFrame:
        """`rgb`: uint8 (H, W, 3), of a size that `pix_fmt` takes: see `pad_to_even`."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        if self.pix_fmt in RGB_FORMATS:
            # The values stay as they are, and so does the range; the matrix is "none".
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


def pad_to_even(rgb: Pixels, pix_fmt: str = "yuv420p") -> Pixels:
    """(H, W, 3) with the last row and column repeated where `pix_fmt` stores colour once for two of them."""
    height, width = rgb.shape[:2]
    across, down = (0, 0) if pix_fmt in RGB_FORMATS else (width % 2, height % 2 if "420" in pix_fmt else 0)
    if not across and not down:
        return np.ascontiguousarray(rgb)
    return np.pad(rgb, ((0, down), (0, across), (0, 0)), mode="edge")


def padded_size(width: int, height: int, pix_fmt: str) -> tuple[int, int]:
    """(width, height) of what `pad_to_even` gives."""
    if pix_fmt in RGB_FORMATS:
        return width, height
    return width + width % 2, height + (height % 2 if "420" in pix_fmt else 0)


def size_at_height(width: int, height: int, wanted_height: int | None) -> tuple[int, int]:
    """(width, height) scaled to `wanted_height`, the aspect kept and the width even; unchanged for None."""
    if wanted_height is None or wanted_height == height:
        return width, height
    return max(2, round(width * wanted_height / height / 2) * 2), wanted_height


def _pixels(plane: VideoPlane, kind: type[np.uint8] | type[np.uint16] = np.uint8) -> npt.NDArray:
    """(H, W), a view: rows in memory are longer than W."""
    return np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]


def _needs_16_bits(frame: VideoFrame) -> bool:
    """Whether swscale, asked for 8 bits, would be off by half a level: full range of more than 8 bits."""
    return _bits(frame) > 8 and (frame.format.is_rgb or _range(frame) == ColorRange.JPEG)


def _white(frame: VideoFrame) -> float:
    """What swscale makes of white in 16 bits."""
    bits = _bits(frame)
    if frame.format.is_rgb:
        return 65535
    return (2**bits - 1) * 2 ** (16 - bits) if _range(frame) == ColorRange.JPEG else 65535 * 255 / 256 + 3.5


def _bits(frame: VideoFrame) -> int:
    return min(16, max((component.bits for component in frame.format.components), default=8))


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
