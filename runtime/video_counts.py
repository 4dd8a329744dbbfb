"""How many frames a video should have, and how many of them are not there."""

from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.container import InputContainer
from av.video.stream import VideoStream

# Containers whose header promises a duration, so that a missing end can be noticed.
_FORMATS_WITH_DURATION = ("matroska", "flv", "avi")
_UNNOTICED_LOSS = Fraction(1, 2)  # seconds; durations in headers are not that exact


def rate_of(stream: VideoStream) -> Fraction:
    """Frames per second, about: for estimates and the encoder's rate control, never for timestamps."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return min(max(rate, Fraction(1)), Fraction(240)).limit_denominator(100_000)


def has_index(container: InputContainer) -> bool:
    """Whether the file lists all its packets, as mp4 and mov do."""
    return "mp4" in container.format.name


def end_of(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Where the video ends, seconds on the file's clock; None when it does not say."""
    if stream.duration and stream.time_base:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    if container.duration is None:
        return None
    return Fraction((container.start_time or 0) + container.duration, av.time_base)


def frames_of_the_whole(container: InputContainer, video: VideoStream, rate: Fraction) -> int | None:
    """Frames that the whole file would give: exact for mp4 and mov, an estimate elsewhere, None when unknown."""
    if has_index(container) and video.frames > 0:
        return sum(not entry.is_discard for entry in video.index_entries) or None
    if video.frames:
        return video.frames
    if container.duration is None:
        return None
    return max(1, round(Fraction(container.duration, av.time_base) * rate))


def missing_frames(
    container: InputContainer, video: VideoStream, rate: Fraction, *, read: int | None, size: int | None, end: Fraction
) -> int:
    """Frames that the header promises and that are not there, when all has been read.

    `read`: video packets that came, None when reading did not begin at the beginning. `size`: of the file in bytes,
    None when unknown. `end`: of the last packet, in seconds.
    """
    if has_index(container):
        entries = video.index_entries
        beyond_the_end = sum(size is not None and entry.pos + entry.size > size for entry in entries)
        return max(beyond_the_end, 0 if read is None else len(entries) - read)
    if container.duration is None or not container.format.name.startswith(_FORMATS_WITH_DURATION):
        return 0
    start = Fraction(container.start_time or 0, av.time_base)
    lost = Fraction(container.duration, av.time_base) + start - end
    return round(lost * rate) if lost > _UNNOTICED_LOSS else 0
