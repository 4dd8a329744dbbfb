"""Object stores as places of split videos, and what a worker keeps of them on its disk; no cluster is needed."""

import shutil
import tempfile
import types
from fractions import Fraction
from pathlib import Path

import fsspec
import pytest

from dsmap.errors import InputError
from dsmap.runtime.cluster.store_copies import StoreCopies
from dsmap.runtime.cluster.units import JoinUnit
from dsmap.runtime.cluster.worker import Worker, WorkerOrder
from dsmap.runtime.jobs.batch import CheckedJob, _check_stored
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.packet_journal import check_fingerprint
from dsmap.runtime.jobs.plan import Job, is_done
from dsmap.runtime.jobs.resume import parts_folder, segments_folder
from dsmap.runtime.jobs.segments.plan import SegmentPlan, VideoSegment
from dsmap.runtime.jobs.segments.results import note_path
from dsmap.runtime.jobs.stored import StorePath, remove_empty, stored_exists

SEGMENTS = tuple(
    VideoSegment(index=n, begin=Fraction(n) if n else None, end=None if n else Fraction(1), frames=3) for n in (0, 1)
)


@pytest.fixture
def job(store: Path, request) -> Job:
    (store / request.node.name).mkdir()
    output = StorePath(f"teststore://{request.node.name}/film.mkv")
    return Job(kind="video", source=f"teststore://{request.node.name}/in.mkv", output=output)


def place(store: Path, path: Path) -> Path:
    """Where the store keeps a file."""
    return store / str(path).removeprefix("teststore://")


def put_note(store: Path, output: Path, segment: VideoSegment) -> Path:
    note = place(store, note_path(segments_folder(output), segment.index, segment.begin, segment.end))
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("{}")
    return note


def test_a_folder_that_holds_something_stays_whatever_the_store_does(store, job, monkeypatch):
    kind = fsspec.get_filesystem_class("teststore")
    monkeypatch.setattr(kind, "rmdir", lambda _self, path: shutil.rmtree(path))
    foreign = place(store, parts_folder(job.output) / "notes.txt")
    foreign.parent.mkdir()
    foreign.write_text("mine")
    remove_empty(parts_folder(job.output))
    assert foreign.read_text() == "mine"
    foreign.unlink()
    remove_empty(parts_folder(job.output))
    assert not foreign.parent.exists()


def test_an_older_result_is_not_that_of_an_interrupted_job(store, job):
    place(store, job.output).write_bytes(b"older")
    assert is_done(job)
    put_note(store, job.output, SEGMENTS[0])
    assert not is_done(job)
    with pytest.raises(InputError) as refusal:
        _check_stored(job, VideoOptions(resume=True))
    assert refusal.value.advice == "the interrupted job was to replace it: pass --overwrite as well"
    with pytest.raises(InputError, match="left finished parts in teststore://"):
        _check_stored(job, VideoOptions())
    _check_stored(job, VideoOptions(resume=True, overwrite=True))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_worker_that_was_lost_while_it_removed_the_segments_had_sent_the_result(store, job, overwrite):
    place(store, job.output).write_bytes(b"result")
    left = put_note(store, job.output, SEGMENTS[1])
    request = types.SimpleNamespace(options=VideoOptions(overwrite=overwrite))
    worker = Worker(WorkerOrder(request=request, largest=None, threads=1), None)
    unit = JoinUnit(0, CheckedJob(job, None), SegmentPlan(segments=SEGMENTS), ())
    assert worker._join(unit, True, None).notes == ("done by a worker that was lost before it could report",)
    assert not left.exists()
    assert stored_exists(job.output)


def test_a_store_that_keeps_what_should_go_does_not_fail_the_job(store, job, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("not yours to delete")

    place(store, job.output).write_bytes(b"result")
    put_note(store, job.output, SEGMENTS[1])
    monkeypatch.setattr(fsspec.get_filesystem_class("teststore"), "rm_file", refuse)
    told = []
    beats = types.SimpleNamespace(notice=lambda _number, _part, line: told.append(line))
    request = types.SimpleNamespace(options=VideoOptions())
    worker = Worker(WorkerOrder(request=request, largest=None, threads=1), None)
    assert worker._join(JoinUnit(0, CheckedJob(job, None), SegmentPlan(segments=SEGMENTS), ()), True, beats).notes
    assert told[0].startswith(f"remove {job.output}.parts yourself, the result is complete: ")


def test_parts_of_another_job_are_named_where_they_are(store, job):
    place(store, StorePath(job.source)).write_bytes(b"video")
    copies = StoreCopies()
    with pytest.raises(InputError) as refusal, copies.of(job) as local:
        check_fingerprint({"--height": "270"}, {"--height": "540"}, parts_folder(local.output))
    copies.close()
    assert refusal.value.fact.startswith(f"the unfinished job in {job.output}.parts was started")
    assert refusal.value.advice.endswith("or pass --overwrite instead of --resume to start over")


def test_only_folders_of_workers_are_removed(store, job, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place(store, StorePath(job.source)).write_bytes(b"video")
    for name, file in (("dsmap-store-mine", "letter.txt"), ("dsmap-store-left", "source")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").touch()
        (tmp_path / name / file).touch()
    copies = StoreCopies()
    with copies.of(job):
        pass
    copies.close()
    assert [path.name for path in tmp_path.iterdir()] == ["dsmap-store-mine"]
