"""Reads a video: upright RGB frames with repaired timestamps, and the packets to copy untouched, in file order."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.video.addresses import NetworkSettings, is_address
from dsmap.runtime.video.colour_matrix import check_matrix
from dsmap.runtime.video.deinterlace import Deinterlacer
from dsmap.runtime.video.file_source import MAX_READ_FAILURES, FileSource
from dsmap.runtime.video.frame_count import (
    BROADCAST_FORMATS,
    end_of,
    frames_of_the_whole,
    has_index,
    missing_frames,
    rate_of,
)
from dsmap.runtime.video.frames import FrameToRgb, Pool, Residual, orientation, size_at_height
from dsmap.runtime.video.input_warnings import notes_on
from dsmap.runtime.video.network_source import NetworkSource
from dsmap.runtime.video.shown_size import ShownSize
from dsmap.runtime.video.stream import check_size, delay_of_reordering, has_decoding_times_only
from dsmap.runtime.video.stream_choice import StreamChoice
from dsmap.runtime.video.stream_side_data import stream_side_data
from dsmap.runtime.video.timecode import start_of_stream, timecode_of
from dsmap.runtime.video.timeline import Timeline
from dsmap.runtime.video.timestamps import LONGEST_GAP
from dsmap.runtime.video.timestamps import Clock as _Clock
from dsmap.runtime.video.trim import (
    Seconds,
    SpanCutter,
    cut_chapters,
    cut_packet,
    is_cover,
    span_of,
    streams_to_wait_for,
)

if TYPE_CHECKING:  # it stands in PyAV's type hints only
    from av.container.core import Chapter

_BROADCAST_GAP = 10  # seconds: beyond that, it is another recording's clock (FFmpeg's limit too)
_BROADCAST_WRAP = 2**33 / 90_000
_SEEKS_BADLY = ("mpeg",)  # its frames get other times after a seek
_LATE_START = Fraction(1, 2)  # seconds: a clock that begins later, or so far before 0, is that of a running stream
_TOLD_CHANGES = 5  # of the frames' size
_EARLIER = Fraction(10)  # seconds: where a seek went too far, the next one aims so much earlier


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: `rgb` uint8 (H, W, 3); `pts` and `duration` in the reader's `time_base` (duration 0: unknown).

    `pts` is strictly greater than that of the frame before.
    """

    rgb: npt.NDArray[np.uint8]
    pts: int
    duration: int
    residual: Residual | None = None
    """What `rgb` lacks of a frame of more than 8 bits, where it was asked for."""


class VideoReader:
    """Opens `source` and decodes its first frame, so that every later surprise is about single packets.

    `source` is a file or an address (rtsp://, https://, ...: see `network_input`). `height` scales the frames to that
    many lines, aspect kept, width even. `start` and `end` (seconds from the beginning of the recording, whatever its
    clock says there) and `frames` choose a part: see `video_span`; with `start`, it begins at 0. `programme` (its
    number) is for recordings of several; without it, it is the first that has a picture. Iterate once over `Frame`s
    and the `Packet`s of `copied` (time base of their stream, timestamps as in the file, or moved by as much as the
    frames'). Streams and packets must not be used after `close`: libav frees them. Raises InputError when there is no
    video in the source, or no frame of it decodes.

    `failed_packets` counts video packets that did not decode, `missing_frames` those that the header promises and
    the file does not hold (both final after the iteration). `notes`: a line about each thing that the user should
    know, such as HDR. `deinterlace`: see `Deinterlacer`. `ten_bits`: frames of more than 8 bits have a `residual`.
    `pool`: where frames get their arrays. `network`: see `NetworkSource`. `tell` gets a line about a network that
    breaks off, and about frames that change their size.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        height: int | None = None,
        start: Seconds | None = None,
        end: Seconds | None = None,
        frames: int | None = None,
        programme: int | None = None,
        deinterlace: bool = False,
        ten_bits: bool = False,
        pool: Pool | None = None,
        network: NetworkSettings | None = None,
        tell: Notify | None = None,
    ) -> None:
        span = span_of(start, end, frames)
        self._source: FileSource | NetworkSource
        if is_address(source):
            self._source, self.path = NetworkSource(str(source), network, tell), None
        else:
            self._source = FileSource(Path(source))
            self.path = self._source.path
        self.name = self._source.name
        """The path, or the address without passwords: fit to be shown."""
        self.missing_frames = 0
        self._decode_failures = 0
        self._deinterlace, self._ten_bits = deinterlace, ten_bits
        self._tell = tell or (lambda line: None)
        try:
            self._streams = StreamChoice(self._source.container, self.path, programme, self.name)
            self._take_streams()
            start = self._streams.start()
            self._origin = start if abs(start) > _LATE_START else Fraction(0)
            self._span = span.moved(self._origin)
            self._prepare(height, pool)
        except BaseException:
            self._source.close()
            raise

    def _take_streams(self) -> None:
        self._container, self._video = self._source.container, self._streams.video
        self._has_decoding_times_only = has_decoding_times_only(self._video)
        if not self._video.codec_context.is_open:  # after a seek it is
            self._video.thread_type = "AUTO"
        self._decoding = self._container  # the container of the latest packet
        self._packets_read = 0
        self._started = False
        self._decode_failures = 0
        self._ends: dict[int, tuple[int, Fraction]] = {}  # by stream: in ticks, and what one is
        self._last_time: Fraction | None = None
        self._times_guessed = False
        self._decode_from: Fraction | None = None  # seconds; before, nothing is decoded
        self._timeline = self._new_timeline()
        self._delay: int | None = None  # of frames behind their packets, in ticks
        self._deinterlacer = Deinterlacer(self._video.codec_context.field_order) if self._deinterlace else None
        self._decoded = self._deinterlacer.items(self._decode()) if self._deinterlacer else self._decode()
        self._buffered: list[VideoFrame | Packet] = []  # what precedes the first frame: usually some audio packets

    def _new_timeline(self) -> Timeline:
        if self._container.format.name not in BROADCAST_FORMATS:
            return Timeline(LONGEST_GAP)
        # A network's gaps are real time, and its clock is looked after where it is connected again.
        return Timeline(_BROADCAST_GAP if self.path else LONGEST_GAP, _BROADCAST_WRAP)

    def _prepare(self, height: int | None, pool: Pool | None) -> None:
        self.time_base = self._video.time_base or Fraction(1, 90000)
        if self.time_base > 1:  # damage: no frame lasts so long
            self.time_base = Fraction(1, 1000)
        self.rate = rate_of(self._video)
        self._clock = _Clock(self.time_base, self.rate)
        first = self._first_frame_of_span() if self._span else self._first_frame()
        check_size(self.name, first.width, first.height)
        check_matrix(first)
        self.side_data = stream_side_data(self._video)
        """What the container says about the whole stream: cropping, projection."""
        self.orientation = turn = orientation(first)
        self._shown = ShownSize(self._video, first, self.side_data.crop)
        self.width, self.height = size_at_height(*turn.size(*self._shown.size), height)
        aspect = self._shown.aspect
        self.sample_aspect = 1 / aspect if turn.swap else aspect
        self._to_rgb = FrameToRgb(self.width, self.height, turn, pool, self._shown.crop, self._shown.shape)
        self._first_time = self._time(first)
        self._cut_before = None if self._span.start is None else self._first_time
        self._shift = self._start_shift(first) if self._cut_before is None else -self._cut_before
        about_frames = notes_on(self._video, first, self.side_data, self._deinterlacer, ten_bits=self._ten_bits)
        self.notes = (*self._streams.notes(), *about_frames)
        self._describe()

    def _describe(self) -> None:
        """What stays known when the file is closed."""
        streams = self._container.streams
        self.metadata = dict(self._container.metadata)
        """The container's (title and the like)."""
        self.video_metadata = dict(self._video.metadata)
        """The video stream's (language and the like)."""
        later = Fraction(0) if self._cut_before is None else self._first_time - start_of_stream(self._video)
        timecode = timecode_of(self._container, self._video, later)
        self.notes += (timecode.note,) if timecode.note else ()
        self.timecode = timecode.kept
        """Of the first frame, where the file has one; None otherwise."""
        self.audio: tuple[AudioStream, ...] = tuple(one for one in streams.audio if self._streams.is_copied(one))
        self.copied: tuple[Stream, ...] = tuple(stream for stream in streams if self._streams.is_copied(stream))
        """The streams whose packets are given out, or whose data (attachments) can be copied, in the file's order.
        Cover art is one of them: a video stream with the disposition `attached_pic`, and one packet."""
        self.left_out = tuple(self._streams.left_out())
        """What is not read, a word for each: a second video, streams of unknown kinds, what follows another codec."""
        self.chapters = self._chapters()
        """On the clock of the frames."""
        whole = self._span.start is None and self._span.end is None
        self.counts_exactly = has_index(self._container) and self._video.frames > 0 and whole
        """Whether `expected_frames` is exact: mp4 and mov hold an index of all packets, unless fragmented."""
        ends = [end for end in (end_of(self._container, self._video), self._span.end) if end is not None]
        within = [min(ends) - self._first_time] if ends else []
        within += [self._span.frames / self.rate] if self._span.frames else []
        self.expected_seconds = float(max(min(within), Fraction(0))) if within else None
        """From the first frame to the end of the last, about; None when unknown."""
        self.expected_frames = self._span.moved(-self._origin).expected(
            frames_of_the_whole(self._container, self._video, self.rate), self.rate
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def cancel(self) -> None:
        """Ends the iteration soon, also one that waits for the network. Any thread may call it."""
        self._source.cancel()

    def close(self) -> None:
        """Closes the file. Where another thread is still reading from it, it stays open: libav would crash."""
        try:
            self._decoded.close()
        except ValueError:  # at work
            return
        self._source.close()

    @property
    def failed_packets(self) -> int:
        """Video packets that did not decode, and places of the file that could not be read."""
        return self._decode_failures + self._source.failures

    @property
    def is_live(self) -> bool:
        """Whether it comes from a network and nobody knows when it ends: what is made of it cannot be made again."""
        return self.path is None and self._container.duration is None

    @property
    def clock_jumps(self) -> int:
        """How often the recording's clock has jumped so far; the parts follow each other without a gap."""
        return self._timeline.jumps

    @property
    def size_changes(self) -> int:
        """How often frames came in another size, or with pixels of another shape, than those before."""
        return self._shown.changed

    @property
    def reconnections(self) -> int:
        """How often the connection to a network source was made again."""
        return self._source.reconnections

    @property
    def broken_off(self) -> DsmapError | None:
        """Why a network source ended before its time; what came until then was given out."""
        return self._source.broken_off

    def _chapters(self) -> "list[Chapter]":
        end = self._span.end
        if self._span.frames is not None:
            after_them = self._first_time + self._span.frames / self.rate
            end = after_them if end is None else min(end, after_them)
        return cut_chapters(self._container.chapters(), self._cut_before, end, self._shift)

    def __iter__(self) -> Iterator[Frame | Packet]:
        items = self._items()
        if self._span:
            cutter = SpanCutter(self._span, self._cut_before, self._time, self.rate)
            items = cutter.cut(items, streams_to_wait_for(self.copied))
        for item in items:
            yield self._finished(item)
        if not self._span.frames and not self._span.end:
            self.missing_frames = self._count_missing()

    def _count_missing(self) -> int:
        read = None if self._span.start is not None else self._packets_read
        if self._timeline.jumps and not has_index(self._container):
            return 0  # what the header says is about one of the parts
        size = self.path.stat().st_size if self.path else None
        return missing_frames(self._container, self._video, self.rate, read=read, size=size, end=self._last_end)

    def _items(self) -> Iterator[VideoFrame | Packet]:
        while self._buffered:
            yield self._buffered.pop(0)
        yield from self._decoded

    def _finished(self, item: VideoFrame | Packet) -> Frame | Packet:
        if isinstance(item, VideoFrame):
            unit = item.time_base or self.time_base
            shifted = round((self._time(item) + self._shift) / self.time_base)
            duration = round((item.duration or 0) * unit / self.time_base)
            if duration * self.time_base > LONGEST_GAP:
                duration = 0
            changed = self._shown.changes(item)
            to_rgb, aspect = self._to_rgb, self._shown.aspect
            pts = self._clock.next(shifted, duration)
            if changed:
                self._tell_change(item, pts)
            if self._ten_bits:
                rgb, residual = to_rgb.with_residual(item, aspect)
                return Frame(rgb, pts, duration, residual)
            return Frame(to_rgb(item, aspect), pts, duration)
        if self._shift and not is_cover(item.stream):
            ticks = round(self._shift / item.time_base)
            item.pts = None if item.pts is None else item.pts + ticks
            item.dts = None if item.dts is None else item.dts + ticks
        return item

    def _tell_change(self, frame: VideoFrame, pts: int) -> None:
        if self._shown.changed > _TOLD_CHANGES:
            if self._shown.changed == _TOLD_CHANGES + 1:
                self._tell("more changes of size are counted, not told")
            return
        at = float(pts * self.time_base)
        bars = "" if self._to_rgb.fills(frame, self._shown.aspect) else ", between black bars"
        change = f"at {at:.2f} s the frames change to {self._shown}"
        self._tell(f"{change}: they are shown at {self.width}x{self.height}{bars}")

    def _first_frame(self) -> VideoFrame:
        for item in self._decoded:
            self._buffered.append(item)
            if isinstance(item, VideoFrame):
                return item
        if self._source.broken_off is not None:
            raise self._source.broken_off
        raise InputError(
            f"{self.name} has a video stream, but no frame of it can be decoded",
            "check that it plays and is whole; download or record it again",
        )

    def _first_frame_of_span(self) -> VideoFrame:
        """The first frame from the start on: by way of the keyframe before it, or else of the beginning."""
        start = self._span.start
        if start is None:
            return self._first_frame()
        for seek, decode_from in self._ways_to(start):
            try:
                self._source.restart(seek)
            except av.FFmpegError:
                continue
            self._streams.take(self._source.container)
            self._take_streams()
            self._decode_from = decode_from
            found = self._first_frame_from(start, exact=seek is not None or decode_from is not None)
            if found is not None:
                return found
        length = f", it ends at {float(self._last_end - self._origin):.2f} s" if self._last_end else ""
        raise InputError(
            f"{self.name} has no frame at or after --start {float(start - self._origin):g} s{length}",
            "choose an earlier start",
        )

    def _ways_to(self, start: Fraction) -> Iterator[tuple[Fraction | None, Fraction | None]]:
        """Where to seek (None: to the beginning), and from when on to decode, until the start is surely found."""
        earlier = start - _EARLIER
        # Where a recording's clock jumps, a seek lands anywhere: only reading it all tells its times.
        recording = self.path is not None and self._container.format.name in BROADCAST_FORMATS
        if not recording and self._container.format.name not in _SEEKS_BADLY:
            yield from ((at, None) for at in (start, earlier) if at > self._origin)
        if earlier > self._origin:
            yield None, earlier
        yield None, None

    def _first_frame_from(self, start: Fraction, *, exact: bool) -> VideoFrame | None:
        """With `exact`, None when decoding began after `start` or nobody knows when, so that frames may be missing."""
        before = False
        for item in self._decoded:
            if isinstance(item, Packet):
                if is_cover(item.stream) or cut_packet(item, start, None) is not None:
                    self._buffered.append(item)
                continue
            at = self._time(item)
            if at >= start:
                if exact and (self._times_guessed or (at > start and not before)):
                    return None
                self._buffered.append(item)
                return item
            before = True
        return None

    def _time(self, frame: VideoFrame) -> Fraction:
        """In seconds, on the file's clock."""
        return (frame.pts or 0) * (frame.time_base or self.time_base)

    def _timed(self, frame: VideoFrame) -> VideoFrame:
        """`frame` with a time in any case: one without follows the one before."""
        unit = frame.time_base or self.time_base
        if self._has_decoding_times_only:
            if self._delay is None:
                self._delay = delay_of_reordering(self._video, frame)
            frame.pts = None if frame.dts is None else frame.dts - self._delay
        elif frame.pts is None:
            frame.pts = frame.dts
        self._times_guessed |= frame.pts is None
        if frame.pts is None:
            frame.pts = 0 if self._last_time is None else round((self._last_time + 1 / self.rate) / unit)
        self._last_time = frame.pts * unit
        return frame

    def _decode(self) -> Generator[VideoFrame | Packet, None, None]:
        shown_until: Fraction | None = None  # after a reconnection: what was given out already
        latest = Fraction(0)
        for packet in self._timeline.place(self._wanted(self._source.packets())):
            stream = packet.stream
            if packet.pts is not None:
                self._saw_end(stream.index, packet.pts + (packet.duration or 0), packet)
            if stream.index != self._video.index:
                yield packet
                continue
            if stream.container is not self._decoding:
                self._decoding, self._started, shown_until = stream.container, False, latest
                stream.thread_type = "AUTO"
            self._packets_read += packet.size > 0
            if self._is_skipped(packet):
                continue
            self._started |= packet.is_keyframe
            for frame in map(self._timed, self._decode_packet(packet)):
                at = self._time(frame)
                self._source.saw_picture()
                if shown_until is None or at > shown_until:
                    latest = max(latest, at)
                    yield frame

    def _saw_end(self, index: int, end: int, packet: Packet) -> None:
        latest = self._ends.get(index)
        if latest is None:
            self._ends[index] = end, packet.time_base
        elif end > latest[0]:
            self._ends[index] = end, latest[1]

    @property
    def _last_end(self) -> Fraction:
        """Where what was read ends, in seconds on the file's clock; 0 before anything was."""
        return max([Fraction(0), *(end * unit for end, unit in self._ends.values())])

    def _is_skipped(self, packet: Packet) -> bool:
        """Whether a video packet stands before the time that decoding begins with, or before a keyframe then."""
        if self._decode_from is None or packet.size == 0:
            return False
        if packet.dts is not None and (packet.dts * packet.time_base < self._decode_from or not packet.is_keyframe):
            return True
        self._decode_from = None
        return False

    def _wanted(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """Those of the video, the ones that end its decoding too, and those that are copied."""
        for packet in packets:
            if packet.size == 0 and packet.dts is not None:
                continue  # the frame before it again, in Ogg and AVI; to a decoder an empty packet is the end
            if packet.stream.index == self._video.index or (packet.size > 0 and self._streams.is_copied(packet.stream)):
                yield packet

    def _decode_packet(self, packet: Packet) -> list[VideoFrame]:
        for _ in range(MAX_READ_FAILURES):
            try:
                return list(packet.decode())
            except av.error.EOFError:
                return []
            except av.FFmpegError:
                # Recordings may start between keyframes: no player shows that.
                self._decode_failures += self._started
                if packet.size > 0:
                    return []  # the decoder goes on with the next packet; a flush is tried again
        return []

    def _start_shift(self, first: VideoFrame) -> Fraction:
        """Seconds to add to all timestamps of all streams: the file begins at 0, and no frame stands before it."""
        return -self._origin - min(self._time(first) - self._origin, Fraction(0))
