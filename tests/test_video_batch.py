"""`dsmap-video` with several inputs, with parts of videos, and going on after an interruption."""

import json
import shutil
import signal
import time
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from stand_in import assert_refused, run, start

from dsmap.errors import InputError
from dsmap.images import write_picture
from dsmap.runtime.job_plan import plan_jobs
from dsmap.tools._video_plan import seconds_given

WINTER = ("-d", "winter")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def picture(path: Path) -> Path:
    write_picture(path, np.full((16, 24, 3), 100, np.uint8))
    return path


def test_several_inputs_with_a_bad_one(tmp_path: Path):
    for name in ("a.mp4", "b.mkv"):
        clips.make_clip(tmp_path / name, frames=4)
    picture(tmp_path / "c.jpg")
    (tmp_path / "bad.mp4").write_text("no video")
    inputs = [tmp_path / name for name in ("a.mp4", "bad.mp4", "b.mkv", "c.jpg")]
    code, out, err = run(*inputs, *WINTER, "-o", tmp_path / "results", "--report", tmp_path / "r.json")
    assert code == 1
    assert names(tmp_path / "results") == ["a-winter.mp4", "b-winter.mp4", "c-winter.png"]
    assert "3 of 4 inputs done" in out
    assert err.splitlines()[0].endswith("is not a video: Invalid data found when processing input")
    jobs = json.loads((tmp_path / "r.json").read_text())["jobs"]
    assert [(Path(job["input"]).name, job["complete"]) for job in jobs] == [
        ("a.mp4", True),
        ("bad.mp4", False),
        ("b.mkv", True),
        ("c.jpg", True),
    ]


def test_a_folder_of_videos_and_pictures(tmp_path: Path):
    (tmp_path / "trip").mkdir()
    for name in ("1.mp4", "2.MOV"):
        clips.make_clip(tmp_path / "trip" / name.lower(), frames=3).rename(tmp_path / "trip" / name)
    picture(tmp_path / "trip" / "3.png")
    (tmp_path / "trip" / "notes.txt").touch()
    code, out, err = run(tmp_path / "trip", *WINTER)
    assert (code, err) == (0, "")
    assert names(tmp_path / "trip-winter") == ["1.mp4", "2.mp4", "3.png"]
    assert "3 of 3 inputs done" in out
    code, out, _ = run(tmp_path / "trip", *WINTER, "--resume")
    assert (code, out.count("is there already")) == (0, 3)
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


@pytest.mark.parametrize(("text", "seconds"), [("83.5", "83.5"), ("1:23.5", "83.5"), ("01:00:00", "3600"), ("0", "0")])
def test_times(text: str, seconds: str):
    assert seconds_given(text, "--start") == Fraction(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "ten", "1.2.3", "nan"])
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
    process = start(*arguments, STAND_IN_SECONDS="0.12", STAND_IN_CUTS="1")
    journal, deadline = tmp_path / "out.mkv.parts" / "journal.json", time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
        if journal.exists() and len(json.loads(journal.read_text())["segments"]) >= 3:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "out.mkv" not in names(tmp_path)
    assert_refused(run(*arguments), 2, "left finished parts")
    code, _, err = run(*arguments, "--resume", "--side-by-side", STAND_IN_CUTS="1")
    assert (code, "--side-by-side was False and is True" in err) == (2, True)
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
    process = start(*arguments, STAND_IN_SECONDS="0.05")
    process.stdout.readline()
    while not (tmp_path / "out.part.mp4").exists():
        time.sleep(0.02)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--resume goes on from there" in err
    partial = len(clips.read(tmp_path / "out.mp4").times)
    assert 0 < partial < 60
    (tmp_path / "out.mp4").rename(tmp_path / "mine.mp4")
    (tmp_path / "out.mp4").write_text("precious")
    assert_refused(run(*arguments, "--resume"), 2, "is not what the interrupted job left")
    (tmp_path / "mine.mp4").replace(tmp_path / "out.mp4")
    code, _, err = run(*arguments, "--resume")
    assert (code, err.splitlines()) == (0, [f"resumed after frame {partial}"])
    whole = clips.read(tmp_path / "out.mp4")
    assert whole.times == clips.read(source).times
    assert whole.audio == clips.read(source).audio
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


def test_a_failure_after_a_finished_part_keeps_it(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=30)
    arguments = (source, *WINTER, "-o", tmp_path / "out.mp4")
    code, _, err = run(*arguments, STAND_IN_CUTS="1", STAND_IN_FAILS_AT="20")
    assert code == 1
    assert "--resume goes on from there" in err
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
