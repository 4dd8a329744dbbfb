"""Speed and time left of `dsmap-video`."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsmap.common.text import duration
from dsmap.runtime.jobs.batch_report import JobOutcome, JobProgress, JobStarted
from dsmap.runtime.jobs.options import ModelOptions, VideoOptions
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import JobReport
from dsmap.tools.video import cluster_display
from dsmap.tools.video import display as display_module
from dsmap.tools.video.cluster_display import ClusterDisplay
from dsmap.tools.video.display import Display
from dsmap.tools.video.pace import Pace, rate


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(pace: Pace, clock: Clock, *, first_after: float, fps: float, seconds: float, expected: int | None) -> int:
    """Frames until `seconds` after the start; how many."""
    clock.now += first_after
    done = 0
    while clock.now < 100 + seconds:
        done += 1
        pace.advance(done, expected)
        clock.now += 1 / fps
    return done


def test_a_slow_first_frame_is_not_the_speed(clock):
    pace = Pace(540, clock)
    assert (pace.fps, pace.left, pace.status()) == (None, None, "- fps")
    run(pace, clock, first_after=8, fps=5, seconds=12, expected=2400)
    assert pace.fps == pytest.approx(5)
    assert pace.left == pytest.approx(476, abs=1)
    assert pace.status() == "5.0 fps, 8 min left"


def test_frames_that_were_under_way_together_are_no_speed(clock):
    pace = Pace(540, clock)
    clock.now += 4
    for done, seconds in ((1, 0.02), (2, 1.9), (3, 0)):
        pace.advance(done, 240)
        assert (pace.status(), pace.advice()) == ("- fps", None) if done < 3 else (pace.status(), None)
        clock.now += seconds
    assert pace.status() == "1.0 fps, 4 min left"
    assert pace.advice() == "about 4 min left at 540 lines; --height 270: 60 s at best"


def test_a_job_that_slows_down_is_told_later(clock):
    pace = Pace(540, clock)
    run(pace, clock, first_after=0.5, fps=20, seconds=5, expected=900)
    assert pace.advice() is None
    clock.now += 60
    pace.advance(120, 900)
    assert pace.advice() is not None


def test_a_long_job_says_once_what_would_be_faster(clock):
    pace = Pace(540, clock)
    run(pace, clock, first_after=0.5, fps=4, seconds=1.4, expected=720)
    assert pace.advice() is None  # too early to know
    clock.now = 101.5
    pace.advance(5, 720)
    assert pace.advice() == "about 3 min left at 540 lines; --height 270: 40 s at best"
    assert pace.advice() is None


@pytest.mark.parametrize(("lines", "expected"), [(540, 100), (540, None)])
def test_a_short_or_endless_job_says_nothing(clock, lines, expected):
    pace = Pace(lines, clock)
    run(pace, clock, first_after=0.5, fps=10, seconds=5, expected=expected)
    assert pace.advice() is None


def test_small_frames_are_not_made_smaller(clock):
    pace = Pace(300, clock)
    run(pace, clock, first_after=0.5, fps=1, seconds=5, expected=200)
    assert pace.advice() == "about 3 min left at 300 lines"


def test_upright_frames_are_advised_a_height_of_270_across(clock):
    pace = Pace(960, clock, columns=540)
    run(pace, clock, first_after=0.5, fps=4, seconds=5, expected=720)
    assert pace.advice() == "about 3 min left at 960 lines; --height 480: 40 s at best"


@pytest.mark.parametrize(("refine", "advice"), [("auto", "; --height 270: 40 s at best"), ("off", "")])
def test_who_has_turned_refining_off_is_not_advised_a_height(clock, monkeypatch, capsys, refine, advice):
    monkeypatch.setattr(display_module, "Pace", partial(Pace, clock=clock))
    job = Job(kind="video", source=Path("a"), output=Path("b"))
    request = SimpleNamespace(
        jobs=(job,), model=ModelOptions(domain="winter"), options=VideoOptions(refine=refine), files_left_out={}
    )
    with Display(request) as display:
        display.show(JobStarted(job, 721, 540, 960))
        for done in (1, 5):
            display.show(JobProgress(job, done, 721))
            clock.now += 1
        display.show(JobProgress(job, 9, 721))
    assert f"about 3 min left at 540 lines{advice}\n" in capsys.readouterr().err


def test_on_a_cluster_the_last_result_is_the_last_line(clock, monkeypatch, capsys):
    monkeypatch.setattr(cluster_display, "Pace", partial(Pace, clock=clock))
    jobs = [Job(kind="video", source=Path(f"{name}.mp4"), output=Path(f"{name}-out.mp4")) for name in "ab"]
    request = SimpleNamespace(jobs=jobs, files_left_out={})
    with ClusterDisplay(request) as display:
        for job in jobs:
            display.show(JobStarted(job, 9))
        for job in jobs:
            clock.now += 20
            report = JobReport(
                input=job.source, output=job.output, width=64, height=48, frames=9, frames_expected=9, seconds=3
            )
            display.show(JobOutcome(job, report))
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["a-out.mp4", "b-out.mp4"]
    assert err.splitlines() == ["1 of 2 inputs, 9 frames"]


def test_slow_speeds_are_told_in_digits_that_say_something(clock):
    assert [rate(fps) for fps in (310.52, 1.04, 0.96, 0.31, 0.031, 0)] == [
        "310.5",
        "1.0",
        "1.0",
        "0.31",
        "0.031",
        "0.0",
    ]
    pace = Pace(None, clock)
    clock.now += 20
    pace.advance(1, 2)
    assert pace.report() == "1 of 2 frames"  # no speed yet


def test_logs_get_a_line_now_and_then(clock):
    pace, lines = Pace(None, clock), []
    clock.now += 1
    for done in range(1, 181):  # a frame a second
        pace.advance(done, 600)
        lines += [line for line in [pace.report()] if line]
        clock.now += 1
    assert lines[0] == "10 of 600 frames, 1.0 fps, 10 min left"
    assert [int(line.split()[0]) for line in lines] == [10, 20, 30, 40, 50, 110, 170]


def test_durations_in_words():
    expected = {0.2: "1 s", 12.4: "12 s", 43: "40 s", 95: "2 min", 480: "8 min", 7200: "2 h", 7500: "2 h 5 min"}
    assert {seconds: duration(seconds) for seconds in expected} == expected


@pytest.mark.parametrize(
    ("kind", "frames", "stabilize", "told"),
    [
        ("video", 100, False, True),
        ("video", 100, True, False),
        ("video", 20, False, False),
        ("folder", 100, False, False),
    ],
)
def test_a_video_without_stabilize_is_told_of_it(kind, frames, stabilize, told, capsys):
    """Also where the output is not a terminal, as here."""
    job = Job(kind=kind, source=Path("a"), output=Path("b"))
    model = ModelOptions(domain="winter", stabilize=stabilize)
    request = SimpleNamespace(jobs=(job,), model=model, options=VideoOptions(), files_left_out={})
    report = JobReport(
        input=Path("a"), output=Path("b"), width=64, height=48, frames=frames, frames_expected=frames, seconds=3
    )
    with Display(request) as display:
        display.show(JobOutcome(job, report))
    assert ("--stabilize" in capsys.readouterr().err) == told
