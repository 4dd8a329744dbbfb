"""Conversion of decoded frames to upright RGB: colours, cropping, scaling, orientation.

Whatever the file uses, frames go to the network as full-range R'G'B' with BT.709 (sRGB) primaries. BT.601 primaries are
close enough to be left alone, as players do. BT.2020, P3 and HDR (PQ, HLG) are converted to SDR: see `tone_mapping`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import cv2  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from dsmap.errors import InputError
from dsmap.runtime.video.colour_matrix import matrix_of, needs_own_matrix, to_full_rgb, value_range
from dsmap.runtime.video.frame import LEVEL, ArrayPool, Pixels, Residual
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.planes import plane_pixels
from dsmap.runtime.video.scaling import fitted_size, scaled
from dsmap.runtime.video.stream_side_data import Crop
from dsmap.runtime.video.tone_mapping import Tone, ToneMapper, tone_of

# Chroma is interpolated, not repeated, and values are rounded: otherwise RGB is 1 to 1.5 levels too dark on average.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

_ABORTING_FORMATS = ("yaf16le", "yaf16be", "yaf32le", "yaf32be")  # swscale aborts the whole process on some of these


# Limited range to full, for grey frames: swscale takes all of them for full range.
_EXPANDED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


class _Placement(NamedTuple):
    """Position of a stored frame in the stored target; sizes as (width, height)."""

    converted: tuple[int, int]
    """The size that swscale is asked for."""
    crop: Crop
    """Cut off after that; odd numbers too, although chroma is stored for two pixels."""
    fitted: tuple[int, int]
    bars: tuple[int, int, int, int] | None
    """Black rows above and below, columns left and right."""


@dataclass
class FrameToRgb:
    """Converts decoded frames to upright RGB, all of one size. Keep one per video: it caches the scaler's tables.

    `width`, `height`: of the result, upright. `crop`: the part of the stored frame that the container hides.
    `shape`: width / height of the stored frame as displayed, pixel aspect and all; None: that of square pixels.
    `tone`: of the clip; None: that of the first frame that has one. With a `pool` the results lie in its arrays.
    `averages`: frames that become smaller are averaged over areas, as `scaled` does it; otherwise cubic.
    """

    width: int
    height: int
    orientation: Orientation
    pool: ArrayPool | None = None
    crop: Crop = Crop()  # noqa: RUF009  # frozen
    shape: Fraction | None = None
    tone: Tone | None = None
    averages: bool = False
    _scaler: VideoReformatter = field(default_factory=VideoReformatter, repr=False)
    _mapper: ToneMapper | None = field(default=None, repr=False)
    _latest: tuple[tuple[int, int, Fraction], _Placement] | None = field(default=None, repr=False)
    """The placement of frames of that width, height and aspect: nearly always the next one's too."""

    def __call__(self, frame: VideoFrame, aspect: Fraction = Fraction(1)) -> Pixels:
        """uint8 (height, width, 3), BT.709 primaries, full range. `aspect`: width / height of the frame's pixels.

        A frame of another size is scaled, and one of another shape gets black bars. Raises InputError for
        pixels that cannot be converted.
        """
        place = self._placement(frame, aspect)
        green, blue, red = (self._placed(plane, place) for plane in self._planes(frame, *place.converted))
        return self._upright([red, green, blue])

    def with_residual(self, frame: VideoFrame, aspect: Fraction = Fraction(1)) -> tuple[Pixels, Residual | None]:
        """The same, with the residual of a frame of more than 8 bits; None for others."""
        if _bits(frame) <= 8 and tone_of(frame) is None:
            return self(frame, aspect), None
        place = self._placement(frame, aspect)
        wide, white = self._wide(frame, *place.converted)
        planes = (_full_16_bits(plane_pixels(plane, np.uint16), white, frame) for plane in wide)
        green, blue, red = (self._placed(plane, place) for plane in planes)
        exact = self.orientation.apply(np.asarray(cv2.merge([red, green, blue])))
        exact += LEVEL // 2  # fits into 16 bits: white is 255 levels
        rgb = (exact >> 8).astype(np.uint8)
        return rgb, (exact.astype(np.uint8) ^ 0x80).view(np.int8)  # the lower byte, less half a level

    def fills(self, frame: VideoFrame, aspect: Fraction = Fraction(1)) -> bool:
        """Whether `frame` fills the result, without bars."""
        return self._placement(frame, aspect).bars is None

    @property
    def _target(self) -> tuple[int, int]:
        return self.orientation.size(self.width, self.height)

    def _placement(self, frame: VideoFrame, aspect: Fraction) -> _Placement:
        kind = (frame.width, frame.height, aspect)
        if self._latest is None or self._latest[0] != kind:
            self._latest = kind, self._new_placement(*kind)
        return self._latest[1]

    def _new_placement(self, width: int, height: int, aspect: Fraction) -> _Placement:
        crop, whole, target = self.crop, (width, height), self._target
        if not crop.fits(*whole):  # it is for frames of another size
            crop = Crop()
        fitted = fitted_size(target, Fraction(*crop.size(*whole)) * aspect / (self.shape or Fraction(*target)))
        across, down = (all_of_it - part for all_of_it, part in zip(target, fitted, strict=True))
        bars = (down // 2, down - down // 2, across // 2, across - across // 2) if across or down else None
        return _Placement(whole if crop else fitted, crop, fitted, bars)

    def _planes(self, frame: VideoFrame, width: int, height: int) -> list[Pixels]:
        """Green, blue and red, each uint8 (height, width), of the whole stored frame."""
        if tone_of(frame) is None and not _needs_16_bits(frame) and not needs_own_matrix(frame):
            planes = [plane_pixels(plane) for plane in self._convert(frame, "gbrp", width, height).planes]
        else:
            wide, white = self._wide(frame, width, height)
            found = (plane_pixels(plane, np.uint16) for plane in wide)
            planes = [np.asarray(cv2.convertScaleAbs(plane, alpha=255 / white)) for plane in found]
        return [np.asarray(cv2.LUT(plane, _EXPANDED)) for plane in planes] if _is_limited_grey(frame) else planes

    def _wide(self, frame: VideoFrame, width: int, height: int) -> tuple[tuple[VideoPlane, ...], float]:
        """Green, blue and red in 16 bits, and the value of white in them."""
        if needs_own_matrix(frame):
            wide, white = to_full_rgb(frame, width, height, self._scaler), 65535.0
        else:
            wide, white = self._convert(frame, "gbrp16le", width, height), _white(frame)
        if (tone := tone_of(frame)) is not None:
            wide, white = self._mapper_for(tone, white, width, height)(wide), 65535.0
        return wide.planes, white

    def _placed(self, plane: npt.NDArray, place: _Placement) -> npt.NDArray:
        """`plane` (height, width) cropped, scaled, and in the middle of the stored target."""
        if place.crop:
            width, height = place.crop.size(*place.converted)
            plane = plane[place.crop.top : place.crop.top + height, place.crop.left : place.crop.left + width]
        plane = scaled(plane, place.fitted)
        if place.bars is None:
            return plane
        return np.asarray(cv2.copyMakeBorder(plane, *place.bars, cv2.BORDER_CONSTANT, value=0))

    def _upright(self, red_green_blue: Sequence[npt.NDArray]) -> Pixels:
        if self.orientation == Orientation():
            target = self.pool.take((self.height, self.width, 3)) if self.pool else None
            return np.asarray(cv2.merge(red_green_blue, target), np.uint8)
        turned = self.orientation.apply(np.asarray(cv2.merge(red_green_blue), np.uint8))
        if self.pool is None:
            return turned
        target = self.pool.take(turned.shape)
        np.copyto(target, turned)
        return target

    def _mapper_for(self, tone: Tone, white: float, width: int, height: int) -> ToneMapper:
        """One table for the whole clip, even if the metadata's peak changes: the tone must not jump."""
        kind = (tone.transfer, tone.primaries)
        if self.tone is None or kind != (self.tone.transfer, self.tone.primaries):
            self.tone, self._mapper = tone, None
        if self._mapper is None or (width, height) != (self._mapper.width, self._mapper.height):
            self._mapper = ToneMapper(self.tone, width, height, white)
        return self._mapper

    def _convert(self, frame: VideoFrame, format: str, width: int, height: int) -> VideoFrame:
        try:
            if frame.format.name in _ABORTING_FORMATS:
                raise ValueError(frame.format.name)
            return self._scaler.reformat(
                frame,
                width,
                height,
                format=format,  # swscale makes planes four times as fast as interleaved pixels
                src_colorspace=matrix_of(frame),
                src_color_range=value_range(frame),
                interpolation=(Interpolation.AREA if self.averages else Interpolation.BICUBIC) | _EXACT,
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"the video's pixels ({frame.format.name}, {frame.width}x{frame.height}) cannot be converted to RGB",
                "convert the video to H.264 first",
            ) from error


def _full_16_bits(plane: npt.NDArray[np.uint16], white: float, frame: VideoFrame) -> npt.NDArray[np.uint16]:
    """(H, W), `LEVEL` times the level in 8 bits, of a plane of `_wide`."""
    scale, black = 255 * LEVEL / white, 0.0
    if _is_limited_grey(frame):
        scale, black = scale * 255 / 219, 16 * LEVEL * 255 / 219
    values = np.asarray(cv2.addWeighted(plane, scale, plane, 0.0, -black, dtype=cv2.CV_16U), np.uint16)
    return np.minimum(values, 255 * LEVEL, out=values)


def _is_limited_grey(frame: VideoFrame) -> bool:
    return bool(frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG)


def _needs_16_bits(frame: VideoFrame) -> bool:
    """Whether swscale's 8-bit output would be off by half a level: full range of more than 8 bits."""
    return _bits(frame) > 8 and (frame.format.is_rgb or value_range(frame) == ColorRange.JPEG)


def _white(frame: VideoFrame) -> float:
    """The value of white in swscale's 16-bit output."""
    bits = _bits(frame)
    if frame.format.is_rgb or value_range(frame) == ColorRange.JPEG:
        return (2**bits - 1) * 2 ** (16 - bits)
    return 65535 * 255 / 256 + 3.5


def _bits(frame: VideoFrame) -> int:
    return min(16, max((component.bits for component in frame.format.components), default=8))
