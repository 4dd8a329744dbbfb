"""10-bit output: the input's steps beyond 8 bits are in the result."""

from pathlib import Path

import clips
import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest

from dsmap.errors import InputError
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.video import check_video, translate_video
from dsmap.runtime.video.encoders import EncoderSettings, keeps_ten_bits, resolve
from dsmap.runtime.video.frame import LEVEL, Frame, add_residual
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.rgb_to_frame import RgbToFrame

RAMP = 300 + np.arange(256)  # every one of 256 steps of 10 bits


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ten") / "in.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 256, 32, "yuv420p10le"
        video.codec_context.colorspace, video.codec_context.color_range = 1, 1
        for index in range(3):
            frame = clips.plain_frame((256, 32), (0, 0, 0), "yuv420p10le", 1, clips.MPEG)
            rows = np.zeros((32, frame.planes[0].line_size // 2), np.uint16)
            rows[:, :256] = RAMP
            frame.planes[0].update(rows.tobytes())
            frame.pts, frame.colorspace, frame.color_range = index, 1, 1
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def luma(path: Path) -> tuple[str, np.ndarray]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        kind = np.uint16 if "10" in frame.format.name else np.uint8
        rows = np.frombuffer(memoryview(frame.planes[0]), kind).reshape(frame.height, -1)
        return frame.format.name, rows[16, : frame.width].astype(int)


TEN = {"hevc10": "out.mp4", "av1-10": "out.mkv", "prores": "out.mov"}


@pytest.mark.parametrize("codec", TEN)
def test_ten_bits_go_through_a_translation(ramp: Path, tmp_path: Path, codec: str) -> None:
    options = {"codec": codec} | ({} if codec == "prores" else {"crf": 1})
    (note,) = check_video(ramp, tmp_path / TEN[codec], **options).notes
    assert note == "10-bit input: translated in 8 bits, with the input's finer steps added"
    translate_video(ramp, tmp_path / TEN[codec], lambda rgb: rgb, **options)
    pix_fmt, row = luma(tmp_path / TEN[codec])
    assert "10" in pix_fmt
    assert abs(row - RAMP).max() <= 1
    assert len(set(row)) > 250


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_other_codecs_say_that_they_have_eight(ramp: Path, tmp_path: Path, codec: str) -> None:
    assert check_video(ramp, tmp_path / "out.mp4", codec=codec).notes == ("10-bit input: the result has 8 bits",)
    translate_video(ramp, tmp_path / "out.mp4", lambda rgb: rgb, codec=codec)
    assert luma(tmp_path / "out.mp4")[0] == "yuv420p"


def test_the_input_beside_it_is_exact(ramp: Path, tmp_path: Path) -> None:
    options = {"codec": "hevc10", "crf": 1, "side_by_side": True}
    translate_video(ramp, tmp_path / "out.mp4", lambda rgb: 255 - rgb, **options)
    _, row = luma(tmp_path / "out.mp4")
    assert abs(row[:256] - RAMP).max() <= 1
    with VideoReader(ramp) as reader:
        levels = 255 - next(item.rgb for item in reader if isinstance(item, Frame))[16, :, 0].astype(int)
    apart = row[256:] - (64 + 876 * levels / 255)
    assert np.abs(apart).max() <= 3  # half a level of 8 bits from what was translated, and the codec's own error
    assert len(set(row[256:])) > 128


def test_tone_mapped_hdr_has_its_finer_steps_too(tmp_path: Path) -> None:
    path = clips.make_clip(
        tmp_path / "in.mp4",
        frames=2,
        colours=[(120, 120, 120)],
        pix_fmt="yuv420p10le",
        colourspace=9,
        primaries=9,
        trc=16,
    )
    with VideoReader(path, ten_bits=True) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
        assert any(note.startswith("HDR") for note in reader.notes)
    assert frame.residual is not None
    assert frame.residual.shape == frame.rgb.shape


def test_eight_bits_have_no_residual(tmp_path: Path) -> None:
    with VideoReader(clips.make_clip(tmp_path / "in.mp4", frames=2), ten_bits=True) as reader:
        assert {item.residual is None for item in reader if isinstance(item, Frame)} == {True}
    translate_video(tmp_path / "in.mp4", tmp_path / "out.mp4", lambda rgb: rgb, codec="hevc10")
    assert luma(tmp_path / "out.mp4")[0] == "yuv420p10le"


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "gbrp10le", "yuv420p12le"])
@pytest.mark.parametrize("full", [False, True])
def test_a_frame_is_its_levels_and_its_residual(pix_fmt: str, full: bool) -> None:
    bits = 12 if "12" in pix_fmt else 10
    codes = np.arange(1024) * 2 ** (bits - 10)
    frame = av.VideoFrame(1024, 16, pix_fmt)
    for index, plane in enumerate(frame.planes):
        rows = np.full((plane.height, plane.line_size // 2), 2 ** (bits - 1), np.uint16)
        if index == 0 or pix_fmt.startswith("gbr"):
            rows[:, :1024] = codes
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = (0 if pix_fmt.startswith("gbr") else 1), 2 if full else 1
    rgb, residual = FrameToRgb(1024, 16, Orientation()).with_residual(frame)
    assert residual is not None
    unit = 2 ** (bits - 8)
    level = codes / (2**bits - 1) * 255 if full else np.clip((codes - 16 * unit) / (219 * unit) * 255, 0, 255)
    assert np.abs(add_residual(rgb, residual)[8, :, 0] / LEVEL - level).max() < 0.02
    assert np.abs(rgb[8, :, 1] - level).max() <= 0.52


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le"])
def test_sixteen_bits_are_encoded_without_a_bias(pix_fmt: str) -> None:
    levels = np.linspace(0, 255, 512)
    rgb = np.repeat(np.tile(np.rint(levels * LEVEL).astype(np.uint16), (16, 1))[..., None], 3, axis=2)
    frame = RgbToFrame(pix_fmt)(rgb)
    row = np.frombuffer(memoryview(frame.planes[0]), np.uint16).reshape(16, -1)[8, :512]
    error = row - (64 + 876 * levels / 255)
    assert np.abs(error).max() <= 0.55
    assert abs(error.mean()) < 0.05


def test_names_of_codecs_with_ten_bits() -> None:
    assert [keeps_ten_bits(codec) for codec in ("auto", "h264", "lossless", *TEN)] == [False] * 3 + [True] * 3
    assert resolve(EncoderSettings(codec="hevc10"), ".mp4").mp4_tag == "hvc1"
    assert str(resolve(EncoderSettings(codec="av1-10"), ".webm")) == "AV1 in 10 bits, CRF 18, preset 10"


@pytest.mark.parametrize(
    ("text", "codec"),
    [("h265", "hevc"), ("H.265", "hevc"), ("x264", "h264"), ("AVC", "h264"), ("VP9", "vp9"), ("Auto", "auto")],
)
def test_other_names_of_codecs_are_understood(text: str, codec: str) -> None:
    assert EncoderSettings(codec=text).codec == VideoOptions(codec=text).codec == codec


def test_a_misspelt_codec_is_corrected() -> None:
    with pytest.raises(InputError, match="unknown codec 'prorez'; did you mean prores"):
        resolve(EncoderSettings(codec="prorez"), ".mov")
