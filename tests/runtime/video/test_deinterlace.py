"""`--deinterlace`: frames of two fields become full frames, at the same times."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import clips
import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest

from dsmap.errors import InputError
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.video.deinterlace import Deinterlacer
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader

TIMES = [0, 2, 4, 6, 9, 10, 12, 14, 17, 18]  # of 1/50 s: not even


def woven(count: int, *, bottom_first: bool = False, pix_fmt: str = "yuv420p") -> Iterator[av.VideoFrame]:
    """A bar that moves by 4 pixels from field to field: still combed in every frame."""
    for index in range(count):
        grey = np.full((48, 64), 40, np.uint8)
        for field in (0, 1):
            at = 4 * (2 * index + field) % 64
            grey[(field ^ bottom_first) :: 2, at : at + 8] = 220
        frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format=pix_fmt)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        yield frame


def combing(grey: np.ndarray) -> float:
    """How much rows differ from both neighbours."""
    rows = grey.astype(int)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fields") / "in.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "qscale": "1", "g": "4"})
        video.width, video.height, video.codec_context.time_base = 64, 48, Fraction(1, 50)
        video.codec_context.qmin, video.codec_context.qmax = 1, 2
        tone = out.add_stream("libopus", rate=48000)
        tone.layout = "mono"
        clips._write_tone(out, tone, 440, 0.4, 0.0)
        for frame, time in zip(woven(len(TIMES)), TIMES, strict=True):
            frame.pts, frame.time_base = time, Fraction(1, 50)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def frames_of(reader: VideoReader) -> list[Frame]:
    return [item for item in reader if isinstance(item, Frame)]


def test_the_note_names_the_option_and_the_option_works(interlaced: Path) -> None:
    with VideoReader(interlaced) as reader:
        (note,) = reader.notes
        assert note.startswith("interlaced")
        assert "--deinterlace" in note
        plain = frames_of(reader)
    with VideoReader(interlaced, deinterlace=True) as reader:
        (note,) = reader.notes
        assert note.endswith(": deinterlaced")
        whole = frames_of(reader)
        assert reader.failed_packets == reader.missing_frames == 0
    assert [(frame.pts, frame.duration) for frame in whole] == [(frame.pts, frame.duration) for frame in plain]
    assert min(combing(frame.rgb[..., 0]) for frame in plain) > 10
    assert max(combing(frame.rgb[..., 0]) for frame in whole) < 3


def test_a_part_is_that_of_the_whole(interlaced: Path) -> None:
    with VideoReader(interlaced, deinterlace=True) as reader:
        whole = frames_of(reader)
    with VideoReader(interlaced, deinterlace=True, start=0.11, frames=3) as reader:
        part = frames_of(reader)
    assert len(part) == 3
    for one, other in zip(part, whole[3:6], strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)


def test_a_job_keeps_every_frame_and_the_sound(interlaced: Path, tmp_path: Path) -> None:
    report = translate_video(interlaced, tmp_path / "out.mkv", lambda rgb: rgb, deinterlace=True, crf=2)
    assert (report.frames, report.complete, report.audio_streams) == (len(TIMES), True, 1)
    before, after = clips.read(interlaced), clips.read(tmp_path / "out.mkv")
    assert after.times == before.times
    assert [data for _, data in after.audio[0]] == [data for _, data in before.audio[0]]
    assert max(combing(frame[..., 0]) for frame in after.frames) < 4


def test_a_resumed_job_goes_on_with_the_same_frames(
    interlaced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_SECONDS", 0.0)
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_FRAMES", 1)
    seen: list[np.ndarray] = []

    def fails_late(rgb: np.ndarray) -> np.ndarray:
        seen.append(rgb)
        if len(seen) > 8:
            raise RuntimeError("power cut")
        return rgb

    def watched(rgb: np.ndarray) -> np.ndarray:
        seen.append(rgb)
        return rgb

    options = {"made_with": {}, "codec": "lossless", "deinterlace": True}
    with pytest.raises(RuntimeError):
        translate_video(interlaced, tmp_path / "out.mkv", fails_late, **options)
    with pytest.raises(Exception, match="deinterlace"):  # the parts of one do not fit to the other
        translate_video(interlaced, tmp_path / "out.mkv", watched, **options | {"deinterlace": False, "resume": True})
    seen.clear()
    report = translate_video(interlaced, tmp_path / "out.mkv", watched, **options, resume=True)
    assert report.resumed_frames > 0
    assert report.frames == len(TIMES)
    assert len(seen) == len(TIMES) - report.resumed_frames
    with VideoReader(interlaced, deinterlace=True) as reader:
        whole = frames_of(reader)
    for made, frame in zip(clips.read(tmp_path / "out.mkv").frames, whole, strict=True):
        np.testing.assert_array_equal(made, frame.rgb)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("order", [0, 2, 3])
def test_one_frame_comes_out_for_each(count: int, order: int) -> None:
    made = list(Deinterlacer(order).items(woven(count, bottom_first=order == 3)))
    assert [frame.pts for frame in made] == list(range(count))
    assert all(frame.time_base == Fraction(1, 25) for frame in made)
    assert max(combing(frame.to_ndarray(format="gray")) for frame in made) < 1


def test_the_field_that_is_shown_first_decides() -> None:
    """send_frame keeps the first field's lines: with the wrong order, motion jumps back and forth."""
    for order, line in ((2, 0), (3, 1)):
        (first, second, *_) = Deinterlacer(order).items(woven(4, bottom_first=order == 3))
        kept = second.to_ndarray(format="gray")[line + 20]
        assert np.abs(kept.astype(int) - np.roll(first.to_ndarray(format="gray")[line + 20], 8)).max() <= 2


def test_sizes_and_formats_may_change() -> None:
    frames = [*woven(3), *(frame.reformat(32, 24) for frame in woven(2)), *woven(2, pix_fmt="yuv422p10le")]
    for index, frame in enumerate(frames):
        frame.pts = index
    made = list(Deinterlacer().items(iter(frames)))
    assert [(one.width, one.pts) for one in made] == [(64, 0), (64, 1), (64, 2), (32, 3), (32, 4), (64, 5), (64, 6)]
    assert made[-1].format.name == "yuv422p10le"


def test_frames_too_small_are_refused_before_the_work(tmp_path: Path) -> None:
    path = clips.make_clip(tmp_path / "in.mp4", frames=3, size=(4, 4))
    with pytest.raises(InputError, match="4x4"):
        VideoReader(path, deinterlace=True)


def test_progressive_video_says_that_it_is_not_marked(tmp_path: Path) -> None:
    with VideoReader(clips.make_clip(tmp_path / "in.mp4", frames=3), deinterlace=True) as reader:
        assert reader.notes == ("deinterlaced, although it is not marked as interlaced",)
        assert len(frames_of(reader)) == 3


@pytest.mark.parametrize(("planar", "device"), [("yuv420p", "nv12"), ("yuv420p10le", "p010le")])
@pytest.mark.parametrize("matrix", [1, 9])
def test_frames_of_a_device_give_what_softwares_do(planar: str, device: str, matrix: int) -> None:
    """The first frame comes from software, as readers give it."""
    rng, ours, theirs = np.random.default_rng(0), [], []
    for number in range(4):
        noise = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), format="rgb24")
        frame = noise.reformat(format=planar)
        other = frame.reformat(format=device) if number else noise.reformat(format=planar)
        for one, into in ((frame, ours), (other, theirs)):
            one.colorspace, one.color_range, one.pts, one.time_base = matrix, 1, number, Fraction(1, 25)
            into.append(one)
    expected, got = (list(Deinterlacer().items(frames)) for frames in (ours, theirs))
    for one, two in zip(expected, got, strict=True):
        assert (one.format.name, one.colorspace, one.color_range) == (two.format.name, two.colorspace, two.color_range)
        assert (two.colorspace, two.color_range, two.pts) == (matrix, 1, one.pts)
        assert all(bytes(plane) == bytes(other) for plane, other in zip(one.planes, two.planes, strict=True))
