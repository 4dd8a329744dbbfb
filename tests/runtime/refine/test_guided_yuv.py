"""Frames that are refined as they are stored, Y'CbCr in 4:2:0, without becoming RGB at full size."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import clips
import cv2
import numpy as np
import pytest

from dsmap.errors import DsmapError
from dsmap.runtime.frame_translator import FrameTranslator, FunctionTranslator, TranslatorWrapper
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.open_model import open_model
from dsmap.runtime.refine.guided import guided
from dsmap.runtime.refine.guided_yuv import guided_yuv
from dsmap.runtime.refine.learnt import open_refiner
from dsmap.runtime.refine.learnt_yuv import LearntYuv
from dsmap.runtime.refine.refiners import yuv_refiner
from dsmap.runtime.refine.yuv_planes import YuvPlanes
from dsmap.runtime.stabilization.stabilizer import StabilizedTranslator, Stabilizer
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader

BT709, BT601, BT2020 = 1, 6, 9
LIMITED, FULL = 1, 2


def picture(width: int = 128, height: int = 96, *, seed: int = 0) -> np.ndarray:
    """Colours that change slowly, with fine stripes, of which some are coloured."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    slow = np.stack([90 + x * 60 / width, 120 + y * 50 / height, 140 - x * 60 / width], 2)
    stripes = 30 * np.sin(x * 1.9 + seed) * np.sin(y * 0.4)
    colour = 20 * np.sin(x * 0.3 + y * 0.2)[..., None] * np.float32([1, -0.5, -0.8])
    return np.clip(slow + stripes[..., None] + colour, 0, 255).astype(np.uint8)


def colder(rgb: np.ndarray) -> np.ndarray:
    return np.clip(rgb @ np.float32([[0.6, 0.2, 0.2], [0.2, 0.7, 0.3], [0.1, 0.1, 0.7]]) + 20, 0, 255).astype(np.uint8)


def source(
    path: Path,
    size: tuple[int, int] = (128, 96),
    *,
    count: int = 3,
    pix_fmt: str = "yuv420p",
    matrix: int = BT709,
    full: bool = False,
) -> Path:
    """A lossless clip."""
    with av.open(path, "w") as out:
        stream = out.add_stream("ffv1", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, FULL if full else LIMITED
        for seed in range(count):
            frame = av.VideoFrame.from_ndarray(picture(*size, seed=seed), "rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=FULL if full else LIMITED)
            frame.colorspace, frame.color_range = matrix, FULL if full else LIMITED
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([item.rgb for item in reader if isinstance(item, Frame)]).astype(int)


class BothWays:
    """The results of a job that refines frames as they are stored, where that is possible, and of one in RGB."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.kept = 0
        finish = FrameSteps.finish_yuv

        def counted(*arguments):
            self.kept += 1
            return finish(*arguments)

        monkeypatch.setattr(FrameSteps, "finish_yuv", counted)

    def __call__(
        self, clip: Path, translator: Callable[[], FrameTranslator] = lambda: FunctionTranslator(colder), **options
    ) -> tuple[np.ndarray, np.ndarray]:
        options = {"height": 48, "codec": "raw", "refine": "guided"} | options
        translate_video(clip, self.folder / "yuv.mkv", translator(), overwrite=True, **options)
        with self.monkeypatch.context() as patch:
            patch.setattr(FrameSteps, "takes_yuv", False)
            translate_video(clip, self.folder / "rgb.mkv", translator(), overwrite=True, **options)
        return frames(self.folder / "yuv.mkv"), frames(self.folder / "rgb.mkv")


@pytest.fixture
def both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BothWays:
    return BothWays(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("size", "lines", "options"),
    [
        ((128, 96), 48, {}),
        ((128, 96), 24, {"matrix": BT601}),
        ((128, 96), 32, {"full": True}),
        ((126, 94), 40, {}),  # strips of odd heights, a width that no other divides
        ((128, 96), 80, {"matrix": BT2020}),  # SDR; enlarged by less than the colours are smaller
    ],
)
def test_the_result_is_that_of_rgb(tmp_path: Path, both_ways: BothWays, size, lines: int, options: dict):
    stored, rgb = both_ways(source(tmp_path / "in.mkv", size, **options), height=lines)
    assert both_ways.kept == 3
    assert stored.shape == rgb.shape
    assert np.abs((stored - rgb).mean((0, 1, 2))).max() < 0.3
    assert np.abs(stored - rgb).mean() < 1.2


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "lossless"},
        {"codec": "prores"},
        {"side_by_side": True},
        {"refine": "off"},
        {"translator": lambda: StabilizedTranslator(FunctionTranslator(colder), Stabilizer())},
    ],
)
def test_what_needs_rgb_gets_it(tmp_path: Path, both_ways: BothWays, options: dict):
    stored, rgb = both_ways(source(tmp_path / "in.mkv"), **options)
    assert both_ways.kept == 0
    assert np.array_equal(stored, rgb)


@pytest.mark.parametrize(
    ("size", "pix_fmt"), [((127, 96), "yuv420p"), ((128, 96), "yuv444p"), ((128, 96), "yuv420p10le")]
)
def test_frames_that_cannot_stay_become_rgb(tmp_path: Path, both_ways: BothWays, size, pix_fmt: str):
    stored, rgb = both_ways(source(tmp_path / "in.mkv", size, pix_fmt=pix_fmt))
    assert both_ways.kept == 0
    assert np.array_equal(stored, rgb)


def test_frames_that_are_turned_become_rgb(tmp_path: Path, both_ways: BothWays):
    clip = clips.make_clip(tmp_path / "in.mp4", frames=3, size=(128, 96), rotation=90, ramp=True)
    stored, rgb = both_ways(clip, height=64)
    assert both_ways.kept == 0
    assert stored.shape == (3, 128, 96, 3)
    assert np.array_equal(stored, rgb)


@pytest.mark.parametrize("matrix", [BT709, BT601])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_plain_colours_are_what_they_were(tmp_path: Path, both_ways: BothWays, matrix: int, colour_range: int):
    colours = [(200, 40, 60), (20, 160, 40), (30, 60, 220), (0, 0, 0), (255, 255, 255)]
    clip = clips.make_clip(
        tmp_path / "in.mkv", frames=5, colours=colours, colourspace=matrix, colour_range=colour_range, codec="ffv1"
    )
    stored, rgb = both_ways(clip, lambda: FunctionTranslator(lambda rgb: rgb), height=24)
    assert both_ways.kept == 5
    assert np.abs(stored - np.array(colours)[:, None, None]).max() <= 2
    assert np.abs(stored - rgb).max() <= 1


def test_some_frames_of_a_clip_may_stay(tmp_path: Path, both_ways: BothWays):
    """A recording whose frames change their size, and get bars then."""
    for number, size in enumerate(((64, 48), (64, 36), (64, 48))):
        clips.make_clip(tmp_path / f"{number}.ts", frames=4, size=size, ramp=True)
    whole = tmp_path / "in.ts"
    whole.write_bytes(b"".join((tmp_path / f"{number}.ts").read_bytes() for number in range(3)))
    stored, rgb = both_ways(whole, height=24)
    assert both_ways.kept == 8
    assert len(stored) == len(rgb) == 12
    assert np.array_equal(stored[4:8], rgb[4:8])
    assert np.abs(stored - rgb).max() <= 6


def test_a_job_goes_on_where_it_stopped(tmp_path: Path):
    """The frames are those of a job that was not interrupted."""
    clip, left = source(tmp_path / "in.mkv", count=8), iter(range(6))

    def fails(rgb: np.ndarray) -> np.ndarray:
        if next(left, None) is None:
            raise DsmapError("the GPU fell off", "put it back")
        return colder(rgb)

    options = {"height": 48, "refine": "guided", "codec": "raw", "made_with": {}}
    translate_video(clip, tmp_path / "whole.mkv", colder, **options)
    with pytest.raises(DsmapError, match="fell off"):
        translate_video(clip, tmp_path / "out.mkv", fails, **options)
    translate_video(clip, tmp_path / "out.mkv", colder, resume=True, **options)
    whole, resumed = frames(tmp_path / "whole.mkv"), frames(tmp_path / "out.mkv")
    assert np.array_equal(whole, resumed)


@pytest.mark.parametrize(
    ("size", "options"), [((128, 96), {}), ((126, 94), {"matrix": BT601}), ((128, 96), {"full": True})]
)
def test_the_learnt_refiner_gives_what_it_gives_in_rgb(tmp_path: Path, both_ways: BothWays, size, options: dict):
    refiner = open_refiner(open_model("summer-winter"), "winter", threads=1)
    assert refiner is not None

    class Refined(FunctionTranslator):
        def learnt_refiner(self):
            return refiner

    clip = source(tmp_path / "in.mkv", size, **options)
    stored, rgb = both_ways(clip, lambda: Refined(colder), refine="learnt")
    plain, _ = both_ways(clip, refine="guided")
    assert both_ways.kept == 6
    assert np.abs((stored - rgb).mean((0, 1, 2))).max() < 0.3
    assert np.abs(stored - rgb).mean() < 1.4 < np.abs(stored - plain).mean()


def test_a_wrapped_translator_has_a_refiner_for_them():
    refiner = open_refiner(open_model("summer-winter"), "winter", threads=1)
    assert yuv_refiner(refiner) is refiner.in_yuv
    assert yuv_refiner(guided) is guided_yuv
    assert yuv_refiner(None) is None


def test_no_grid_is_drawn_on_plain_colours():
    refine = open_refiner(open_model("summer-winter"), "winter", threads=1).in_yuv
    for colour in ((255, 255, 0), (255, 0, 0), (135, 190, 235)):
        values = clips.yuv(colour, BT709, LIMITED)
        shapes = (96, 130), (48, 65), (48, 65)
        frame = YuvPlanes(*(np.full(shape, value, np.uint8) for shape, value in zip(shapes, values, strict=True)))
        result = YuvPlanes(*(np.empty_like(plane) for plane in frame[:3]))
        small_rgb = np.full((48, 65, 3), colour, np.uint8)
        refine(frame, small_rgb, np.full_like(small_rgb, (215, 90, 50)), result)
        assert max(np.ptp(plane[16:-16, 16:-16]) for plane in result[:3]) <= 1


@pytest.mark.parametrize("graph", ["style_mlp", "content_encoder"])
def test_a_graph_that_is_no_refiner_is_refused(graph: str):
    data = open_model("summer-winter").graph_data(graph, "winter").data
    refine = LearntYuv(data, lambda graph: pytest.fail("it was opened"))
    grey = [np.full(shape, 128, np.uint8) for shape in ((96, 128), (48, 64), (48, 64))]
    small_rgb = np.full((48, 64, 3), 128, np.uint8)
    with pytest.raises(DsmapError, match="refiner cannot be used") as refusal:
        refine(YuvPlanes(*grey), small_rgb, small_rgb, YuvPlanes(*map(np.empty_like, grey)))
    assert refusal.value.advice == "Pass --refine guided."


def test_overdrawn_white_has_no_tint():
    """What is more than white is limited in red, green and blue, as it is in RGB."""
    rgb = np.full((96, 128, 3), 60, np.uint8)
    rgb[:, 62:66] = 255
    small_rgb = cv2.resize(rgb, (32, 24), interpolation=cv2.INTER_AREA)
    translated_rgb = np.clip((small_rgb - np.float32(60)) * [1.8, 1.5, 1.2] + 60, 0, 255).astype(np.uint8)
    grey = np.full((48, 64), 128, np.uint8)
    frame = YuvPlanes((rgb[..., 0] * (219 / 255) + 16.5).astype(np.uint8), grey, grey)
    result = YuvPlanes(*(np.empty_like(plane) for plane in frame[:3]))
    guided_yuv(frame, small_rgb, translated_rgb, result)
    inside = guided(rgb, small_rgb, translated_rgb)[40, 64]
    for plane, value in zip(result[1:3], clips.yuv(tuple(inside), BT709, LIMITED)[1:], strict=True):
        assert abs(int(plane[20, 32]) - value) <= 2


def test_who_finishes_frames():
    plain = FunctionTranslator(colder)
    assert not plain.finishes
    assert not TranslatorWrapper(plain).finishes
    assert StabilizedTranslator(plain, Stabilizer()).finishes
    assert TranslatorWrapper(StabilizedTranslator(plain, Stabilizer())).finishes


@pytest.mark.parametrize(("height", "small"), [(96, 40), (270, 54), (300, 150)])
def test_strips_fit_together(height: int, small: int, monkeypatch: pytest.MonkeyPatch):
    luma = cv2.cvtColor(picture(64, height), cv2.COLOR_RGB2GRAY)
    frame = YuvPlanes(luma, luma[::2, ::2], luma[1::2, 1::2])
    small_rgb = cv2.resize(picture(64, height), (32, small), interpolation=cv2.INTER_AREA)

    def refined() -> np.ndarray:
        result = YuvPlanes(*(np.empty(plane.shape, np.uint8) for plane in frame[:3]))
        guided_yuv(frame, small_rgb, colder(small_rgb), result)
        return np.concatenate([plane.ravel() for plane in result[:3]]).astype(int)

    one = refined()
    monkeypatch.setattr("dsmap.runtime.refine.strips.ROWS", 100_000)
    assert np.abs(one - refined()).max() <= 1


def test_a_plain_colour_stays_one():
    for level in (0, 16, 128, 235, 255):
        frame = YuvPlanes(*(np.full(shape, level, np.uint8) for shape in ((96, 64), (48, 32), (48, 32))))
        result = YuvPlanes(*(np.empty_like(plane) for plane in frame[:3]))
        small_rgb = np.full((32, 24, 3), level, np.uint8)
        guided_yuv(frame, small_rgb, np.broadcast_to(np.uint8([200, 30, 90]), small_rgb.shape), result)
        for plane, value in zip(result[:3], clips.yuv((200, 30, 90), BT709, LIMITED), strict=True):
            assert np.abs(plane.astype(int) - value).max() <= 1
