"""Frames that change their size, shape or format in the middle of a video."""

from fractions import Fraction
from pathlib import Path

import clips
import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest

from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.stabilization.stabilizer import Stabilizer
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.reader import VideoReader

GREEN, WHITE = (40, 200, 60), (235, 235, 235)
FRAMES = 6


def joined(path: Path, *parts: dict, frames: int = FRAMES) -> Path:
    """A transport stream of consecutive clips on one clock."""
    pieces = []
    for index, part in enumerate(parts):
        pts = [(index * frames + number) * 3600 for number in range(frames)]
        part = {"colours": [GREEN]} | part
        piece = path.with_name(f"part-{index}.ts")
        pieces.append(clips.make_clip(piece, pts=pts, time_base=Fraction(1, 90000), **part).read_bytes())
    path.write_bytes(b"".join(pieces))
    return path


def content(rgb: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the area that is not black."""
    rows, columns = np.nonzero(rgb.max(axis=2) > 60)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


SECOND = {
    "wider": ((64, 36), (0, 6, 64, 42)),
    "taller": ((48, 64), (14, 0, 50, 48)),
    "larger": ((128, 96), (0, 0, 64, 48)),
    "smaller": ((32, 24), (0, 0, 64, 48)),
    "larger-and-wider": ((128, 64), (0, 8, 64, 40)),
}


@pytest.mark.parametrize("name", SECOND)
def test_the_shape_is_kept_and_the_change_is_reported(tmp_path: Path, name: str) -> None:
    size, where = SECOND[name]
    path = joined(tmp_path / "in.ts", {"size": (64, 48)}, {"size": size}, {"size": (64, 48)})
    told: list[str] = []
    with VideoReader(path, notify=told.append) as reader:
        shown = [content(item.rgb) for item in reader if isinstance(item, Frame)]
        assert reader.size_changes == 2
    assert len(shown) == 3 * FRAMES
    assert set(shown[:FRAMES]) == set(shown[2 * FRAMES :]) == {(0, 0, 64, 48)}
    assert set(shown[FRAMES : 2 * FRAMES]) == {where}
    assert len(told) == 2
    assert f"the frames change to {size[0]}x{size[1]}: they are shown at 64x48" in told[0]
    assert told[0].endswith("between black bars") == (where != (0, 0, 64, 48))


def test_the_pixel_aspect_may_change_alone(tmp_path: Path) -> None:
    """As between 4:3 and 16:9 programmes of a broadcaster."""
    aspects = [{"sample_aspect": Fraction(4, 3)}, {"sample_aspect": Fraction(16, 9)}]
    told: list[str] = []
    with VideoReader(joined(tmp_path / "in.ts", *aspects), notify=told.append) as reader:
        assert reader.sample_aspect == Fraction(4, 3)
        shown = [content(item.rgb) for item in reader if isinstance(item, Frame)]
    assert shown == [(0, 0, 64, 48)] * FRAMES + [(0, 6, 64, 42)] * FRAMES
    assert "pixel aspect 16/9" in told[0]


def test_turned_frames_have_their_bars_at_the_right_sides() -> None:
    to_rgb = FrameToRgb(48, 64, Orientation(swap=True, mirror_x=True))
    for size, where in (((64, 48), (0, 0, 48, 64)), ((64, 36), (6, 0, 42, 64)), ((36, 48), (0, 14, 48, 50))):
        frame = clips.plain_frame(size, WHITE, "yuv420p", 6, clips.MPEG)
        left, top, right, bottom = content(to_rgb(frame))
        assert abs(np.subtract((left, top, right, bottom), where)).max() <= 0


@pytest.mark.parametrize("options", [{}, {"height": 24}, {"height": 24, "upscale": False}, {"side_by_side": True}])
def test_jobs_keep_the_shape_too(tmp_path: Path, options: dict) -> None:
    path = joined(tmp_path / "in.ts", {"size": (64, 48)}, {"size": (64, 36)})
    told: list[str] = []
    report = translate_video(
        path, tmp_path / "out.mp4", lambda rgb: rgb, steady=Stabilizer(), notify=told.append, crf=4, **options
    )
    assert (report.frames, report.complete, report.size_changes, len(told)) == (2 * FRAMES, True, 1, 1)
    last = clips.read(tmp_path / "out.mp4").frames[-1]
    height, width = last.shape[:2]
    rows = np.nonzero(last.max(axis=2)[:, width // 2 + 8] > 60)[0] * 48 / height
    assert abs(rows.min() - 6) <= 2
    assert abs(rows.max() - 42) <= 3


def test_a_resumed_job_has_the_same_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_SECONDS", 0.0)
    monkeypatch.setattr("dsmap.runtime.jobs.resume.CUT_FRAMES", 1)
    path = joined(tmp_path / "in.ts", {"size": (64, 48)}, {"size": (64, 36)}, frames=10)
    count = 0

    def fails_late(rgb: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        if count > 15:
            raise RuntimeError("power cut")
        return rgb

    with pytest.raises(RuntimeError):
        translate_video(path, tmp_path / "out.mp4", fails_late, made_with={}, crf=4)
    report = translate_video(path, tmp_path / "out.mp4", lambda rgb: rgb, made_with={}, crf=4, resume=True)
    assert report.resumed_frames > 0
    assert report.frames == 20
    shown = [content(frame) for frame in clips.read(tmp_path / "out.mp4").frames]
    assert [abs(top - (0 if index < 10 else 6)) <= 1 for index, (_, top, _, _) in enumerate(shown)] == [True] * 20


def test_the_pixel_format_may_change(tmp_path: Path) -> None:
    formats = [{"pix_fmt": "yuv420p"}, {"pix_fmt": "yuv420p10le"}, {"pix_fmt": "yuv444p"}]
    with VideoReader(joined(tmp_path / "in.ts", *formats)) as reader:
        frames = [item.rgb for item in reader if isinstance(item, Frame)]
        assert reader.size_changes == 0
    assert len(frames) == 3 * FRAMES
    for rgb in frames:
        assert abs(rgb[24, 32].astype(int) - GREEN).max() <= 4


def test_an_image_of_a_screen_recording_that_grows(tmp_path: Path) -> None:
    """Sizes change within one file of one stream too, where every frame stands alone."""
    path, sizes = tmp_path / "in.mkv", [(64, 48), (48, 48)] * 5
    with av.open(str(path), "w") as out:
        video = out.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        encoders = []
        for index, size in enumerate(sizes):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, "yuvj420p", Fraction(1, 25)
            frame = clips.plain_frame(size, WHITE, "yuvj420p", 6, clips.JPEG)
            frame.pts = index
            encoders.append(encoder)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream, packet.time_base = video, Fraction(1, 25)
                out.mux(packet)
    told: list[str] = []
    with VideoReader(path, notify=told.append) as reader:
        shown = [content(item.rgb) for item in reader if isinstance(item, Frame)]
        assert reader.size_changes == 9
    assert shown == [(0, 0, 64, 48), (8, 0, 56, 48)] * 5
    assert len(told) == 6
    assert told[-1] == "further size changes are counted, not reported"
