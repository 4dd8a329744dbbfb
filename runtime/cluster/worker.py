"""A worker: a process in the cluster that loads the model once and translates one unit of work after the other."""

import _thread
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from dsmap.common.cpu import CPUS_VARIABLE
from dsmap.common.interrupts import StopRequest, stop_on_signals
from dsmap.common.state_files import FolderInUseError
from dsmap.errors import DsmapError, first_line
from dsmap.runtime.bundle.bundled import bundled_models, is_hub_model
from dsmap.runtime.cluster.store_copies import StoreCopies
from dsmap.runtime.cluster.units import (
    FolderUnit,
    JobsUnit,
    JoinUnit,
    PartEvent,
    PartResult,
    SegmentUnit,
    Unit,
    VideoUnit,
)
from dsmap.runtime.hub.models import source_of
from dsmap.runtime.jobs.batch import CheckedJob, run_job
from dsmap.runtime.jobs.batch_report import BatchEvent, JobNotice, JobOutcome, JobProgress, OnEvent
from dsmap.runtime.jobs.images import run_folder_images
from dsmap.runtime.jobs.loaded_model import LoadedModel, ModelSummary
from dsmap.runtime.jobs.plan import Job, is_done
from dsmap.runtime.jobs.report import JobReport
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.resume import parts_folder, segments_folder
from dsmap.runtime.jobs.segments.in_store import (
    are_kept,
    fetch_segment,
    fetch_segments,
    remove_segments_there,
    send_segment,
)
from dsmap.runtime.jobs.segments.join import join_segments
from dsmap.runtime.jobs.segments.plan import SegmentPlan, plan_segments
from dsmap.runtime.jobs.segments.results import SegmentResult
from dsmap.runtime.jobs.segments.work import translate_segment
from dsmap.runtime.jobs.stored import is_stored, send, stored_exists
from dsmap.runtime.open_model import open_model

_Made = TypeVar("_Made")
_ASKED_AGAIN = 5.0  # seconds after which a worker that has not stopped yet is asked again
_WORTH_TELLING = 45  # frames in a second of a segment: videos that are longer would be worth splitting
_LOCK_SECONDS = 30.0  # a lost worker may hold its folder as long as its machine takes to notice


@dataclass(frozen=True, kw_only=True)
class WorkerOrder:
    """What every worker of a run is told once."""

    request: VideoRequest
    largest: tuple[int, int] | None
    """(width, height) of the largest video frames."""
    threads: int
    refining: str | None = None
    """How results are refined, see `settled_refining`; None: as the worker can."""
    beat_seconds: float = 0.5
    """How often a worker tells how far it is."""


def place_everywhere(request: VideoRequest) -> VideoRequest:
    """`request` with paths and models that mean the same in every process, whatever its working folder is.

    A model of the Hub gets its commit, so that nodes that pull it now get what was pulled here.
    """
    model = request.model
    if model.remote is None and is_hub_model(model.model):
        model = replace(model, model=source_of(request.bundle.folder)["model_source"])
    elif model.remote is None and str(model.model) not in bundled_models():
        model = replace(model, model=Path(model.model).absolute())
    return replace(request, model=model, jobs=tuple(place_job(job) for job in request.jobs))


def place_job(job: Job) -> Job:
    """`job` with absolute paths; addresses stay."""
    source = job.source
    if isinstance(source, Path):
        source = source.absolute()
    elif "://" not in source:  # the pattern of a sequence
        source = str(Path(source).absolute())
    return replace(job, source=source, output=job.output.absolute())


class Worker:
    """Runs as an actor of Ray. Its methods run in the main thread, one at a time; expected errors are results."""

    def __init__(self, order: WorkerOrder, hub: Any) -> None:
        os.environ[CPUS_VARIABLE] = str(order.threads)
        self._order, self._hub = order, hub
        self._request = order.request
        self._model: LoadedModel | None = None
        self._copies = StoreCopies()

    def node(self) -> str:
        """Which one it is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def load(self, precision: str) -> ModelSummary | DsmapError:
        """Loads the model, in the precision that the request asks for or the other workers have chosen."""
        try:
            model = replace(self._request.model, precision=precision)
            self._request = replace(self._request, model=model, bundle=open_model(model.model, model.remote))
            self._model = LoadedModel(self._request, largest=self._order.largest)
            if self._order.refining is not None:
                self._model.settle_refining(self._order.refining)
        except DsmapError as error:
            return error
        return self._model.summary()

    def close(self) -> None:
        """Removes what it keeps on the disk of its node."""
        self._copies.close()

    def run(self, unit: Unit, *, retry: bool) -> tuple[list[PartResult], list[PartEvent]]:
        """The results of a unit, and what was not told before, with all notices, which may have been lost on their way.
        After a stop results of unfinished jobs may be missing.

        `retry`: another worker was lost with it, and what that one has finished is kept.
        """
        with stop_on_signals() as stop, _Beats(self._hub, self._order.beat_seconds) as beats:
            results = list(self._results(unit, retry, stop, beats))
        return results, beats.rest()

    def _results(self, unit: Unit, retry: bool, stop: StopRequest, beats: "_Beats") -> Iterator[PartResult]:
        match unit:
            case FolderUnit(number, part):
                yield PartResult(number, part, _caught(lambda: self._folder(unit, retry, beats)))
            case VideoUnit(number, one):
                yield PartResult(number, 0, _caught(lambda: self._video(unit, retry, beats)))
            case SegmentUnit(number, part):
                yield PartResult(number, part, _caught(lambda: self._segment(unit, beats)))
            case JoinUnit(number):
                yield PartResult(number, 0, _caught(lambda: self._join(unit, retry, beats)))
            case JobsUnit(jobs):
                for number, one in jobs:
                    if stop:
                        return
                    yield PartResult(number, 0, _caught(partial(self._job, number, one, retry, beats)))

    def _video(self, unit: VideoUnit, retry: bool, beats: "_Beats") -> JobReport | SegmentPlan:
        """The plan of its segments; of a video that has none, the report of its translation."""
        options, job = self._request.options, unit.one.job
        if retry and is_done(job) and not options.overwrite:
            return _done_before(unit.one)
        with self._copies.of(job) as local:
            plan = plan_segments(self._request, local, unit.seconds)
        if plan.is_split:
            return plan
        frames = plan.frames or (unit.one.facts.frames if unit.one.facts else None)
        if frames and frames > unit.seconds * _WORTH_TELLING:
            beats.notice(unit.number, 0, plan.note)
        return self._job(unit.number, unit.one, retry, beats)

    def _segment(self, unit: SegmentUnit, beats: "_Beats") -> SegmentResult:
        assert self._model is not None
        job, segment = unit.one.job, unit.plan.segments[unit.part]
        with self._copies.of(job) as local:
            folder = segments_folder(local.output)
            if is_stored(job.output):
                fetch_segment(segment, job.output, folder)
            result = translate_segment(
                self._request,
                local,
                unit.plan,
                unit.part,
                self._model,
                folder,
                progress=lambda done, _expected: beats.progress(unit.number, unit.part, done),
                notify=lambda line: beats.notice(unit.number, unit.part, line),
            )
            if is_stored(job.output) and not result.interrupted and not result.was_done:
                send_segment(result, job.output)
        return result

    def _join(self, unit: JoinUnit, retry: bool, beats: "_Beats") -> JobReport:
        job = unit.one.job
        if (
            retry
            and is_stored(job.output)
            and stored_exists(job.output)
            and not are_kept(unit.plan.segments, job.output)
        ):
            self._remove_segments(unit, beats)  # as the lost worker had begun to, once the result was sent
            return _done_before(unit.one)
        if retry and not is_stored(job.output):
            return self._job(unit.number, unit.one, retry, beats)  # it goes on with what is in the journal already
        with self._copies.of(job) as local:
            segments: Sequence[SegmentResult] = unit.segments
            request = self._request
            if is_stored(job.output):
                kept = fetch_segments(unit.plan.segments, job.output, segments_folder(local.output))
                segments = [replace(one, was_done=made.was_done) for one, made in zip(kept, segments, strict=True)]
                request = _into_copy(request)
            report = join_segments(
                request, local, unit.plan, segments, notify=lambda line: beats.notice(unit.number, 0, line)
            )
            if is_stored(job.output) and not report.interrupted:
                send(local.output, job.output)
                self._remove_segments(unit, beats)
        return replace(report, input=job.source_path)

    def _remove_segments(self, unit: JoinUnit, beats: "_Beats") -> None:
        """Those of a result that is there: a store that refuses is no failure of the job."""
        output = unit.one.job.output
        try:
            remove_segments_there(output)
        except DsmapError as error:
            beats.notice(
                unit.number, 0, f"remove {parts_folder(output)} yourself, the result is complete: {error.fact}"
            )

    def _job(self, number: int, one: CheckedJob, retry: bool, beats: "_Beats") -> JobReport:
        model, request, job = self._model, self._request, one.job
        assert model is not None
        if retry:
            if not request.options.overwrite and is_done(job):
                return _done_before(one)
            request = replace(request, options=_continuing(request, job))
        if is_stored(job.output):
            request = _into_copy(request)
        with self._copies.of(job) as local:
            here = CheckedJob(local, None) if job.is_stored else one
            outcome = _when_free(
                lambda: run_job(here, request, model, beats.emitter(number)), seconds=_LOCK_SECONDS if retry else 0
            )
            assert outcome.report is not None
            if is_stored(job.output) and not outcome.report.interrupted:
                send(local.output, job.output)
        return replace(outcome.report, input=job.source_path)

    def _folder(self, unit: FolderUnit, retry: bool, beats: "_Beats") -> JobReport:
        assert self._model is not None
        options = replace(self._request.options, resume=True) if retry else self._request.options
        return run_folder_images(
            Path(unit.one.job.source),
            unit.one.job.output,
            unit.images,
            self._model.for_images,
            options,
            progress=lambda done, _expected: beats.progress(unit.number, unit.part, done),
        )


def _continuing(request: VideoRequest, job: Job) -> Any:
    """The options that go on where a lost worker was: a video from its finished parts, the rest from the start."""
    is_file = isinstance(job.source, Path) or is_stored(job.source)
    if job.kind == "video" and is_file and "%" not in job.output.name:
        return replace(request.options, resume=True)
    return replace(request.options, overwrite=True)  # what is there was written by the lost worker


def _into_copy(request: VideoRequest) -> VideoRequest:
    """`request` for an output that is a copy on this node: nothing can be there before."""
    return replace(request, options=replace(request.options, overwrite=True, resume=False))


def _done_before(one: CheckedJob) -> JobReport:
    """Of a job whose result was complete when its worker was lost; nothing else had that name before the run."""
    facts = one.facts
    return JobReport(
        input=one.job.source_path,
        output=one.job.output,
        width=facts.width if facts else 0,
        height=facts.height if facts else 0,
        frames=(facts.frames or 0) if facts else 0,
        frames_expected=facts.frames if facts else None,
        seconds=0.0,
        audio_streams=facts.audio_streams if facts else 0,
        notes=("done by a worker that was lost before it could report",),
    )


def _when_free(call: Callable[[], JobOutcome], *, seconds: float) -> JobOutcome:
    """What `call` gives; while another process works in the same folder it is called again, so long."""
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except FolderInUseError:
            if time.monotonic() > until:
                raise
        time.sleep(1)


def _caught(call: Callable[[], _Made]) -> _Made | DsmapError:
    try:
        return call()
    except DsmapError as error:
        return error
    except Exception as error:
        return DsmapError(
            f"unexpected {type(error).__name__}: {first_line(error)}", "translate it without --ray to see where"
        )


class _Beats:
    """Tells the hub how far the worker is, every now and then, from a thread; a request to stop comes back that way."""

    def __init__(self, hub: Any, seconds: float) -> None:
        self._hub, self._seconds = hub, seconds
        self._lock = threading.Lock()
        self._done: dict[tuple[int, int], int] = {}
        self._notices: list[PartEvent] = []
        self._told: list[PartEvent] = []  # of the notices
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join(2 * self._seconds)  # so that no request to stop comes after the block that handles it

    def progress(self, number: int, part: int, done: int) -> None:
        with self._lock:
            self._done[number, part] = done

    def notice(self, number: int, part: int, line: str) -> None:
        with self._lock:
            self._notices.append(PartEvent(number, part, notice=line))

    def emitter(self, number: int) -> OnEvent:
        """For the events of a whole job."""

        def emit(event: BatchEvent) -> None:
            if isinstance(event, JobProgress):
                self.progress(number, 0, event.done)
            elif isinstance(event, JobNotice):
                self.notice(number, 0, event.line)

        return emit

    def untold(self) -> list[PartEvent]:
        """What has happened since this was called last."""
        with self._lock:
            events = [PartEvent(number, part, done) for (number, part), done in self._done.items()] + self._notices
            self._told += self._notices
            self._done, self._notices = {}, []
        return events

    def rest(self) -> list[PartEvent]:
        """What was not told, and the notices again: the command may look for results before it looks at the hub."""
        events = [event for event in self.untold() if not event.notice]
        return self._told + events

    def _beat(self) -> None:
        import ray

        asked = 0.0
        while not self._ended.wait(self._seconds):
            stop = False
            with contextlib.suppress(Exception):  # the hub is lost, or not there yet: the work goes on
                stop = ray.get(self._hub.tell.remote(self.untold()), timeout=10)
            if stop and time.monotonic() - asked > _ASKED_AGAIN and not self._ended.is_set():
                asked = time.monotonic()
                _thread.interrupt_main()
