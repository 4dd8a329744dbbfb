"""Units of work: what a worker does in one go, and what is lost with a worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

from dsmap.errors import DsmapError
from dsmap.runtime.jobs.batch import CheckedJob
from dsmap.runtime.jobs.report import JobReport
from dsmap.runtime.jobs.segments.plan import SegmentPlan
from dsmap.runtime.jobs.segments.results import SegmentResult


@dataclass(frozen=True)
class JobsUnit:
    """Whole jobs: a video, or some images. Numbers are places in the list of all jobs."""

    jobs: tuple[tuple[int, CheckedJob], ...]

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.jobs]

    def apart(self) -> "list[JobsUnit]":
        """The same work in smaller units: what ends a worker shall not take others with it."""
        return [JobsUnit((one,)) for one in self.jobs]


@dataclass(frozen=True)
class _OneJobUnit:
    """What is of one job, and not divided further."""

    number: int

    @property
    def numbers(self) -> list[int]:
        return [self.number]

    def apart(self) -> list[Self]:
        return [self]


@dataclass(frozen=True)
class FolderUnit(_OneJobUnit):
    """Some images of a folder, with the names of their results."""

    part: int
    one: CheckedJob
    images: dict[Path, str]


@dataclass(frozen=True)
class VideoUnit(_OneJobUnit):
    """A video: its segments are planned, or where it has none it is translated."""

    one: CheckedJob
    seconds: float
    """Length of a segment."""


@dataclass(frozen=True)
class SegmentUnit(_OneJobUnit):
    """A segment of a video."""

    part: int
    one: CheckedJob
    plan: SegmentPlan


@dataclass(frozen=True)
class JoinUnit(_OneJobUnit):
    """All segments of a video, done: they become the output."""

    one: CheckedJob
    plan: SegmentPlan
    segments: tuple[SegmentResult, ...]


Unit: TypeAlias = JobsUnit | FolderUnit | VideoUnit | SegmentUnit | JoinUnit


class PartResult(NamedTuple):
    """What became of a job, or of one part of it: of a video that is split first the plan, then each segment."""

    number: int
    part: int
    result: JobReport | SegmentPlan | SegmentResult | DsmapError


class PartEvent(NamedTuple):
    """What a worker tells while it works on a part of a job."""

    number: int
    part: int
    done: int = 0
    """Frames of the part so far."""
    notice: str = ""
