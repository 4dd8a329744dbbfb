"""Counting frames: how many a video should have, and how many are missing."""

from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.container import InputContainer
from av.video.stream import VideoStream

BROADCAST_FORMATS = ("mpegts", "mpeg")
"""Broadcast recordings: their clock begins anywhere, and may jump."""
# Containers whose header promises a duration, so that a missing end can be noticed.
_FORMATS_WITH_DURATION = ("matroska", "flv", "avi")
_FORMATS_WITH_END = ("matroska", "flv", "asf", "nut")  # counted from 0, wherever the first packet is
_HIGHEST_RATE = Fraction(240)
_NO_TIMESTAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS
_MIN_BYTES_PER_SECOND = 1000
_UNNOTICED_LOSS = Fraction(1, 2)  # seconds; durations in headers are not that exact


def frame_rate(stream: VideoStream) -> Fraction:
    """Approximate frames per second: for estimates and rate control, never for timestamps."""
    rates = [stream.average_rate, stream.guessed_rate]
    if stream.container.format.flags & _NO_TIMESTAMPS:  # a raw stream: libav says 25, and guesses by what it holds
        rates.reverse()
    known = [rate for rate in rates if rate]  # a Matroska whose header has none averages 30000, for example
    rate: Fraction = next((rate for rate in known if rate <= _HIGHEST_RATE), known[0] if known else Fraction(25))
    return min(max(rate, Fraction(1)), _HIGHEST_RATE).limit_denominator(100_000)


def has_index(container: InputContainer) -> bool:
    """Whether the file lists all its packets, as mp4 and mov do."""
    return "mp4" in container.format.name


def video_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """End of the video in seconds on the file's clock; None when unknown."""
    if stream.duration and stream.time_base:
        begin = (stream.start_time or 0) * stream.time_base
        return begin + _length_from(container, begin, stream.duration * stream.time_base)
    length = _length(container)
    return None if length is None else clock_start(container) + length


def clock_start(container: InputContainer) -> Fraction:
    """Start of the file's clock, in seconds: hours, perhaps, in a recording of a running stream."""
    return Fraction(container.start_time or 0, av.time_base)


def _length(container: InputContainer) -> Fraction | None:
    """Seconds from the first packet to the end of the last; None when unknown."""
    if container.duration is None:
        return None
    return _length_from(container, clock_start(container), Fraction(container.duration, av.time_base))


def _is_incredible(container: InputContainer, length: Fraction) -> bool:
    """Whether a recording is too small for its length, as its clock jumps ahead somewhere."""
    return container.format.name in BROADCAST_FORMATS and 0 < container.size < _MIN_BYTES_PER_SECOND * length


def _length_from(container: InputContainer, start: Fraction, duration: Fraction) -> Fraction:
    return duration - start if _gives_end(container) and 0 < start < duration else duration


def _gives_end(container: InputContainer) -> bool:
    """Whether the container's duration is counted from 0, as in single fragments of an mp4."""
    if has_index(container):
        return not any(video.frames for video in container.streams.video)
    return container.format.name.startswith(_FORMATS_WITH_END)


def total_frames(container: InputContainer, video: VideoStream, rate: Fraction) -> int | None:
    """Frames in the whole file: exact for mp4 and mov, an estimate elsewhere, None when unknown."""
    if has_index(container) and video.frames > 0:
        return sum(not entry.is_discard for entry in video.index_entries) or None
    if video.frames:
        return video.frames
    length = _length(container)
    if length is None or _is_incredible(container, length):
        return None
    return max(1, round(length * rate))


def missing_frames(
    container: InputContainer, video: VideoStream, rate: Fraction, *, read: int | None, size: int | None, end: Fraction
) -> int:
    """Frames that the header promises but that were missing, once everything has been read.

    `read`: video packets read, None when reading did not start at the beginning. `size`: of the file in bytes, None
    when unknown. `end`: of the last packet, in seconds.
    """
    if has_index(container):
        entries = video.index_entries
        beyond_the_end = sum(size is not None and entry.pos + entry.size > size for entry in entries)
        return max(beyond_the_end, 0 if read is None else len(entries) - read)
    length = _length(container)
    if length is None or not container.format.name.startswith(_FORMATS_WITH_DURATION):
        return 0
    lost = clock_start(container) + length - end
    return round(lost * rate) if lost > _UNNOTICED_LOSS else 0
