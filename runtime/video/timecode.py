"""Timecodes (01:02:03:04): reading them from a container, and moving them to another frame."""

import re
from dataclasses import dataclass
from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from dsmap.runtime.video.frame_count import frame_rate

_TIMECODE = re.compile(r"(\d\d):([0-5]\d):([0-5]\d)([:;.])(\d\d)")
_DAY = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Timecode:
    """What becomes of a video's timecode."""

    kept: str | None = None
    """Timecode of the first frame."""
    note: str = ""
    """For the user: why the result has none although the file has one."""


def timecode_of(container: InputContainer, stream: VideoStream, later: Fraction) -> Timecode:
    """The timecode of the frame `later` seconds after the beginning of the video."""
    rate = frame_rate(stream)
    for metadata in (stream.metadata, container.metadata):
        text = next((value.strip() for key, value in metadata.items() if key.lower() == "timecode"), None)
        if text is not None:
            moved = moved_timecode(text, later, rate)
            note = f"its timecode ({text}) is left out: it is not valid at {float(rate):.5g} frames per second"
            return Timecode(kept=moved, note="" if moved else note)
    return Timecode()


def video_start(stream: VideoStream) -> Fraction:
    """Start of the video, seconds on the file's clock."""
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


def is_timecode(stream: Stream) -> bool:
    """Whether this is the track in which mov and mp4 store timecodes."""
    return stream.type == "data" and "timecode" in stream.metadata


def moved_timecode(text: str, seconds: Fraction, rate: Fraction) -> str | None:
    """The timecode `seconds` after `text` at `rate` frames per second; None if `text` is not valid at that rate."""
    match = _TIMECODE.fullmatch(text)
    if match is None:
        return None
    hours, minutes, whole, frames = (int(match[number]) for number in (1, 2, 3, 5))
    each, drops = round(rate), match[4] != ":"
    # Drop-frame skips numbers, two per minute for each 30, so that 30000/1001 keeps step with the clock.
    dropped = each // 30 * 2 if drops else 0
    if frames >= each or hours > 23 or (drops and (each % 30 or rate.denominator == 1)):
        return None
    past = hours * 60 + minutes
    count = ((past * 60 + whole) * each + frames) - dropped * (past - past // 10)
    count += round(seconds * rate)
    if dropped:
        tens, rest = divmod(count, 600 * each - 9 * dropped)
        count += 9 * dropped * tens
        if rest >= dropped:
            count += dropped * ((rest - dropped) // (60 * each - dropped))
    second, frame = divmod(count, each)
    second %= _DAY
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{match[4]}{frame:02}"
