"""The process of one video job: gets it from stdin, and says on stdout what happens, a line of JSON for each event.

It ends when its stdin does: the server is gone.
"""

import contextlib
import json
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from dsmap.common.images import image_size, kind_of
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.batch import run_request
from dsmap.runtime.jobs.batch_report import BatchEvent, JobNotice, JobOutcome, JobProgress, JobStarted, ModelLoaded
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.video_plan import check_video_job, open_source
from dsmap.runtime.serve.job_order import JobOrder
from dsmap.runtime.serve.request import ServeLimits
from dsmap.runtime.video.media import allow_only, open_file

FORMATS = frozenset({"mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "nut"})
"""Containers that are opened: what people have, and nothing that can name another file."""

_REPORT_SECONDS = 0.1  # between two lines about progress
_GRACE = 5.0  # seconds from the server's end to ours


def main() -> None:
    """Entry point."""
    out = _own_stdout()
    order: JobOrder = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    [job] = order.request.jobs
    reporter = JobReporter(out, order.limits, job.output.parent)
    try:
        check_source(Path(job.source), order.limits)
        check_frame_size(order)
        batch = run_request(_with_sound_that_fits(order), reporter.hear)
        reporter.say(report=_report(batch.outcomes[0], dict(batch.facts)))
    except DsmapError as error:
        reporter.say(error={"fact": error.fact, "advice": error.advice})
    except MemoryError:
        reporter.say(error={"fact": "there is not enough memory", "advice": "Pass a smaller height."})


class JobReporter:
    """Says what happens on `out`, in the words of the API and without the names of files in `folder`."""

    def __init__(self, out: BinaryIO, limits: ServeLimits, folder: Path) -> None:
        self._out, self._limits, self._folder = out, limits, folder
        self._said = 0.0

    def say(self, **event: Any) -> None:
        """One line."""
        self._out.write(json.dumps(_each_text(event, self._in_our_words)).encode() + b"\n")
        self._out.flush()

    def hear(self, event: BatchEvent) -> None:
        """For `run_request`. Raises InputError for a video with more frames than allowed."""
        if isinstance(event, JobStarted):
            self.say(progress=[0, event.frames])
        elif isinstance(event, ModelLoaded):
            for line in event.lines[1:]:
                self.say(note=line.strip())
        elif isinstance(event, JobNotice):
            self.say(note=event.line)
        elif isinstance(event, JobProgress):
            check_frames_allowed(event.done, self._limits)
            if time.monotonic() - self._said > _REPORT_SECONDS or event.done == event.expected:
                self._said = time.monotonic()
                self.say(progress=[event.done, event.expected])

    def _in_our_words(self, text: str) -> str:
        """Messages are about options of a command; the fields of a request have the same names."""
        text = text.replace(f"{self._folder}{os.sep}video", "the upload").replace(f"{self._folder}{os.sep}", "")
        text = re.sub(r"-o result\.(\w+)", r"container=\1", text)
        text = re.sub(r"--?(audio) (\w+)", r"\1=\2", text)
        return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda match: match[1].replace("-", "_"), text)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text in it changed, but not the names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(one, change) for key, one in value.items()}
    return [_each_text(one, change) for one in value] if isinstance(value, list | tuple) else value


def _with_sound_that_fits(order: JobOrder) -> VideoRequest:
    """The request; its sound is re-encoded where that is allowed and makes it possible."""
    request = order.request
    [job] = request.jobs
    if not order.convert_audio:
        return request
    converting = replace(request.options, audio="convert")
    try:
        check_video_job(job.source, job.output, request.options)
    except InputError as error:
        with contextlib.suppress(InputError):
            check_video_job(job.source, job.output, converting)
            return replace(request, options=converting)
        raise error
    return request


def check_source(source: Path, limits: ServeLimits) -> None:
    """Narrows what this process opens, and checks the video's announced size. Raises InputError."""
    allow_only(FORMATS, pixels=limits.pixels)
    kind = kind_of(source)
    if kind is not None and kind.role in ("image", "unread"):
        raise InputError(f"the upload is an image ({kind.format})", "Send it to /v1/images.")
    if kind is not None and kind.role == "animation":
        _check_pixels(image_size(source) or (0, 0), limits)
        return
    with open_file(source) as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                _check_pixels((stream.codec_context.width, stream.codec_context.height), limits)
        seconds = (container.duration or 0) / 1_000_000
        if seconds > limits.video_seconds:
            raise InputError(
                f"the video is {seconds:.0f} seconds long, expected at most {limits.video_seconds:.0f}", "Cut it first."
            )
        check_frames_allowed(max((stream.frames for stream in container.streams.video), default=0), limits)


def check_frame_size(order: JobOrder) -> None:
    """Checks the size of frames as they are shown, and as they are translated. Raises InputError."""
    [job], options, most = order.request.jobs, order.request.options, order.limits.pixels
    with open_source(job.source, options) as reader:
        _check_pixels((reader.width, reader.height), order.limits)
        width, height = options.size_inside(reader.width, reader.height)
    if width * height > most:
        raise InputError(
            f"at height={options.height} frames have {width}x{height} pixels, expected at most {most / 1e6:g} million",
            "Pass a smaller height.",
        )


def check_frames_allowed(frames: int, limits: ServeLimits) -> None:
    """Raises InputError."""
    if frames > limits.video_frames:
        raise InputError(f"the video has more frames than the server takes ({limits.video_frames})", "Cut it first.")


def _check_pixels(size: tuple[int, int], limits: ServeLimits) -> None:
    if size[0] * size[1] > limits.pixels:
        raise InputError(
            f"the video's frames have {size[0]}x{size[1]} pixels, expected at most {limits.pixels / 1e6:g} million",
            "Scale it down first.",
        )


def _report(outcome: JobOutcome, facts: dict[str, Any]) -> dict[str, Any]:
    """The report without the names of files on the server."""
    return facts | {key: value for key, value in outcome.as_dict().items() if key not in ("input", "output")}


def _own_stdout() -> BinaryIO:
    """Where events go; what libraries print goes to stderr."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


def _end_with_the_server() -> None:
    while os.read(0, 1 << 10):  # unbuffered: a lock would be in the way when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
