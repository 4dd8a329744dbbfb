"""What has become of each job, put together from what workers report of its parts."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.cluster.units import FolderUnit, JoinUnit, PartEvent, PartResult, SegmentUnit, Unit
from dsmap.runtime.jobs.batch import CheckedJob
from dsmap.runtime.jobs.batch_report import JobNotice, JobOutcome, JobProgress, JobStarted, OnEvent
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import JobReport
from dsmap.runtime.jobs.resume import discard_nothing, is_unfinished, saying_kept
from dsmap.runtime.jobs.segments.begin import hold_segments
from dsmap.runtime.jobs.segments.plan import SegmentPlan
from dsmap.runtime.jobs.segments.results import SegmentResult
from dsmap.runtime.jobs.stored import is_stored

DESCRIBED = 20
"""Inputs that are told one by one before the work; of more, notes are told when they begin."""


class Outcomes:
    """Of all jobs of a run. Emits the events of a run without a cluster. The error of one that is `alone` is raised.

    While segments of a video are made, no other process may work on it. A context manager, which ends that, and removes
    folders for parts in which no part was finished.
    """

    def __init__(self, todo: Sequence[CheckedJob], emit: OnEvent, *, alone: bool = False) -> None:
        self._todo, self._emit, self._alone = todo, emit, alone
        self._parts_expected = dict.fromkeys(range(len(todo)), 1)
        self._parts: dict[int, dict[int, JobReport | DsmapError]] = {}
        """Of jobs that are not split at keyframes."""
        self._done: dict[int, dict[int, int]] = {}
        self._outcomes: dict[int, JobOutcome] = {}
        self._started: dict[int, float] = {}
        """When each job was begun."""
        self._complete: set[int] = set()
        self._plans: dict[int, SegmentPlan] = {}
        self._segments: dict[int, dict[int, SegmentResult]] = {}
        self._noticed: set[PartEvent] = set()
        self._held: dict[int, contextlib.ExitStack] = {}
        """The folders of videos whose segments are made."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for number in [*self._held]:
            self._let_go(number)
        for number in self._started:
            one = self._todo[number].job
            if one.kind == "video" and not is_stored(one.output) and number not in self._complete:
                discard_nothing(one.output)

    def plan(self, units: Sequence[Unit]) -> None:
        """How many parts each job has."""
        for unit in units:
            if isinstance(unit, FolderUnit):
                self._parts_expected[unit.number] = max(self._parts_expected[unit.number], unit.part + 1)

    def take_bad_inputs(self) -> None:
        """The jobs whose inputs were found to be bad have ended."""
        for number, one in enumerate(self._todo):
            if one.error is not None:
                self._end(number, JobOutcome(one.job, None, one.error))

    def hear(self, event: PartEvent) -> None:
        """Something has happened in a worker; a notice may come twice."""
        if event.number in self._outcomes or event in self._noticed:
            return
        job, facts = self._todo[event.number].job, self._todo[event.number].facts
        self.begin(event.number)
        if event.notice:
            self._noticed.add(event)
            self._emit(JobNotice(job, event.notice))
            return
        done = self._done.setdefault(event.number, {})
        done[event.part] = max(event.done, done.get(event.part, 0))
        self._emit(JobProgress(job, sum(done.values()), facts.frames if facts else None))

    def begin(self, number: int) -> None:
        """A worker has begun with it."""
        if number in self._started:
            return
        self._started[number] = time.monotonic()
        job, facts = self._todo[number].job, self._todo[number].facts
        self._emit(JobStarted.of(job, facts))
        for line in _notes(self._todo[number]) if len(self._todo) > DESCRIBED else ():
            self._emit(JobNotice(job, line))

    def take(self, found: PartResult) -> list[Unit]:
        """A part has ended: with the last one, its job has. Gives what is to be done for the job next."""
        number, one = found.number, self._todo[found.number]
        if number in self._outcomes:
            return []
        if isinstance(found.result, SegmentPlan):
            plan = self._plans[number] = found.result
            try:
                if not is_stored(one.job.output):  # stores know no locks
                    self._held[number] = hold_segments(one.job.output)
            except DsmapError as error:
                self._end(number, JobOutcome(one.job, None, error))
                return []
            return [SegmentUnit(number, segment.index, one, plan) for segment in plan.segments]
        if isinstance(found.result, SegmentResult):
            return self._take_segment(number, found.result)
        if isinstance(found.result, DsmapError) and number in self._plans:
            self._end(number, JobOutcome(one.job, None, found.result))
            return []
        parts = self._parts.setdefault(number, {})
        parts[found.part] = found.result
        if len(parts) == self._parts_expected[number]:
            self._end(number, self._outcome(number))
        return []

    def hand_over(self, unit: Unit) -> None:
        """A worker begins with the unit: one that joins segments holds their folder itself."""
        if isinstance(unit, JoinUnit):
            self._let_go(unit.number)

    def _let_go(self, number: int) -> None:
        if number in self._held:
            self._held.pop(number).close()

    def is_over(self, unit: Unit) -> bool:
        """Whether nothing of the unit is left to do: its job has failed."""
        return all(number in self._outcomes for number in unit.numbers)

    def _take_segment(self, number: int, segment: SegmentResult) -> list[Unit]:
        """With the last segment, the video can be joined."""
        if segment.interrupted:
            return []
        plan, done = self._plans[number], self._segments.setdefault(number, {})
        done[segment.index] = segment
        self.hear(PartEvent(number, segment.index, segment.frames))
        if len(done) < len(plan.segments):
            return []
        return [JoinUnit(number, self._todo[number], plan, tuple(done[index] for index in sorted(done)))]

    def ended(self) -> list[JobOutcome]:
        """Of all jobs that were begun, in the order of the request. What an interruption left of a job is told too."""
        for number in (*self._parts, *self._plans):
            if number not in self._outcomes:
                self._end(number, self._outcome(number) if number in self._parts else self._stopped(number))
        return [self._outcomes[number] for number in sorted(self._outcomes)]

    def _outcome(self, number: int) -> JobOutcome:
        one, parts = self._todo[number], self._parts[number]
        if error := next((part for part in parts.values() if isinstance(part, DsmapError)), None):
            return JobOutcome(one.job, None, error)
        reports = [part for _, part in sorted(parts.items()) if isinstance(part, JobReport)]
        report = reports[0]
        if self._parts_expected[number] > 1:
            report = _joined(reports, missing=len(parts) < self._parts_expected[number])
            report = replace(report, frames_expected=one.facts.frames if one.facts else report.frames_expected)
        if self._parts_expected[number] > 1 or number in self._plans:
            report = replace(report, seconds=self._seconds(number))
        report = replace(report, input=one.job.source_path, output=one.job.output, notes=(*report.notes, *_notes(one)))
        return JobOutcome(one.job, report)

    def _seconds(self, number: int) -> float:
        return time.monotonic() - self._started[number]

    def _stopped(self, number: int) -> JobOutcome:
        """Of a video whose segments were not all done, and are kept."""
        one, done = self._todo[number], self._segments.get(number, {})
        width, height = self._plans[number].size or (0, 0)
        report = JobReport(
            input=one.job.source_path,
            output=one.job.output,
            width=width,
            height=height,
            frames=sum(segment.frames for segment in done.values()),
            frames_expected=self._plans[number].frames,
            seconds=self._seconds(number),
            interrupted=True,
            resumable=bool(done),
            kept_previous=one.job.output.exists(),
        )
        return JobOutcome(one.job, report)

    def _end(self, number: int, outcome: JobOutcome) -> None:
        self.begin(number)
        self._let_go(number)
        job, error = outcome.job, outcome.error
        if error is not None and not isinstance(error, InputError) and job.kind == "video" and _is_kept(job):
            outcome = outcome._replace(error=saying_kept(error))
        self._outcomes[number] = outcome
        if outcome.complete:
            self._complete.add(number)
        if outcome.error is not None and self._alone:
            raise outcome.error
        self._emit(outcome)


def _is_kept(job: Job) -> bool:
    """Whether finished parts of a video are."""
    with contextlib.suppress(DsmapError):  # a store may be what the error is about
        return is_unfinished(job.output)
    return False


def _notes(one: CheckedJob) -> tuple[str, ...]:
    """About the input of a video, for people."""
    if one.facts is None or one.job.kind != "video":
        return ()
    left_out = (f"left out: {', '.join(one.facts.left_out)}",) if one.facts.left_out else ()
    return (*one.facts.notes, *left_out)


def _joined(reports: Sequence[JobReport], *, missing: bool) -> JobReport:
    """One report for a folder of images whose parts were done by several workers. Stage times are sums over workers."""

    def total(name: str) -> Any:
        return sum(getattr(report, name) for report in reports)

    times = ("decode_seconds", "translate_seconds", "finish_seconds", "encode_seconds")
    sums: dict[str, Any] = {name: total(name) for name in (*times, "frames", "resumed_frames")}
    return replace(
        reports[-1],
        failed=tuple(line for report in reports for line in report.failed),
        notes=tuple(line for report in reports for line in report.notes),
        interrupted=missing or any(report.interrupted for report in reports),
        **sums,
    )
