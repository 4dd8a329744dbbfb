"""Checks of requests with `-`: a video from standard input, to standard output, or both.

A pipe is read and written once, from beginning to end: what needs more than that is refused.
"""

from collections.abc import Sequence
from pathlib import Path

from dsmap.errors import InputError
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import InputFacts
from dsmap.runtime.jobs.video_plan import check_video_name
from dsmap.runtime.video.pipes import INPUT_NAME, OUTPUT_NAME, claim_input, claim_output, is_piped_in, is_piped_out
from dsmap.runtime.video.sequence_writer import is_sequence


def check_pipes(sources: Sequence[str], output: Path | None, options: VideoOptions) -> None:
    """Raises InputError for what does not go together with a pipe among the sources, or as the output.

    From here on, standard input and output belong to the video alone.
    """
    if any(is_piped_in(source) for source in sources):
        _check_input(sources, output, options)
    if output is not None and is_piped_out(output):
        _check_output(sources, options)


def check_piped_job(job: Job, options: VideoOptions) -> InputFacts:
    """As `check_video_job`, for a video from standard input, which is not opened: it can be read only once."""
    if not is_sequence(job.output):
        check_video_name(job.output, job.source, options)
    return InputFacts(width=0, height=0, frames=None)


def _check_input(sources: Sequence[str], output: Path | None, options: VideoOptions) -> None:
    if len(sources) > 1:
        raise InputError(
            f"- is {INPUT_NAME}, and there are {len(sources)} inputs", "pipe one video in, and name no other"
        )
    if output is None:
        raise InputError(
            f"a video from {INPUT_NAME} needs a name for its result", "pass -o FILE, or -o - to pipe it on"
        )
    _refuse(INPUT_NAME, {"--start": options.start is not None, "--resume": options.resume})
    claim_input()


def _check_output(sources: Sequence[str], options: VideoOptions) -> None:
    if len(sources) > 1:
        raise InputError(f"-o - is {OUTPUT_NAME}, and there are {len(sources)} inputs", "name a folder with -o")
    _refuse(OUTPUT_NAME, {"--overwrite": options.overwrite, "--resume": options.resume})
    claim_output()


def check_piped_jobs(jobs: Sequence[Job], output: Path | None) -> None:
    """Raises InputError where what was asked to go to standard output is not one video."""
    if output is not None and is_piped_out(output) and (len(jobs) > 1 or jobs[0].kind != "video"):
        raise InputError(f"{OUTPUT_NAME} takes one video, and the input is something else", "name the result with -o")


def _refuse(name: str, options: dict[str, bool]) -> None:
    if given := next((option for option, passed in options.items() if passed), None):
        raise InputError(f"{given} does not go with {name}", "leave it out")
