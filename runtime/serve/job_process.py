"""The process of one video job: gets it from stdin, and says on stdout what happens, a line of JSON for each event.

It ends when its stdin does: the server is gone.
"""

import json
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from dsmap.common.images import image_size, kind_of
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.batch import run_request
from dsmap.runtime.jobs.batch_report import BatchEvent, JobNotice, JobOutcome, JobProgress, JobStarted, ModelLoaded
from dsmap.runtime.serve.request import ServeLimits
from dsmap.runtime.video.media import allow_only, open_file

FORMATS = frozenset({"mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "nut"})
"""Containers that are opened: what people have, and nothing that can name another file."""

_REPORT_SECONDS = 0.1  # between two lines about progress
_GRACE = 5.0  # seconds from the server's end to ours


def main() -> None:
    """Entry point."""
    out = _own_stdout()
    request, limits = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    reporter = JobReporter(out, limits)
    try:
        check_source(Path(request.jobs[0].source), limits)
        batch = run_request(request, reporter.hear)
        reporter.say(report=_report(batch.outcomes[0], dict(batch.facts)))
    except DsmapError as error:
        source, output = request.jobs[0].source, request.jobs[0].output
        fact = error.fact.replace(str(source), "the video").replace(str(output), "the result")
        reporter.say(error={"fact": fact, "advice": _in_our_words(error.advice)})
    except MemoryError:
        reporter.say(error={"fact": "there is not enough memory", "advice": "Pass a smaller height."})


class JobReporter:
    """Says what happens on `out`."""

    def __init__(self, out: BinaryIO, limits: ServeLimits) -> None:
        self._out, self._limits = out, limits
        self._said = 0.0

    def say(self, **event: Any) -> None:
        """One line."""
        self._out.write(json.dumps(event).encode() + b"\n")
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


def _in_our_words(advice: str) -> str:
    """Advice is about options of a command; the fields of a request have the same names."""
    return advice.replace("--audio convert", "audio=convert").replace("--", "")


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
