"""What a run of several jobs reports: events while it runs, outcomes and numbers at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from dsmap.errors import DsmapError
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import JobReport


class JobSkipped(NamedTuple):
    """With `resume`: the result of the job is there already."""

    job: Job


class ModelLoaded(NamedTuple):
    """The inputs were checked and the model is loaded."""

    lines: tuple[str, ...]
    """What will be done, and by what; for people."""


class JobStarted(NamedTuple):
    """A job begins."""

    job: Job
    frames: int | None
    """How many it is expected to have."""


class JobProgress(NamedTuple):
    """A frame is done."""

    job: Job
    done: int
    expected: int | None


class JobNotice(NamedTuple):
    """Something that happened meanwhile, such as a network that broke off."""

    job: Job
    line: str


class JobOutcome(NamedTuple):
    """A job has ended: its report, or the error that kept it from one."""

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
"""In this order: all jobs that are skipped; the model; of each job its start, its frames, its outcome."""
OnEvent: TypeAlias = Callable[[BatchEvent], None]


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What a run did."""

    outcomes: tuple[JobOutcome, ...]
    """In the order of the request. A job that did not begin before an interruption has none."""
    skipped: tuple[Job, ...] = ()
    """Jobs whose results were there already."""
    planned: int
    """How many jobs there were to do, the skipped ones not counted."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Which model ran, in which style, on which backend; and the files of folders that were left out."""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended it."""
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
        """For JSON: the numbers of a single job as they are, those of several in a list, `jobs`."""
        outcomes = [outcome.as_dict() for outcome in self.outcomes]
        single = self.planned == 1 and not self.skipped
        return dict(self.facts) | (outcomes[0] if single and outcomes else {"jobs": outcomes})
