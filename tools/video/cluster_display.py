"""Display of `dsmap-video --ray`: a live table of the inputs at work; plain lines without a terminal.

12 of 40 inputs, 48210 of 160000 frames, 310.5 fps, 6 min left
holiday.mp4   ━━━━━━━━━━━━━━╸━━━━━━━━━━  3120/5400
trip.mov      ━━━╸━━━━━━━━━━━━━━━━━━━━━   310/2400
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

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
from dsmap.tools.shared.terminal import Drawing, note, report_error, say, shown
from dsmap.tools.video.pace import Pace

if TYPE_CHECKING:
    from rich.live import Live

    from dsmap.runtime.jobs.plan import Job
    from dsmap.runtime.jobs.report import JobReport
    from dsmap.runtime.jobs.request import VideoRequest

_ROWS = 12
_DRAWN_EVERY = 0.2  # seconds


class ClusterDisplay:
    """Shows the events of a run on a cluster. A context manager, so that the table disappears however the run ends."""

    def __init__(self, request: "VideoRequest") -> None:
        self._jobs = len(request.jobs)
        self._ended = 0
        self._running: dict[int, _Row] = {}
        self._frames_ended = 0
        self._pace = Pace(None)
        self._stack = ExitStack()
        self._live: Live | None = None
        self._drawn = 0.0
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
            case ModelLoaded(lines):
                say(*lines)
                self._begin()
            case JobStarted(job, frames, _):
                self._running[id(job)] = _Row(job, frames)
            case JobProgress(job, done, expected):
                self._running[id(job)].take(done, expected)
                self._advance()
            case JobNotice(job, line):
                self._say(note, f"{job.name}: {line}")
            case JobOutcome(job, report, _):
                row = self._running.pop(id(job))
                self._ended += 1
                self._frames_ended += report.frames if report is not None else row.done
                self._end(event)
                self._advance()

    def _begin(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=cast(TextIO, Drawing()))
        if console.is_terminal:
            live = Live(console=console, auto_refresh=False, transient=True)
            self._live = self._stack.enter_context(live)

    def _end(self, outcome: JobOutcome) -> None:
        report, error = outcome.report, outcome.error
        if error is not None:
            self._say(report_error, f"{outcome.job.shown}: {error.fact}", error.advice)
        elif report is not None and report.frames and not report.kept_previous:
            self._say(say, _line(report))

    def _say(self, how: Callable[..., None], *lines: str) -> None:
        """Print above the table."""
        if self._live is None:
            how(*lines)
            return
        self._live.update("", refresh=True)
        self._live.stop()
        how(*lines)
        self._live.start()

    def _advance(self) -> None:
        done = self._frames_ended + sum(row.done for row in self._running.values())
        self._pace.advance(done, None)
        if self._live is None:
            if line := self._pace.report():
                note(f"{self._ended} of {self._jobs} inputs, {line}")
        elif time.monotonic() - self._drawn > _DRAWN_EVERY:
            self._drawn = time.monotonic()
            self._live.update(self._table(done), refresh=True)

    def _table(self, done: int) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        rows = list(self._running.values())
        for row in rows[:_ROWS]:
            count = f"{row.done}/{row.expected}" if row.expected else str(row.done)
            table.add_row(Text(shown(row.job.name)), ProgressBar(row.expected, row.done, width=30), Text(count))
        head = Text(f"{self._ended} of {self._jobs} inputs, {done} frames, {self._pace.status()}")
        more = [Text(f"and {len(rows) - _ROWS} more")] if len(rows) > _ROWS else []
        return Group(head, table, *more)


class _Row:
    """An input that is being translated."""

    def __init__(self, job: "Job", expected: int | None) -> None:
        self.job, self.done, self.expected = job, 0, expected

    def take(self, done: int, expected: int | None) -> None:
        self.done = done
        self.expected = max(done, expected) if expected else None


def _line(report: "JobReport") -> str:
    of = f"{report.frames} of {report.frames_expected or report.frames}"
    return f"{report.output}: {of} done in {report.seconds:.1f} s"
