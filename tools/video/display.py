"""Display of `dsmap-video`: a progress bar and a result for each job, and what is missing at the end."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dsmap.common.images import left_out_line
from dsmap.common.interrupts import stopped_by
from dsmap.runtime.jobs.batch_report import (
    BatchEvent,
    BatchReport,
    JobNotice,
    JobOutcome,
    JobProgress,
    JobSkipped,
    JobStarted,
    ModelLoaded,
)
from dsmap.tools.shared.progress import Bar, bar
from dsmap.tools.shared.terminal import note, report_error, report_stop, say
from dsmap.tools.video.pace import Pace, rate

if TYPE_CHECKING:
    from dsmap.runtime.jobs.report import JobReport
    from dsmap.runtime.jobs.request import VideoRequest


_LONG_ENOUGH = 48  # frames, of a video whose flicker is worth a word


class Display:
    """Shows the events of a run. A context manager, so that the bar disappears however the run ends."""

    def __init__(self, request: "VideoRequest", *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._several = len(request.jobs) > 1
        self._stabilized = request.model.stabilize
        # Who passes --refine off wants the full size, or has chosen a height.
        self._may_shrink = request.options.refine != "off"
        self._pace = Pace(None)
        self._stack = ExitStack()
        self._bar: Bar | None = None
        for folder, kinds in request.files_left_out.items():
            say(left_out_line(tuple(kinds.items()), Path(folder)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def show(self, event: BatchEvent) -> None:
        """Print what there is to say about `event`, or move the bar."""
        match event:
            case JobSkipped(job):
                kept = f"{job.output} exists and is kept; its options were not compared."
                say(f"{kept} Pass --overwrite to make it again.")
            case ModelLoaded(lines, details):
                say(*lines, *(details if self._verbose else ()))
            case JobStarted(job, frames, lines, columns):
                self._pace = Pace(lines, columns=columns, may_shrink=self._may_shrink)
                self._begin(job.name if self._several else "", frames)
            case JobProgress(_, done, expected):
                self._advance(done, expected)
            case JobNotice(_, line):
                note(line)
            case JobOutcome(job, report, error):
                self._stack.close()
                if report is not None:
                    _show_report(report)
                    if job.kind == "video" and self._may_flicker(report):
                        note("--stabilize reduces flicker, for a few percent more time")
                elif error is not None:
                    report_error(f"{job.shown}: {error.fact}", error.advice)

    def _may_flicker(self, report: "JobReport") -> bool:
        return report.complete and report.frames >= _LONG_ENOUGH and not (self._stabilized or self._several)

    def _begin(self, name: str, frames: int | None) -> None:
        """A bar with frames per second and the time left; where the output is not a terminal, a line now and then."""
        self._bar = self._stack.enter_context(bar(title=bool(name), text=True, clock="none"))
        if self._bar is not None:
            self._bar.begin(name, total=frames, text="- fps")

    def _advance(self, done: int, expected: int | None) -> None:
        self._pace.advance(done, expected)
        if line := self._pace.advice():
            note(line)
        if self._bar is not None:
            self._bar.update(done, total=max(done, expected) if expected else None, text=self._pace.status())
        elif line := self._pace.report():
            note(line)


def show_conclusion(batch: BatchReport) -> None:
    """Say how many inputs are done, and what is missing in the results."""
    if batch.planned > 1:
        say(f"{sum(outcome.complete for outcome in batch.outcomes)} of {batch.planned} inputs done")
    cut_off = [outcome.report for outcome in batch.outcomes if outcome.report and not outcome.report.complete]
    for report in cut_off:
        _show_what_is_missing(report)
    if batch.interrupted and not any(report.interrupted for report in cut_off):
        others = "the other inputs were not begun: run the same command with --resume to continue"
        report_stop(stopped_by(), others if batch.outcomes else "no frame was done, and nothing was written")


def _show_report(report: "JobReport") -> None:
    if report.frames and not report.kept_previous:
        size = ", {}x{}".format(*report.result_size) if report.result_size else ""
        say(
            f"{report.output}: {report.frames} of {report.frames_expected or report.frames} done in"
            f" {report.seconds:.1f} s ({rate(report.fps)} per second){size}"
        )
    for line in report.notes if report.frames_expected != 1 else ():  # of a single image they were shown before
        say(f"  {line}")


def _show_what_is_missing(report: "JobReport") -> None:
    if report.frames == 0 and report.interrupted:
        report_stop(stopped_by(), "no frame was done, and nothing was written")
    elif report.kept_previous:
        fact = f"{report.output} is still the earlier result, and what was done is kept"
        report_stop(stopped_by(), f"{fact}: run the same command with --resume to continue")
    elif report.interrupted and report.resumable and not report.output.exists():
        report_stop(stopped_by(), "what was done is kept: run the same command with --resume to continue")
    elif report.interrupted:
        again = "; run the same command with --resume to continue" if report.resumable else ""
        report_stop(stopped_by(), f"what was done is in {report.output}{again}")
    elif report.failed:
        report_error(
            f"{len(report.failed)} of {report.frames_expected} images could not be translated:",
            "replace or remove them and run again",
            *report.failed,
        )
    elif report.broken_off:
        report_error(report.broken_off, f"{report.output} holds the {report.frames} frames that came")
    elif report.codec_change is not None:
        before, after = report.codec_change
        report_error(
            f"the video changes from {before} to {after}: {report.frames} of about {report.frames_expected} frames were"
            " translated",
            f"{report.output} holds what comes before; cut the recording in two there, and translate the parts",
        )
    elif report.dropped_packets and report.frames == report.frames_expected:
        report_error(
            f"the input is damaged: {report.dropped_packets} packets of its sound or subtitles could not be copied",
            f"{report.output} holds the rest and plays; get an intact copy of the input for them",
        )
    else:
        report_error(
            f"the input is damaged or cut off: {report.frames} of {report.frames_expected} frames could be translated",
            f"{report.output} holds them and plays; get an intact copy of the input for the rest",
        )
