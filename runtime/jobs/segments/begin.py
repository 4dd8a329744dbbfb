"""Beginning a split job, and keeping others away from it."""

import contextlib
from pathlib import Path

from dsmap.common.state_files import lock_folder
from dsmap.errors import DsmapError
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.resume import discard_parts, parts_folder, segments_folder


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
