"""Beginning a split job, and finding what an earlier run of it has finished."""

import contextlib
from pathlib import Path

from dsmap.common.state_files import lock_folder
from dsmap.errors import DsmapError
from dsmap.runtime.jobs.packet_journal import check_fingerprint
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.resume import discard_parts, parts_folder, segments_folder
from dsmap.runtime.jobs.segments_plan import SegmentPlan
from dsmap.runtime.jobs.segments_store import SegmentResult, note_path, read_result
from dsmap.runtime.jobs.video import job_fingerprint
from dsmap.runtime.video.hardware import SOFTWARE


def begin_segments(request: VideoRequest, job: Job) -> Path:
    """Makes the folder for the segments, once for all workers, and returns it.

    What an earlier run left is thrown away, unless the request is to resume. Raises DsmapError where it cannot be made,
    InputError while another process is working there.
    """
    folder = segments_folder(job.output)
    if not request.options.resume:
        discard_parts(job.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsmapError(f"cannot write into {folder}: {error.strerror or error}", "check the disk") from error
    return folder


def hold_segments(output: Path) -> contextlib.ExitStack:
    """Keeps other jobs away from the folder of the split job that writes `output`, until it is closed or the process
    ends: one for all its workers, until its segments are joined, which is a job that holds the folder itself.

    Raises InputError while another process is working there, DsmapError where it cannot be made.
    """
    folder = parts_folder(output)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DsmapError(f"cannot write into {folder}: {error.strerror or error}", "check the disk") from error
    held = contextlib.ExitStack()
    held.enter_context(lock_folder(folder))
    return held


def finished_segments(request: VideoRequest, job: Job, plan: SegmentPlan, folder: Path) -> tuple[SegmentResult, ...]:
    """The segments of the plan that are done and whole, in order; their files are read.

    Raises InputError where they were made with other options, as far as that shows without the model.
    """
    options, model, style = request.options, request.model, request.style
    now = job_fingerprint(Path(job.source), options, {}, SOFTWARE) | {
        "model": request.bundle.fingerprint,
        "--domain": model.domain,
        "--strength": model.strength,
        "--stabilize": model.stabilize,
        "style over time": str(style.path) if style.path else None,
    }
    found = []
    for segment in plan.segments:
        result = read_result(note_path(folder, segment.index, segment.begin, segment.end))
        if result is None or result.damage() is not None:
            continue
        before = {key: result.fingerprint.get(key) for key in now}
        written = {"--style": result.fingerprint.get("style as written")}
        check_fingerprint(before | written, now | {"--style": str(style)}, folder.parent)
        found.append(result)
    return tuple(found)
