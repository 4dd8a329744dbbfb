"""Joining the segments of a split job: the plain job, resumed when all its frames are done."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Codes, Frames, Pending
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator
from dsmap.runtime.jobs.packet_journal import PacketJournal, check_fingerprint
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import JobReport
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.resume import parts_folder
from dsmap.runtime.jobs.segments.plan import SegmentPlan
from dsmap.runtime.jobs.segments.results import SegmentResult, difference, remove_results
from dsmap.runtime.jobs.video import job_fingerprint, run_video_job
from dsmap.runtime.jobs.video_work import FinishedFrames
from dsmap.runtime.video.hardware import OFF, SOFTWARE

_AGAIN = "run the job again with --resume: only what is missing is translated"
_STAGES = ("decode_seconds", "translate_seconds", "finish_seconds", "encode_seconds")


def join_segments(
    request: VideoRequest,
    job: Job,
    plan: SegmentPlan,
    results: Sequence[SegmentResult],
    *,
    notify: Notify = lambda _line: None,
) -> JobReport:
    """Write the job's output: the frames of all segments, and the other streams of the input as the plain job does.

    `results`: of every segment, in any order. The output appears when it is complete; then the segments are removed.
    The report's stage times are those of all workers together. `notify` gets a line where frames of the input are
    damaged: how a decoder repairs them depends on the frames before, also of other segments.

    Raises DsmapError where a segment is missing or damaged, or was not decoded as the whole video would be; InputError
    where segments come from different jobs.
    """
    ordered = _checked(plan, results)
    first = ordered[0]
    options = replace(request.options, resume=True, hwaccel=OFF)
    own = job_fingerprint(Path(job.source), request.options, {}, SOFTWARE)
    made_with = {key: value for key, value in first.fingerprint.items() if key not in own}
    for one in ordered:
        check_fingerprint(one.fingerprint, {**own, **made_with}, first.folder.parent)
    _fill_journal(job, {**own, **made_with}, ordered)
    if any(one.damaged for one in ordered):
        notify(f"{job.source} is damaged: frames that are repaired may look otherwise than without segments")
    finished = _finished(ordered)
    report = run_video_job(
        job.source, job.output, _AllDone(), options, made_with=made_with, notify=notify, finished=finished
    )
    if not report.interrupted:
        remove_results(first.folder)
    return _with_workers(report, ordered)


def _checked(plan: SegmentPlan, results: Sequence[SegmentResult]) -> list[SegmentResult]:
    """The results in order, each of them whole. Raises DsmapError."""
    by_index = {result.index: result for result in results if not result.interrupted}
    missing = [segment.index for segment in plan.segments if segment.index not in by_index]
    if missing or not plan.segments:
        raise DsmapError(f"segments are missing: {', '.join(map(str, missing)) or 'all'}", _AGAIN)
    ordered = [by_index[segment.index] for segment in plan.segments]
    for segment, one in zip(plan.segments, ordered, strict=True):
        if (segment.begin, segment.end) != (one.begin, one.end):
            raise DsmapError(f"segment {one.index} is of another plan", _AGAIN)
        if (damage := one.damage()) is not None:
            raise DsmapError(f"segment {one.index} ({one.part[0]}) {damage}", _AGAIN)
    for before, after in pairwise(ordered):
        if found := difference(before, after):
            raise DsmapError(f"the segments do not fit together: {found}", "translate this video on one machine")
    return ordered


def _fill_journal(job: Job, fingerprint: Mapping[str, Any], ordered: Sequence[SegmentResult]) -> None:
    folder = parts_folder(job.output)
    journal = PacketJournal.open(folder, fingerprint)
    try:
        for one in ordered:
            journal.check_encoder(one.encoder)
        journal.adopt([one.part for one in ordered], ordered[0].encoder)
    except OSError as error:
        raise DsmapError(f"cannot write into {folder}: {error.strerror or error}", "check the disk") from error
    finally:
        journal.close()


def _finished(ordered: Sequence[SegmentResult]) -> FinishedFrames:
    changes = sum(before.shapes[1] != after.shapes[0] for before, after in pairwise(ordered))
    return FinishedFrames(
        frames=sum(one.frames for one in ordered),
        failed_packets=sum(int(one.report["failed_packets"]) for one in ordered),
        size_changes=changes + sum(int(one.report["size_changes"]) for one in ordered),
    )


def _with_workers(report: JobReport, ordered: Sequence[SegmentResult]) -> JobReport:
    """The report with what the workers did."""
    now = [one for one in ordered if not one.was_done]
    times = {name: getattr(report, name) + sum(one.report.get(name, 0.0) for one in now) for name in _STAGES}
    decoder = str(ordered[-1].report.get("decoder", report.decoder))
    before = sum(one.frames for one in ordered if one.was_done)
    return replace(report, resumed_frames=before, decoder=decoder, **times)


class _AllDone(FrameTranslator):
    """Translates nothing: the segments have every frame."""

    def submit(self, frames_rgb: Frames, style: Codes | None = None, at: ClipTime = FIRST_FRAME) -> Pending:
        """Raises DsmapError."""
        raise DsmapError("the segments have fewer frames than the input", "translate this video on one machine")
