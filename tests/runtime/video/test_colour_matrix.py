"""Colour matrices and ranges that swscale cannot convert, against the formulas of ITU-T H.273."""

from pathlib import Path

import clips
import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest

from dsmap.errors import InputError
from dsmap.runtime.video.colour_matrix import luma_weights
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.reader import VideoReader

COLOURS = [(40, 200, 60), (200, 30, 90), (255, 255, 255), (0, 0, 0), (20, 40, 240)]
WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
WEIGHTS |= {9: (0.2627, 0.0593)}


def flat(values: list[float], pix_fmt: str, *, matrix: int, full: bool, primaries: int = 2) -> av.VideoFrame:
    frame = av.VideoFrame(64, 32, pix_fmt)
    kind = np.uint16 if max(component.bits for component in frame.format.components) > 8 else np.uint8
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, round(value), kind).tobytes())
    frame.colorspace, frame.color_range, frame.color_primaries = matrix, 2 if full else 1, primaries
    return frame


def centre(frame: av.VideoFrame) -> np.ndarray:
    return FrameToRgb(64, 32, Orientation())(frame)[16, 32].astype(int)


def coded(rgb: tuple[int, int, int], bits: int, full: bool) -> list[float]:
    """R, G, B as the file's own numbers."""
    return [value / 255 * (2**bits - 1) if full else (16 + 219 * value / 255) * 2 ** (bits - 8) for value in rgb]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10)])
def test_ycgco(pix_fmt: str, bits: int, full: bool) -> None:
    for rgb in COLOURS:
        red, green, blue = coded(rgb, bits, full)
        half = 2 ** (bits - 1)
        values = [(red + 2 * green + blue) / 4, (2 * green - red - blue) / 4 + half, (red - blue) / 2 + half]
        values = [min(value, 2**bits - 1) for value in values]
        assert abs(centre(flat(values, pix_fmt, matrix=8, full=full)) - rgb).max() <= 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_the_usual_matrices(matrix: int, full: bool) -> None:
    kr, kb = WEIGHTS[matrix]
    for rgb in COLOURS:
        red, green, blue = (value / 255 for value in rgb)
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        chroma = [(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))]
        if full:
            values = [luma * 255, *(min(value * 255 + 128, 255) for value in chroma)]
        else:
            values = [16 + 219 * luma, *(128 + 224 * value for value in chroma)]
        assert abs(centre(flat(values, "yuv420p", matrix=matrix, full=full)) - rgb).max() <= 2


def test_a_matrix_that_follows_from_the_primaries() -> None:
    assert luma_weights(1) == pytest.approx((0.2126, 0.7152, 0.0722), abs=1e-4)
    assert luma_weights(9) == pytest.approx((0.2627, 0.6780, 0.0593), abs=1e-4)
    kr, _, kb = luma_weights(1)
    red, green, blue = (value / 255 for value in COLOURS[0])
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    values = [16 + 219 * luma, 128 + 112 * (blue - luma) / (1 - kb), 128 + 112 * (red - luma) / (1 - kr)]
    assert abs(centre(flat(values, "yuv420p", matrix=12, full=False, primaries=1)) - COLOURS[0]).max() <= 1


@pytest.mark.parametrize(("pix_fmt", "bits"), [("gbrp", 8), ("yuv444p", 8), ("gbrp10le", 10), ("yuv444p12le", 12)])
@pytest.mark.parametrize("full", [False, True])
def test_rgb_in_planes(pix_fmt: str, bits: int, full: bool) -> None:
    """Of both ranges, and in planes that are called Y, U and V."""
    for rgb in COLOURS:
        red, green, blue = coded(rgb, bits, full)
        assert abs(centre(flat([green, blue, red], pix_fmt, matrix=0, full=full)) - rgb).max() <= 1


def test_packed_rgb_of_limited_range() -> None:
    frame = av.VideoFrame(64, 32, "rgb24")
    frame.planes[0].update(bytes([16, 126, 235]) * (frame.planes[0].buffer_size // 3))
    frame.color_range = 1
    assert abs(centre(frame) - (0, 128, 255)).max() <= 1


def test_hdr_in_limited_rgb_is_tone_mapped_as_any() -> None:
    """204 cd/m2 in PQ, once in full and once in limited range."""
    seen = []
    for full in (False, True):
        level = coded((148, 148, 148), 10, full)
        frame = flat(level, "gbrp10le", matrix=0, full=full, primaries=9)
        frame.color_trc = 16
        seen.append(centre(frame))
    assert abs(seen[0] - seen[1]).max() <= 1
    assert 240 < seen[0].min() < 250


@pytest.mark.parametrize("matrix", [10, 11, 13, 14, 15, 16, 17])
def test_what_cannot_be_converted_is_refused_before_the_work(tmp_path: Path, matrix: int) -> None:
    with pytest.raises(InputError, match="colour matrix"):
        centre(flat([100, 128, 128], "yuv420p", matrix=matrix, full=False))
    if matrix in (10, 14):  # of those that encoders can write
        path = clips.make_clip(tmp_path / "in.mp4", frames=2, colourspace=matrix)
        with pytest.raises(InputError, match="colour matrix"):
            VideoReader(path)


def test_a_matrix_that_cannot_be_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.colorspace = 0
        for packet in [
            *video.encode(clips.plain_frame((64, 48), COLOURS[0], "yuv420p", 6, clips.MPEG)),
            *video.encode(),
        ]:
            out.mux(packet)
    with VideoReader(path) as reader:
        (note,) = reader.notes
        assert note == "the colour matrix is marked as RGB, which yuv420p cannot be: taken for BT.601"
