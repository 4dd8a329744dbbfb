"""Display of `dsmap-video --ray`: a live table of the inputs at work; plain lines without a terminal.

12 of 40 inputs, 48210 of 162000 frames, 310.5 fps, 6 min left
holiday.mp4   ━━━━━━━━━━━━━━╸━━━━━━━━━━  3120/5400
trip.mov      ━━━╸━━━━━━━━━━━━━━━━━━━━━   310/2400
"""

import os
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dsmap.common.images import left_out_line
from dsmap.runtime.jobs.batch_report import (
    BatchEvent,
    JobNotice,
    JobOutcome,
    JobProgress,
    JobSkipped,
    JobStarted,
    ModelLoaded,
)
from dsmap.tools.shared.live_table import LiveTable, Row, live_table
from dsmap.tools.shared.terminal import note, report_error, say
from dsmap.tools.video.pace import Pace

if TYPE_CHECKING:
    from dsmap.runtime.cluster.on_ray import OnRay
    from dsmap.runtime.jobs.batch_report import BatchReport
    from dsmap.runtime.jobs.report import JobReport
    from dsmap.runtime.jobs.request import VideoRequest


def run_on_cluster(cluster: "OnRay", request: "VideoRequest") -> "BatchReport":
    """Runs the request and shows its events. When the head node is lost, the process ends here."""
    from dsmap.runtime.cluster.connection import ClusterLostError

    if cluster.address == "local":
        note("starting Ray on this machine")
    try:
        with ClusterDisplay(request) as display:
            return cluster(request, display.show)
    except ClusterLostError as error:
        report_error(error.fact, error.advice)
        sys.stdout.flush()
        os._exit(error.exit_code)  # Ray would wait for the head node at the end, and then crash


class ClusterDisplay:
    """Shows the events of a run on a cluster. A context manager, so that the table disappears however the run ends."""

    def __init__(self, request: "VideoRequest") -> None:
        self._jobs, self._ended, self._frames_ended = len(request.jobs), 0, 0
        self._running: dict[int, Row] = {}
        self._pace = Pace(None)
        self._expected: int | None = None
        self._stack = ExitStack()
        self._table: LiveTable | None = None
        for folder, kinds in request.files_left_out.items():
            say(left_out_line(tuple(kinds.items()), Path(folder)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def show(self, event: BatchEvent) -> None:
        """Print what there is to say about `event`, or change the table."""
        match event:
            case JobSkipped(job):
                self._jobs -= 1
                say(f"{job.output} exists and is kept; its options were not compared.")
            case ModelLoaded(lines, _, frames):
                say(*lines)
                self._expected = frames
                self._table = self._stack.enter_context(live_table())
            case JobStarted(job, frames, _, _):
                self._running[id(job)] = Row(job.name, 0, frames)
            case JobProgress(job, done, expected):
                self._running[id(job)] = Row(job.name, done, max(done, expected) if expected else None)
                self._advance()
            case JobNotice(job, line):
                with self._above():
                    note(f"{job.name}: {line}")
            case JobOutcome(job, report, _):
                row = self._running.pop(id(job))
                self._ended += 1
                self._frames_ended += report.frames if report is not None else row.done
                with self._above():
                    _show_outcome(event)
                self._advance()

    def _above(self) -> AbstractContextManager[None]:
        """Within this, lines may be printed."""
        return self._table.away() if self._table is not None else nullcontext()

    def _advance(self) -> None:
        done = self._frames_ended + sum(row.done for row in self._running.values())
        self._pace.advance(done, self._expected)
        if self._table is not None:
            self._table.draw(lambda: self._head(done), lambda: list(self._running.values()))
        elif self._ended < self._jobs and (line := self._pace.report()):
            note(f"{self._ended} of {self._jobs} inputs, {line}")

    def _head(self, done: int) -> str:
        of = f" of {self._expected}" if self._expected else ""
        return f"{self._ended} of {self._jobs} inputs, {done}{of} frames, {self._pace.status()}"


def _show_outcome(outcome: JobOutcome) -> None:
    report, error = outcome.report, outcome.error
    if error is not None:
        report_error(f"{outcome.job.shown}: {error.fact}", error.advice)
    elif report is not None and report.frames and not report.kept_previous:
        say(_line(report))


def _line(report: "JobReport") -> str:
    of = f"{report.frames} of {report.frames_expected or report.frames}"
    return f"{report.output}: {of} done in {report.seconds:.1f} s"
