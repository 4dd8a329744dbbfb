"""`dsmap-video` with several inputs, with parts of videos, and going on after an interruption."""

import json
import os
import shutil
import signal
import time
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from stand_in import assert_refused, held, run

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.frame_translator import FIRST_FRAME, FrameTranslator
from dsmap.runtime.jobs.plan import plan_jobs
from dsmap.runtime.jobs.resume import kept_parts
from dsmap.runtime.jobs.video import translate_video
from dsmap.tools.video.command import seconds_given

WINTER = ("-d", "winter")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def image(path: Path) -> Path:
    write_rgb(path, np.full((16, 24, 3), 100, np.uint8))
    return path


def test_several_inputs_with_a_bad_one(tmp_path: Path):
    for name in ("a.mp4", "b.mkv"):
        clips.make_clip(tmp_path / name, frames=4)
    image(tmp_path / "c.jpg")
    (tmp_path / "bad.mp4").write_text("no video")
    inputs = [tmp_path / name for name in ("a.mp4", "bad.mp4", "b.mkv", "c.jpg")]
    code, out, err = run(*inputs, *WINTER, "-o", tmp_path / "results", "--report", tmp_path / "r.json")
    assert code == 1
    assert names(tmp_path / "results") == ["a-winter.mp4", "b-winter.mp4", "c-winter.jpg"]
    assert "3 of 4 inputs done" in out
    assert err.splitlines()[0].endswith("is not a video: Invalid data found when processing input")
    jobs = json.loads((tmp_path / "r.json").read_text())["jobs"]
    assert [(Path(job["input"]).name, job["complete"]) for job in jobs] == [
        ("a.mp4", True),
        ("bad.mp4", False),
        ("b.mkv", True),
        ("c.jpg", True),
    ]


def test_a_folder_of_videos_and_images(tmp_path: Path):
    (tmp_path / "trip").mkdir()
    for name in ("1.mp4", "2.MOV"):
        clips.make_clip(tmp_path / "trip" / name.lower(), frames=3).rename(tmp_path / "trip" / name)
    image(tmp_path / "trip" / "3.png")
    (tmp_path / "trip" / "notes.txt").touch()
    code, out, err = run(tmp_path / "trip", *WINTER)
    assert (code, err) == (0, "")
    assert names(tmp_path / "trip-winter") == ["1.mp4", "2.mp4", "3.png"]
    assert "3 of 3 inputs done" in out
    code, out, _ = run(tmp_path / "trip", *WINTER, "--resume")
    assert (code, out.count("exists and is kept")) == (0, 3)
    kept = f"{tmp_path / 'trip-winter' / '1.mp4'} exists and is kept; its options were not compared."
    assert f"{kept} Pass --overwrite to make it again." in out
    code, _, err = run(tmp_path / "trip", *WINTER)
    assert code == 2
    assert "--overwrite" in err


def test_names_of_results(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "d/a.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def outputs(*sources: str, output: Path | None = None, suffix: str = ".mp4") -> list[str]:
        return [str(job.output) for job in plan_jobs(sources, output, "winter", suffix=suffix)]

    assert outputs("a.mp4", suffix=".mov") == [str(tmp_path / "a-winter.mov")]
    assert outputs("a.mp4", "b.mp4", output=Path("new")) == ["new/a-winter.mp4", "new/b-winter.mp4"]
    assert outputs("rtsp://host/yard?x=1") == [str(tmp_path / "yard-winter.mp4")]
    assert outputs("frames/%04d.png") == [str(tmp_path / "frames-winter" / "%04d.png")]
    assert outputs("frames/*.png", output=Path("x.mp4")) == ["x.mp4"]
    with pytest.raises(InputError, match="would both become"):
        outputs("a.mp4", "d/a.mov", output=Path("new"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("83.5", "83.5"), ("1:23.5", "83.5"), ("01:00:00", "3600"), ("0", "0"), ("90:05", "5405")]
)
def test_times(text: str, seconds: str):
    assert seconds_given(text, "--start") == Fraction(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "ten", "1.2.3", "nan", "1:99", "1:60:00", "0:00:60"])
def test_wrong_times(text: str):
    with pytest.raises(InputError, match="--start"):
        seconds_given(text, "--start")


def test_a_part_of_a_video(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=40, audio=["aac"], audio_seconds=1.4)
    code, _, err = run(source, *WINTER, "-o", tmp_path / "out.mkv", "--start", "0.5", "--end", "0:01")
    assert (code, err) == (0, "")
    whole, part = clips.read(source), clips.read(tmp_path / "out.mkv")
    wanted = [i for i, when in enumerate(whole.times) if 0.5 <= when < 1]
    assert len(part.times) == len(wanted)
    assert float(part.times[0]) == pytest.approx(0, abs=0.002)
    got = [255 - int(frame[20, 20, 0]) for frame in part.frames]
    assert np.abs(np.subtract(got, [clips.grey(i) for i in wanted])).max() <= 4
    assert_refused(run(source, *WINTER, "-o", tmp_path / "x.mp4", "--start", "9"), 2, "9")


def test_a_kill_loses_little_and_resume_joins_without_a_trace(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=60, audio=["aac"], audio_seconds=2.0)
    arguments = (source, *WINTER, "--codec", "lossless", "-o", tmp_path / "out.mkv")
    journal, deadline = tmp_path / "out.mkv.parts" / "journal.json", time.monotonic() + 90
    with held(tmp_path / "hold", 40, *arguments, STAND_IN_CUTS="1") as process:
        while not (journal.exists() and len(json.loads(journal.read_text())["segments"]) >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert "out.mkv" not in names(tmp_path)
    assert_refused(run(*arguments), 2, "left finished parts")
    code, _, err = run(*arguments, "--resume", "--side-by-side", STAND_IN_CUTS="1")
    assert (code, "--side-by-side was False and is True" in err) == (2, True)
    code, _, err = run(*arguments, "--resume", "--style", "3", STAND_IN_CUTS="1")
    assert (code, "was started with other options: style was mean and is 3\n" in err) == (2, True)
    assert err.endswith(
        "pass --overwrite instead of --resume to start over.\n"
    )  # without parts, a cut-off result is kept
    code, _, err = run(*arguments, "--resume", "--report", tmp_path / "r.json", STAND_IN_CUTS="1")
    assert code == 0
    assert err.startswith("resumed after frame ")
    report = json.loads((tmp_path / "r.json").read_text())
    assert 15 <= report["resumed_frames"] < report["frames"] == 60
    assert names(tmp_path) == ["in.mp4", "out.mkv", "r.json"]
    shutil.move(tmp_path / "out.mkv", tmp_path / "resumed.mkv")
    assert run(*arguments)[0] == 0
    resumed, once = clips.read(tmp_path / "resumed.mkv"), clips.read(tmp_path / "out.mkv")
    assert resumed.times == once.times
    assert resumed.audio == once.audio
    assert all(np.array_equal(a, b) for a, b in zip(resumed.frames, once.frames, strict=True))


def test_ctrl_c_and_resume(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=60, audio=["aac"], audio_seconds=2.0)
    arguments = (source, *WINTER, "-o", tmp_path / "out.mp4")
    with held(tmp_path / "hold", 12, *arguments, STAND_IN_SECONDS="0.05") as process:
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "--resume to continue" in err
    partial = len(clips.read(tmp_path / "out.mp4").times)
    assert 0 < partial < 60
    (tmp_path / "out.mp4").rename(tmp_path / "mine.mp4")
    (tmp_path / "out.mp4").write_text("precious")
    assert_refused(run(*arguments, "--resume"), 2, "is not what the interrupted job left")
    (tmp_path / "mine.mp4").replace(tmp_path / "out.mp4")
    code, _, err = run(*arguments, "--resume")
    assert (code, err.splitlines()[0]) == (0, f"resumed after frame {partial}")
    whole = clips.read(tmp_path / "out.mp4")
    assert whole.times == clips.read(source).times
    assert whole.audio == clips.read(source).audio
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


def test_a_failure_after_a_finished_part_keeps_it(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=30)
    arguments = (source, *WINTER, "-o", tmp_path / "out.mp4")
    code, _, err = run(*arguments, STAND_IN_CUTS="1", STAND_IN_FAILS_AT="20")
    assert code == 1
    assert "--resume to continue" in err
    code, _, err = run(*arguments, "--resume", STAND_IN_CUTS="1")
    assert (code, err[:20]) == (0, "resumed after frame ")
    assert len(clips.read(tmp_path / "out.mp4").times) == 30
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


def test_a_folder_among_several_inputs(tmp_path: Path):
    (tmp_path / "trip").mkdir()
    clips.make_clip(tmp_path / "trip" / "a.mp4", frames=2)
    clips.make_clip(tmp_path / "trip" / "a.mkv", frames=2)
    clips.make_clip(tmp_path / "b.mp4", frames=2)
    code, _, err = run(tmp_path / "trip", tmp_path / "b.mp4", *WINTER, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert names(tmp_path / "out") == ["b-winter.mp4", "trip-winter"]
    assert names(tmp_path / "out" / "trip-winter") == ["a.mkv.mp4", "a.mp4.mp4"]


def test_a_folder_of_parts_that_is_not_ours_is_left_alone(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=3)
    thesis = tmp_path / "out.mp4.parts" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("precious")
    assert_refused(run(source, *WINTER, "-o", tmp_path / "out.mp4", "--overwrite"), 2, "thesis.txt")
    with pytest.raises(InputError, match="thesis"):
        translate_video(source, tmp_path / "out.mp4", lambda frame: frame)
    assert thesis.read_text() == "precious"


def test_parts_of_a_job_at_work_are_not_taken_away(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=3)
    with kept_parts(tmp_path / "out.mp4", {}, resume=False), pytest.raises(InputError, match=r"out\.mp4\.parts"):
        translate_video(source, tmp_path / "out.mp4", lambda frame: frame)
    assert names(tmp_path) == ["in.mp4", "out.mp4.parts"]


def test_an_output_made_meanwhile_is_not_replaced_by_resume(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=3)

    def take_the_name(frame: np.ndarray) -> np.ndarray:
        (tmp_path / "out.mp4").write_text("precious")
        return frame

    for _ in range(2):
        with pytest.raises(DsmapError, match=r"created meanwhile|exists already|is not what the interrupted job"):
            translate_video(source, tmp_path / "out.mp4", take_the_name, made_with={}, resume=True)
    assert (tmp_path / "out.mp4").read_text() == "precious"


def test_ctrl_c_does_not_replace_an_earlier_result_by_a_piece(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=40)
    output = tmp_path / "out.mp4"
    output.write_text("earlier")

    def stop_at_ten(frame: np.ndarray) -> np.ndarray:
        seen.append(1)
        if len(seen) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        if len(seen) >= 10:
            time.sleep(0.1)
        return frame

    seen: list[int] = []
    report = translate_video(source, output, stop_at_ten, made_with={}, overwrite=True)
    assert (report.interrupted, report.kept_previous, report.resumable) == (True, True, True)
    assert output.read_text() == "earlier"
    report = translate_video(str(source), output, lambda frame: frame, made_with={}, overwrite=True, resume=True)
    assert (report.frames, report.resumed_frames >= 10, report.complete) == (40, True, True)
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


def test_ctrl_c_after_the_last_frame_is_no_interruption(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=6)

    def progress(done: int, expected: int | None) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGINT)

    report = translate_video(source, tmp_path / "out.mp4", lambda frame: frame, made_with={}, progress=progress)
    assert (report.frames, report.interrupted, report.complete) == (6, False, True)
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


def test_ctrl_c_ends_all_jobs_and_the_report_is_written(tmp_path: Path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        clips.make_clip(tmp_path / name, frames=30)
    inputs = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    arguments = (*inputs, *WINTER, "-o", tmp_path / "out", "--report", tmp_path / "r.json")
    with held(tmp_path / "hold", 12, *arguments, STAND_IN_SECONDS="0.05") as process:
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=180) == 130
    jobs = json.loads((tmp_path / "r.json").read_text())["jobs"]
    assert [(Path(job["input"]).name, job["interrupted"]) for job in jobs] == [("a.mp4", True)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("c.png", "--start", "5"), "--start is for videos"),
        (("c.png", "--codec", "hevc"), "--codec is for videos"),
        (("c.png", "--stabilize"), "--stabilize is for videos"),
        (("c.png", "--style-from", "1", "--style-to", "2"), "--style-from"),
        (("a.mp4", "--rate", "5"), "--rate is for image sequences"),
        (("a.mp4", "--crf", "5", "-o", "x/%d.png"), "--crf is for videos that are encoded"),
        (("a.mp4", "--no-upscale"), "--no-upscale needs --height"),
        (("a.mp4", "c.png", "-o", "x.mp4"), "names a file"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, monkeypatch, arguments, said: str):
    monkeypatch.chdir(tmp_path)
    clips.make_clip(tmp_path / "a.mp4", frames=2)
    image(tmp_path / "c.png")
    assert_refused(run(*arguments, *WINTER), 2, said)
    assert names(tmp_path) == ["a.mp4", "c.png"]


def test_result_folders_go_when_nothing_came_of_it(tmp_path: Path):
    clips.make_clip(tmp_path / "a.mp4", frames=2)
    image(tmp_path / "c.png")
    jobs = (tmp_path / "a.mp4", tmp_path / "c.png", *WINTER, "-o", tmp_path / "out")
    assert_refused(run(*jobs, STAND_IN_DOES_NOT_LOAD="1"), 2, "the model does not load")
    assert names(tmp_path) == ["a.mp4", "c.png"]


def test_a_part_without_frames_is_refused(tmp_path: Path):
    pts = [30000 * 5 + 1000 * index for index in range(20)]
    source = clips.make_clip(tmp_path / "late.mp4", frames=20, pts=pts, audio=["aac"], audio_seconds=6.0)
    with pytest.raises(InputError, match="no frame"):
        translate_video(source, tmp_path / "out.mp4", lambda frame: frame, end=3)
    assert names(tmp_path) == ["late.mp4"]


def test_a_style_path_comes_to_its_end_with_a_variable_rate(tmp_path: Path):
    pts = np.cumsum([0, *(400 if index % 3 else 4000 for index in range(29))]).tolist()
    source = clips.make_clip(tmp_path / "in.mkv", frames=30, pts=pts)
    shares: list[float] = []

    class Submitter(FrameTranslator):
        def submit(self, frame, style=None, at=FIRST_FRAME):
            return lambda: frame

    def style_at(seconds: float, share: float | None) -> None:
        shares.append(-1 if share is None else share)

    translate_video(source, tmp_path / "out.mp4", Submitter(), style_at=style_at)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1, abs=0.1)
    assert shares == sorted(shares)
