"""Converting frames to R'G'B' where swscale cannot: YCgCo, derived matrices, RGB of limited range.

Y'CbCr of BT.601, BT.709, BT.2020, FCC and SMPTE 240M     swscale, see `frame_to_rgb`
YCgCo, matrices derived from the primaries, G'B'R' in planes called YUV, RGB of limited range     here
constant luminance, ICtCp and the like     refused: no linear matrix converts them to R'G'B'
"""

import contextlib

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, Interpolation, VideoReformatter

from dsmap.common.primaries import PRIMARIES, SRGB
from dsmap.errors import InputError

Values = npt.NDArray[np.float32]

# AVColorSpace (the file's tag) to swscale's matrix. For other tags, and none, the matrix is guessed.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
LUMA_WEIGHTS = {
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}
"""Of red and blue in the luma, by swscale's name of the matrix."""
# H.273's numbers of matrices.
GBR, YCGCO, DERIVED = 0, 8, 12
_REFUSED = {
    10: "BT.2020 with constant luminance",
    11: "SMPTE ST 2085",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def check_matrix(frame: VideoFrame) -> None:
    """Raise InputError for a frame whose colours cannot be converted."""
    if not frame.format.is_rgb and frame.colorspace in _REFUSED:
        raise InputError(
            f"the video's colour matrix ({_REFUSED[frame.colorspace]}) cannot be converted to RGB",
            "convert the video to BT.709 with another tool first",
        )


def matrix_note(frame: VideoFrame) -> str:
    """A note on an unusual colour matrix; empty for a usual one."""
    if frame.format.is_rgb or frame.colorspace != GBR or _is_gbr(frame) or _is_grey(frame):
        return ""
    guess = "BT.601" if guessed_matrix(frame) == Colorspace.ITU601 else "BT.709"
    return f"the colour matrix is marked as RGB, which {frame.format.name} cannot be: taken for {guess}"


def guessed_matrix(frame: VideoFrame) -> Colorspace:
    """The matrix that players assume for untagged video: BT.709 from 720 lines (or 1280 columns) up, BT.601 below."""
    if frame.color_primaries == ColorPrimaries.BT2020:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601


def matrix_of(frame: VideoFrame) -> Colorspace | None:
    """The matrix by swscale's name, guessed where the file does not say; None for RGB."""
    if frame.format.is_rgb:
        return None
    return _MATRICES.get(frame.colorspace) or guessed_matrix(frame)


def value_range(frame: VideoFrame) -> ColorRange | None:
    """Limited or full range; None where the file does not say."""
    if frame.format.name.startswith("yuvj"):
        return ColorRange.JPEG
    with contextlib.suppress(ValueError):
        return ColorRange(frame.color_range) if frame.color_range else None
    return None


def needs_own_matrix(frame: VideoFrame) -> bool:
    """Whether `to_full_rgb` must be used. Raises InputError for colours that cannot be converted."""
    check_matrix(frame)
    if frame.format.is_rgb:
        return value_range(frame) == ColorRange.MPEG
    return not _is_grey(frame) and (frame.colorspace in (YCGCO, DERIVED) or _is_gbr(frame))


def to_full_rgb(frame: VideoFrame, width: int, height: int, scaler: VideoReformatter) -> VideoFrame:
    """gbrp16le (height, width), full range: the R'G'B' of a frame for which `needs_own_matrix`."""
    first, second, third = _stored_planes(frame, width, height, scaler)
    unit, top = 2 ** (_bits(frame) - 8), 2 ** _bits(frame) - 1
    is_full = value_range(frame) == ColorRange.JPEG
    black, span = (0, top) if is_full else (16 * unit, 219 * unit)
    # YCgCo is computed from coded R, G and B, so its differences have their span.
    colour_span = top if is_full else (219 if frame.colorspace == YCGCO else 224) * unit
    if frame.format.is_rgb or frame.colorspace == GBR:
        green, blue, red = ((plane - black) / span for plane in (first, second, third))
        return _gbr16(red, green, blue)
    luma = (first - black) / span
    second, third = ((plane - 128 * unit) / colour_span for plane in (second, third))
    if frame.colorspace == YCGCO:
        return _gbr16(luma - second + third, luma + second, luma - second - third)
    kr, kg, kb = luma_weights(frame.color_primaries)
    red, blue = luma + 2 * (1 - kr) * third, luma + 2 * (1 - kb) * second
    return _gbr16(red, (luma - kr * red - kb * blue) / kg, blue)


def luma_weights(primaries: int) -> tuple[float, float, float]:
    """Weights of red, green and blue in the luminance for these primaries; BT.709's for unknown ones."""
    pairs = iter(PRIMARIES.get(primaries, SRGB))
    white, *corners = ((x / y, 1.0, (1 - x - y) / y) for x, y in zip(pairs, pairs, strict=True))
    red, green, blue = np.linalg.solve(np.array(corners).T, np.array(white))
    return float(red), float(green), float(blue)


def _is_gbr(frame: VideoFrame) -> bool:
    """Whether planes called Y, U and V contain G, B and R."""
    if frame.colorspace != GBR or frame.format.is_rgb:
        return False
    components = frame.format.components
    full = all((one.width, one.height) == (frame.width, frame.height) for one in components)
    return len(components) >= 3 and full


def _is_grey(frame: VideoFrame) -> bool:
    return frame.format.name.startswith(("gray", "ya", "mono"))


def _stored_planes(frame: VideoFrame, width: int, height: int, scaler: VideoReformatter) -> list[Values]:
    """The three planes at full size, in units of the format's own bits, as the file has them."""
    format = "gbrp16le" if frame.format.is_rgb else "yuv444p16le"
    wide = scaler.reformat(
        frame,
        width,
        height,
        format=format,
        src_colorspace=Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.MPEG,  # the same out: values are not changed, whatever they mean
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
    )
    unit = 2 ** (16 - _bits(frame))
    rows = [np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1) for plane in wide.planes]
    return [values[:, :width].astype(np.float32) / unit for values in rows]


def _gbr16(red: Values, green: Values, blue: Values) -> VideoFrame:
    rgb = np.stack([red, green, blue], axis=-1)
    whole = np.clip(np.rint(rgb * 65535), 0, 65535).astype(np.uint16)
    return VideoFrame.from_ndarray(whole, format="gbrp16le")


def _bits(frame: VideoFrame) -> int:
    return min(16, max((component.bits for component in frame.format.components), default=8))
