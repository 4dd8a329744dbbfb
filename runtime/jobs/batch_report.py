"""Events and results of a run: progress of each job, its outcome, and the report of all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias

from dsmap.errors import DsmapError
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import InputFacts, JobReport


class JobSkipped(NamedTuple):
    """With `resume`: the result of the job exists already."""

    job: Job


class ModelLoaded(NamedTuple):
    """The inputs are checked and the model is loaded."""

    lines: tuple[str, ...]
    """What will be done, and by what, for people to read."""
    details: tuple[str, ...] = ()
    """More of it, for those who ask."""
    frames: int | None = None
    """Of all jobs together, where they run beside each other; None when unknown."""


class JobStarted(NamedTuple):
    """A job begins."""

    job: Job
    frames: int | None = None
    """How many frames are expected; None when unknown."""
    lines: int | None = None
    """Height that frames are translated at; None when unknown."""
    columns: int | None = None
    """Their width."""

    @classmethod
    def of(cls, job: Job, facts: InputFacts | None) -> Self:
        """The start of a job with what is known of its input."""
        return cls(job) if facts is None else cls(job, facts.frames, facts.height or None, facts.width or None)


class JobProgress(NamedTuple):
    """A frame is done."""

    job: Job
    done: int
    expected: int | None


class JobNotice(NamedTuple):
    """A line for people about what happened during a job, such as a lost connection."""

    job: Job
    line: str


class JobOutcome(NamedTuple):
    """A job has ended: with its report, or with an error."""

    job: Job
    report: JobReport | None
    error: DsmapError | None = None

    @property
    def complete(self) -> bool:
        """Whether everything in the input is in the output."""
        return self.report is not None and self.report.complete

    def as_dict(self) -> dict[str, Any]:
        """For JSON; see `JobReport.as_dict`."""
        if self.report is not None:
            return self.report.as_dict()
        assert self.error is not None
        named = {"input": self.job.shown, "output": str(self.job.output)}
        return named | {"frames": 0, "complete": False, "error": self.error.fact}


BatchEvent: TypeAlias = JobSkipped | ModelLoaded | JobStarted | JobProgress | JobNotice | JobOutcome
"""In this order: all skipped jobs; the model; for each job its start, its frames and notices, its outcome."""
OnEvent: TypeAlias = Callable[[BatchEvent], None]


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What a run did."""

    outcomes: tuple[JobOutcome, ...]
    """In the order of the request. Jobs that an interruption kept from starting have none."""
    skipped: tuple[Job, ...] = ()
    """With `resume`: jobs whose results existed already."""
    planned: int
    """How many jobs there were to do, without the skipped ones."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The model, style and backend that ran, and the files of folders that were left out."""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM stopped it."""
        cut_off = any(outcome.report is not None and outcome.report.interrupted for outcome in self.outcomes)
        return cut_off or len(self.outcomes) < self.planned

    @property
    def complete(self) -> bool:
        """Whether everything in every input is in its output."""
        return len(self.outcomes) == self.planned and all(outcome.complete for outcome in self.outcomes)

    @property
    def errors(self) -> list[DsmapError]:
        """Of the jobs that have no report."""
        return [outcome.error for outcome in self.outcomes if outcome.error is not None]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the numbers of a single job at the top level, those of several in a list, `jobs`."""
        outcomes = [outcome.as_dict() for outcome in self.outcomes]
        single = self.planned == 1 and not self.skipped
        several = {"interrupted": self.interrupted, "jobs": outcomes}
        return dict(self.facts) | (outcomes[0] if single and outcomes else several)
