"""Reads a video: upright RGB frames with repaired timestamps, and audio packets untouched, in file order."""

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dsmap.errors import InputError
from dsmap.runtime.video_frames import FrameToRgb, orientation, size_at_height

# Text files "decode" as ANSI art, and single pictures as one-frame videos.
_NOT_VIDEO_FORMATS = ("tty", "bin", "xbin", "adf", "idf")
# Containers whose header promises a duration, so that a missing end can be noticed.
_FORMATS_WITH_DURATION = ("matroska", "flv", "avi")
_MAX_READ_FAILURES = 16  # in a row; then the rest of the file counts as lost
_UNNOTICED_LOSS = Fraction(1, 2)  # seconds; durations in headers are not that exact
_FAR_START = Fraction(10)  # seconds; broadcast clocks start anywhere


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: `rgb` uint8 (H, W, 3); `pts` and `duration` in the reader's `time_base` (duration 0: unknown).

    `pts` is strictly greater than that of the frame before.
    """

    rgb: npt.NDArray[np.uint8]
    pts: int
    duration: int


class VideoReader:
    """Opens `path` and decodes its first frame, so that every later surprise is about single packets.

    `height` scales the frames to that many lines, aspect kept, width even. Iterate once over `Frame`s and audio
    `Packet`s (time base of their stream, timestamps as in the file). Raises InputError when there is no video in
    the file, or not one frame of it decodes.

    `failed_packets` counts video packets that did not decode, `missing_frames` those that the header promises and
    the file does not hold (both final after the iteration).
    """

    def __init__(self, path: str | Path, *, height: int | None = None) -> None:
        self.path = Path(path)
        self.failed_packets = 0
        self.missing_frames = 0
        self._container = _open(self.path)
        try:
            self._video = _video_stream(self._container, self.path)
            self.audio: tuple[AudioStream, ...] = self._container.streams.audio
            self._prepare(height)
        except BaseException:
            self._container.close()
            raise

    def _prepare(self, height: int | None) -> None:
        self._video.thread_type = "AUTO"
        self.time_base = self._video.time_base or Fraction(1, 90000)
        self.rate = _rate(self._video)
        self._clock = _Clock(self.time_base, self.rate)
        self._packets_read = 0
        self._started = False
        self._last_end = Fraction(0)
        self._decoded = self._decode()
        self._buffered: list[VideoFrame | Packet] = []  # what precedes the first frame: usually some audio packets
        first = self._first_frame()
        turn = orientation(first)
        self.width, self.height = size_at_height(*turn.size(first.width, first.height), height)
        aspect = self._video.sample_aspect_ratio or Fraction(1)
        self.sample_aspect = 1 / aspect if turn.swap else aspect
        self._to_rgb = FrameToRgb(self.width, self.height, turn)
        self._shift = self._start_shift(first)
        self.expected_frames = self._expected_frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._decoded.close()
        self._container.close()

    @property
    def metadata(self) -> dict[str, str]:
        """The container's metadata (title and the like)."""
        return dict(self._container.metadata)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Kinds of the streams that are neither read nor copied: subtitle, attachment, data, a second video."""
        carried = {self._video.index, *(stream.index for stream in self.audio)}
        return tuple(stream.type for stream in self._container.streams if stream.index not in carried)

    @property
    def video_metadata(self) -> dict[str, str]:
        """The video stream's metadata (language and the like)."""
        return dict(self._video.metadata)

    def __iter__(self) -> Iterator[Frame | Packet]:
        while self._buffered:
            yield self._finished(self._buffered.pop(0))
        for item in self._decoded:
            yield self._finished(item)
        self.missing_frames = self._count_missing()

    def _finished(self, item: VideoFrame | Packet) -> Frame | Packet:
        if isinstance(item, VideoFrame):
            pts = item.pts if item.pts is not None else item.dts
            shifted = None if pts is None else pts + round(self._shift / self.time_base)
            return Frame(self._to_rgb(item), self._clock.next(shifted, item.duration or 0), item.duration or 0)
        if self._shift:
            ticks = round(self._shift / item.time_base)
            item.pts = None if item.pts is None else item.pts + ticks
            item.dts = None if item.dts is None else item.dts + ticks
        return item

    def _first_frame(self) -> VideoFrame:
        for item in self._decoded:
            self._buffered.append(item)
            if isinstance(item, VideoFrame):
                return item
        raise InputError(
            f"{self.path} has a video stream, but no frame of it can be decoded",
            "check that the file plays and is whole; download or record it again",
        )

    def _decode(self) -> Generator[VideoFrame | Packet, None, None]:
        for packet in self._packets():
            if packet.stream.index == self._video.index:
                self._packets_read += packet.size > 0
                self._started |= packet.is_keyframe
                yield from self._decode_packet(packet)
            elif packet.stream.type == "audio" and packet.size > 0:
                yield packet

    def _decode_packet(self, packet: Packet) -> list[VideoFrame]:
        for _ in range(_MAX_READ_FAILURES):
            try:
                return list(packet.decode())
            except av.error.EOFError:
                return []
            except av.FFmpegError:
                self.failed_packets += self._started  # recordings may start between keyframes: no player shows that
                if packet.size > 0:
                    return []  # the decoder goes on with the next packet; a flush is tried again
        return []

    def _packets(self) -> Iterator[Packet]:
        """All packets of all streams; reading goes on after an error while anything comes."""
        failures = 0
        while failures < _MAX_READ_FAILURES:
            try:
                for packet in self._container.demux():
                    failures = 0
                    self._note_end(packet)
                    yield packet
                return
            except av.FFmpegError:
                failures += 1
                self.failed_packets += failures == 1
        flush = Packet()  # reading gave up: take what is still in the decoder
        flush.stream = self._video
        yield flush

    def _note_end(self, packet: Packet) -> None:
        if packet.pts is not None:
            self._last_end = max(self._last_end, (packet.pts + (packet.duration or 0)) * packet.time_base)

    def _start_shift(self, first: VideoFrame) -> Fraction:
        """Seconds to add to all timestamps of all streams: 0, but for starts that an mp4 cannot show."""
        start = (first.pts or 0) * self.time_base
        if start < 0:
            return -start
        if start > _FAR_START and self._container.format.name in ("mpegts", "mpeg"):
            return -Fraction(self._container.start_time or 0, av.time_base)
        return Fraction(0)

    @property
    def counts_exactly(self) -> bool:
        """Whether `expected_frames` is exact: mp4 and mov hold an index of all packets, unless fragmented."""
        return self._has_index and self._video.frames > 0

    @property
    def _has_index(self) -> bool:
        return "mp4" in self._container.format.name

    def _expected_frames(self) -> int | None:
        """Frames that the whole file would give: exact for mp4 and mov, an estimate elsewhere, None when unknown."""
        if self.counts_exactly:
            return sum(not entry.is_discard for entry in self._video.index_entries) or None
        if self._video.frames:
            return self._video.frames
        if self._container.duration is None:
            return None
        return max(1, round(Fraction(self._container.duration, av.time_base) * self.rate))

    def _count_missing(self) -> int:
        if self._has_index:
            entries, size = self._video.index_entries, self.path.stat().st_size
            beyond_the_end = sum(entry.pos + entry.size > size for entry in entries)
            return max(beyond_the_end, len(entries) - self._packets_read)
        if self._container.duration is None or not self._container.format.name.startswith(_FORMATS_WITH_DURATION):
            return 0
        start = Fraction(self._container.start_time or 0, av.time_base)
        lost = Fraction(self._container.duration, av.time_base) + start - self._last_end
        return round(lost * self.rate) if lost > _UNNOTICED_LOSS else 0


class _Clock:
    """Makes timestamps strictly increasing: missing and repeated ones are filled in, good ones kept as they are."""

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self._frame = max(1, round(1 / rate / time_base))
        self._second = round(1 / time_base)
        self._last: int | None = None

    def next(self, pts: int | None, duration: int) -> int:
        """The timestamp for a frame that says `pts`; all in ticks."""
        last, frame = self._last, duration or self._frame
        if last is None:
            pts = pts or 0
        elif pts is None or last - pts > self._second:  # the clock jumped back: go on at the frame rate
            pts = last + frame
        elif pts <= last:
            pts = last + 1  # so that the frames after it can keep theirs
        self._last = pts
        return pts


def _open(path: Path) -> InputContainer:
    av.logging.set_libav_level(av.logging.PANIC)  # we report failures ourselves
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the spelling and the folder")
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name a video file")
    try:
        # An absolute path: FFmpeg would take "12:30.mp4" for a protocol.
        return av.open(str(path.absolute()), metadata_errors="replace")
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied", "check the file's permissions") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        if _lacks_index(path):
            raise InputError(
                f"{path} is cut off: its index (moov), which stands at the end, is missing",
                "copy or download the whole file again; a recording that broke off needs a repair tool",
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} is not a video: {reason}", "pass a video file (mp4, mkv, mov, webm, ...)") from error


def _lacks_index(path: Path) -> bool:
    """Whether the file begins as an mp4 or mov and has no `moov` box."""
    with path.open("rb") as stream:
        if stream.read(8)[4:] != b"ftyp":
            return False
        end = stream.seek(0, os.SEEK_END)
        at = 0
        while at + 8 <= end:
            stream.seek(at)
            header = stream.read(16)
            if header[4:8] == b"moov":
                return False
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the real one stands behind the name
                size = int.from_bytes(header[8:16], "big")
            if size < 8:  # 0: up to the end of the file
                break
            at += size
    return True


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or container.format.name in _NOT_VIDEO_FORMATS:
        held = ", ".join(sorted({s.type for s in container.streams})) if not streams else container.format.long_name
        raise InputError(f"{path} holds no video (found: {held or 'nothing'})", "pass a file with a video stream")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise InputError(f"{path}: its video codec is unknown here", "convert the video to H.264 first")
    return stream


def _rate(stream: VideoStream) -> Fraction:
    """Frames per second, about: for estimates and the encoder's rate control, never for timestamps."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return min(max(rate, Fraction(1)), Fraction(240)).limit_denominator(100_000)
