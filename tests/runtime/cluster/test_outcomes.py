"""What becomes of the jobs of a run, from what workers report; no cluster is needed."""

import types
from pathlib import Path

import clips
import pytest

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.cluster.on_ray import _begun
from dsmap.runtime.cluster.outcomes import Outcomes
from dsmap.runtime.cluster.units import JoinUnit, PartResult
from dsmap.runtime.cluster.worker import Worker, WorkerOrder, _Beats
from dsmap.runtime.jobs import loaded_model
from dsmap.runtime.jobs.batch import CheckedJob
from dsmap.runtime.jobs.batch_report import JobNotice, JobOutcome, JobProgress
from dsmap.runtime.jobs.loaded_model import settled_refining
from dsmap.runtime.jobs.options import ModelOptions, VideoOptions
from dsmap.runtime.jobs.packet_journal import PacketJournal, PacketRecord
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import InputFacts, JobReport
from dsmap.runtime.jobs.request import resolve_request
from dsmap.runtime.jobs.resume import parts_folder, segments_folder
from dsmap.runtime.jobs.segments.begin import hold_segments
from dsmap.runtime.jobs.segments.plan import SegmentPlan, VideoSegment
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.refine import learnt

FACTS = InputFacts(width=64, height=48, frames=9, notes=("10 bits become 8",), left_out=("stream 3",))
PLAN = SegmentPlan(segments=tuple(VideoSegment(index=n, begin=None, end=None, frames=3) for n in range(2)))


def videos(folder: Path, count: int) -> list[CheckedJob]:
    jobs = [Job(source=folder / f"{n}.mkv", output=folder / f"{n}-out.mkv", kind="video") for n in range(count)]
    return [CheckedJob(job, FACTS) for job in jobs]


def finished_part(output: Path) -> None:
    """What an interrupted job has left, with other options."""
    journal = PacketJournal.open(parts_folder(output), {"other": "options"})
    journal.add(PacketRecord(0, 0, 1, True, b"frame"))
    journal.finish_segment()
    journal.close()


def test_nobody_takes_a_video_while_its_segments_are_made(tmp_path):
    todo = videos(tmp_path, 2)
    output, source = todo[0].job.output, clips.make_clip(todo[0].job.source, frames=3)
    ended = []
    with Outcomes(todo, ended.append) as outcomes:
        outcomes.begin(0)
        assert len(outcomes.take(PartResult(0, 0, PLAN))) == 2
        with pytest.raises(InputError, match="another process is working in"):
            translate_video(source, output, lambda frame: frame, made_with={}, overwrite=True)
        with Outcomes(todo, ended.append) as others:
            assert others.take(PartResult(0, 0, PLAN)) == []
        assert "another process is working in" in ended[-1].error.fact
        outcomes.hand_over(JoinUnit(0, todo[0], PLAN, ()))
        hold_segments(output).close()
    assert not parts_folder(output).exists()


def test_folders_without_a_finished_part_go(tmp_path):
    todo = videos(tmp_path, 2)
    with Outcomes(todo, lambda _: None) as outcomes:
        for number, one in enumerate(todo):
            outcomes.begin(number)
            segments_folder(one.job.output).mkdir(parents=True)
        finished_part(todo[1].job.output)
    assert [parts_folder(one.job.output).exists() for one in todo] == [False, True]


def test_an_error_says_that_finished_parts_are_kept(tmp_path):
    todo, seen = videos(tmp_path, 2), []
    finished_part(todo[0].job.output)
    with Outcomes(todo, seen.append) as outcomes:
        for number in range(2):
            outcomes.take(PartResult(number, 0, DsmapError("the disk is full", "free some")))
    advice = [event.error.advice for event in seen if isinstance(event, JobOutcome)]
    assert advice == [
        "free some; what was done is kept: run the same command with --resume to continue",
        "free some",
    ]


def test_the_error_of_a_single_job_is_raised(tmp_path):
    seen = []
    alone = Outcomes(videos(tmp_path, 1), seen.append, alone=True)
    with pytest.raises(DsmapError, match="the disk is full"), alone as outcomes:
        outcomes.take(PartResult(0, 0, DsmapError("the disk is full", "free some")))
    assert not [event for event in seen if isinstance(event, JobOutcome)]


@pytest.mark.parametrize(("count", "told"), [(20, []), (21, ["10 bits become 8", "left out: stream 3"])])
def test_notes_about_inputs_are_told_and_reported(tmp_path, count, told):
    todo, seen = videos(tmp_path, count), []
    with Outcomes(todo, seen.append) as outcomes:
        outcomes.begin(3)
        report = JobReport(
            input=todo[3].job.source,
            output=todo[3].job.output,
            width=64,
            height=48,
            frames=9,
            frames_expected=9,
            seconds=1.0,
        )
        outcomes.take(PartResult(3, 0, report))
    assert [event.line for event in seen if isinstance(event, JobNotice)] == told
    assert seen[-1].report.notes == ("10 bits become 8", "left out: stream 3")


def test_a_notice_that_is_still_on_its_way_comes_with_the_result_and_is_told_once(tmp_path):
    """A worker has told it, but the command takes the result before it has heard of it; or after."""
    beats = _Beats(hub=None, seconds=1)
    beats.notice(0, 0, "not split")
    on_its_way = beats.untold()
    beats.progress(0, 0, 9)
    rest = beats.rest()
    for heard in ([*on_its_way, *rest], rest):
        seen = []
        outcomes = Outcomes(videos(tmp_path, 1), seen.append)
        for event in heard:
            outcomes.hear(event)
        assert [event.line for event in seen if isinstance(event, JobNotice)] == ["not split"]
        assert [event.done for event in seen if isinstance(event, JobProgress)] == [9]


@pytest.mark.parametrize("resume", [False, True])
def test_parts_of_an_earlier_request_are_thrown_away_before_any_work(tmp_path, resume):
    (one,) = videos(tmp_path, 1)
    finished_part(one.job.output)
    request = types.SimpleNamespace(options=VideoOptions(resume=resume, overwrite=True), jobs=(one.job, one.job))
    assert _begun(one, request) == one
    assert parts_folder(one.job.output).exists() == resume
    with hold_segments(one.job.output):
        assert (_begun(one, request).error is None) == resume


@pytest.mark.parametrize(
    ("options", "here", "there", "way"),
    [
        ({}, True, True, "learnt"),
        ({}, True, False, None),
        ({}, False, True, "guided"),
        ({"refine": "learnt"}, False, True, "learnt"),
        ({"refine": "off"}, True, True, "off"),
    ],
)
def test_all_workers_refine_in_one_way(tmp_path, monkeypatch, options, here, there, way):
    """That of the process that hands out the work; a worker that has no ONNX Runtime for it says so."""
    clip = clips.make_clip(tmp_path / "in.mp4", frames=2)
    request = resolve_request(
        [str(clip)], model=ModelOptions(domain="winter", backend="cpu"), options=VideoOptions(height=24, **options)
    )
    monkeypatch.setattr(loaded_model, "onnxruntime_installed", lambda: here)
    monkeypatch.setattr(learnt, "onnxruntime_installed", lambda: there)
    worker = Worker(WorkerOrder(request=request, largest=None, threads=1, refining=settled_refining(request)), None)
    loaded = worker.load("auto")
    if way is None:
        assert isinstance(loaded, DsmapError)
        assert loaded.fact == "the model's refiner cannot be used here: ONNX Runtime is not installed"
        assert "--refine guided" in loaded.advice
    else:
        assert (loaded.facts["refine"], loaded.fingerprint["refinement"]) == (way, way)
