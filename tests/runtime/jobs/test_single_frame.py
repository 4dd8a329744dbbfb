"""One frame of a video as an image: `-o NAME.png` for a video."""

from pathlib import Path

import clips
import numpy as np
import pytest
from stand_in import assert_refused, run

from dsmap.common.images import kind_of, read_rgb
from dsmap.runtime.frame_translator import as_frame_translator
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.single_frame import means_one_frame, run_single_frame_job

WINTER = ("--domain", "winter")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Nine frames, 30 a second, each of a grey level of its own."""
    return clips.make_clip(tmp_path / "in.mp4", frames=9, audio=["aac"])


@pytest.mark.parametrize(
    ("options", "which"),
    [({}, (4, 5)), ({"start": 0.07}, (3,)), ({"start": 0}, (0,)), ({"end": 0.1}, (1, 2)), ({"frames": 1}, (0,))],
    ids=["middle", "start", "first", "middle of a part", "a single one"],
)
def test_the_middle_frame_or_the_one_at_start(tmp_path, clip, options, which):
    report = run_single_frame_job(
        clip, tmp_path / "one.png", as_frame_translator(lambda rgb: 255 - rgb), VideoOptions(**options)
    )
    assert (report.complete, report.frames, report.frames_expected, report.width, report.height) == (True, 1, 1, 64, 48)
    level = 255 - float(read_rgb(tmp_path / "one.png").mean())
    assert int(np.argmin([abs(clips.grey(index) - level) for index in range(9)])) in which
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "one.png"]


def test_the_command_says_which_frame(tmp_path, clip):
    code, out, err = run(clip, *WINTER, "-o", tmp_path / "one.jpg", "--side-by-side")
    assert (code, err) == (0, "")
    assert "  .jpg holds one image: the middle frame; --start chooses another" in out
    assert read_rgb(tmp_path / "one.jpg").shape == (48, 128, 3)
    assert_refused(run(clip, *WINTER, "-o", tmp_path / "one.jpg"), 2, "one.jpg exists already")


def test_names_that_hold_all_frames(tmp_path, clip):
    names = {"a.png": True, "a.jpeg": True, "a.avif": True, "a.webp": False, "a-%03d.png": False, "a.mkv": False}
    assert {name: means_one_frame(clip, tmp_path / name) for name in names} == names
    assert run(clip, *WINTER, "-o", tmp_path / "all.webp")[0] == 0
    found = kind_of(tmp_path / "all.webp")
    assert found is not None
    assert found.role == "animation"
    assert means_one_frame(tmp_path / "all.webp", tmp_path / "a.jpg")
    assert not means_one_frame(tmp_path / "all.webp", tmp_path / "a.png")  # an animated PNG


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("--frames", "3"), "--frames 3 was passed, and one.png is a single image"),
        (("--stabilize",), "--stabilize is for videos, and one.png is one image"),
        (("--crf", "20"), "--crf is for videos that are encoded, and one.png is one image"),
        (("--start", "99"), "no frame at or after --start"),
    ],
)
def test_what_does_not_go_with_one_frame(tmp_path, clip, options, fact):
    assert_refused(run(clip, *WINTER, "-o", tmp_path / "one.png", *options), 2, fact)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
