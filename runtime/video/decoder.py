"""Decoding a video stream: frames with a time each, and the packets to copy, in the order of the file."""

from collections.abc import Generator, Iterator
from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.packet import Packet
from av.video.frame import VideoFrame

from dsmap.common.notify import Notify
from dsmap.runtime.video.decoding import Decoding, open_decoding
from dsmap.runtime.video.deinterlace import Deinterlacer
from dsmap.runtime.video.file_source import MAX_READ_FAILURES, FileSource
from dsmap.runtime.video.frame_count import BROADCAST_FORMATS
from dsmap.runtime.video.hardware import OFF
from dsmap.runtime.video.network_source import NetworkSource
from dsmap.runtime.video.pipe_source import PipeSource
from dsmap.runtime.video.stream import delay_of_reordering, has_decoding_times_only
from dsmap.runtime.video.stream_choice import StreamChoice
from dsmap.runtime.video.timeline import Timeline
from dsmap.runtime.video.timestamps import LONGEST_GAP
from dsmap.runtime.video.trim import cut_packet, is_cover

PacketSource = FileSource | NetworkSource | PipeSource
Item = VideoFrame | Packet

_MAX_UNTIMED = 32  # frames at the beginning that are held until one has a time
_BROADCAST_GAP = 10  # seconds: beyond that, it is another recording's clock (FFmpeg's limit too)
_BROADCAST_WRAP = 2**33 / 90_000


class VideoDecoder:
    """Decodes the video of `source` from its current position, and passes on the packets that `streams` copies.

    Iterate once. Every frame has a `pts`; those of all streams are on one clock, see `Timeline`. `time_base`, `rate`:
    for frames that do not say their own. `decode_from` (seconds): packets before that time are not decoded.
    `decode_at`: decoding begins with the keyframe that is shown at that time exactly, and ends where there is none.
    `hwaccel`, `notify`, `origin`, `keep`: see `open_decoding`.
    """

    def __init__(
        self,
        source: PacketSource,
        streams: StreamChoice,
        *,
        time_base: Fraction,
        rate: Fraction,
        deinterlace: bool = False,
        decode_from: Fraction | None = None,
        decode_at: Fraction | None = None,
        hwaccel: str = OFF,
        notify: Notify = lambda _line: None,
        origin: Fraction = Fraction(0),
        keep: bool = False,
    ) -> None:
        self.failures = 0
        """Video packets that did not decode, after the first keyframe."""
        self.counted: tuple[Fraction | None, Fraction | None] = None, None
        """Of failures, only those of packets that are shown from the first time to before the second count; seconds."""
        self.packets_read = 0
        """Video packets."""
        self._source, self._streams, self._video = source, streams, streams.video
        self._time_base, self._rate, self._decode_from = time_base, rate, decode_from
        self._decode_at = decode_at
        if not self._video.codec_context.is_open:  # after a seek it is
            self._video.thread_type = source.threads
        self._open_decoding = lambda stream: open_decoding(stream, hwaccel, notify, origin, keep=keep)
        self.decoding: Decoding = self._open_decoding(self._video)
        self._has_decoding_times_only = has_decoding_times_only(self._video)
        self._delay: int | None = None  # of frames behind their packets, in ticks
        self._last_time: Fraction | None = None
        self._times_guessed = False
        self._untimed: list[VideoFrame] = []
        self._may_begin_before_zero = _begins_as_matroska(source) and not self._has_decoding_times_only
        self._started = False
        self._ends: dict[int, tuple[int, Fraction]] = {}  # by stream: in ticks, and what one is
        self._timeline = _new_timeline(source)
        self.deinterlacer = Deinterlacer(self._video.codec_context.field_order) if deinterlace else None
        self._items = self.deinterlacer.items(self._decode()) if self.deinterlacer else self._decode()
        self._buffered: list[Item] = []  # what precedes the first frame: usually some audio packets

    def __iter__(self) -> Iterator[Item]:
        while self._buffered:
            yield self._buffered.pop(0)
        yield from self._items

    def first_frame(self) -> VideoFrame | None:
        """The first frame, which the iteration gives too; None where none decodes."""
        for item in self._items:
            self._buffered.append(item)
            if isinstance(item, VideoFrame):
                return item
        return None

    def reaches_frame(self) -> bool:
        """Whether a frame decodes; packets to copy that precede it are dropped."""
        for item in self._items:
            if isinstance(item, VideoFrame):
                self._buffered = [item]
                return True
        return False

    def placed_packets(self) -> Iterator[Packet]:
        """The video's packets with their times as for decoding, but not decoded; instead of an iteration."""
        for packet in self._timeline.place(self._wanted(self._source.packets())):
            if packet.stream.index == self._video.index and packet.size:
                yield packet

    def copied_packets(self, end: Fraction | None) -> Iterator[Item]:
        """As the iteration, but nothing is decoded: only packets to copy, and an empty frame once the video is past
        `end` (seconds).
        """
        yield from (item for item in self._buffered if isinstance(item, Packet))
        for packet in self._timeline.place(self._wanted(self._source.packets())):
            if packet.pts is not None:
                self._saw_end(packet.stream.index, packet.pts + (packet.duration or 0), packet)
            if packet.stream.index != self._video.index:
                yield packet
                continue
            self.packets_read += packet.size > 0
            if end is not None and packet.dts is not None and packet.dts * packet.time_base >= end:
                past = VideoFrame(2, 2)
                past.pts, past.time_base = packet.dts, packet.time_base
                yield past

    def first_frame_from(self, start: Fraction, *, exact: bool) -> VideoFrame | None:
        """The first frame at or after `start` (seconds), with which the iteration begins; None where there is none.

        With `exact`, also None when decoding began after `start` or at an unknown time: frames may be missing.
        """
        before = False
        for item in self._items:
            if isinstance(item, Packet):
                if is_cover(item.stream) or cut_packet(item, start, None) is not None:
                    self._buffered.append(item)
                continue
            at = self.time_of(item)
            if at >= start:
                if exact and (self._times_guessed or (at > start and not before)):
                    return None
                self._buffered.append(item)
                return item
            before = True
        return None

    def time_of(self, frame: VideoFrame) -> Fraction:
        """In seconds, on the file's clock."""
        return (frame.pts or 0) * (frame.time_base or self._time_base)

    @property
    def clock_jumps(self) -> int:
        """How often the recording's clock has jumped so far."""
        return self._timeline.jumps

    @property
    def end(self) -> Fraction:
        """Where what was read ends, in seconds on the file's clock; 0 before anything was."""
        return max([Fraction(0), *(end * unit for end, unit in self._ends.values())])

    def close(self) -> None:
        """End the iteration. Raises ValueError while another thread is in it."""
        self._items.close()

    def _decode(self) -> Generator[Item, None, None]:
        decoding = self._source.container  # the container of the latest packet
        shown_until: Fraction | None = None  # after a reconnection: what was given out already
        latest = Fraction(0)
        for packet in self._timeline.place(self._wanted(self._source.packets())):
            stream = packet.stream
            if packet.pts is not None:
                self._saw_end(stream.index, packet.pts + (packet.duration or 0), packet)
            if stream.index != self._video.index:
                yield packet
                continue
            if stream.container is not decoding:
                decoding, self._started, shown_until = stream.container, False, latest
                stream.thread_type = self._source.threads
                self.decoding = self._open_decoding(stream)
            self.packets_read += packet.size > 0
            if self._decode_at is not None and self._is_past(packet, self._decode_at):
                return
            if self._is_skipped(packet):
                continue
            self._started |= packet.is_keyframe
            for frame in self._with_times(self._decode_packet(packet), last=packet.size == 0):
                at = self.time_of(frame)
                self._source.saw_frame()
                if shown_until is None or at > shown_until:
                    latest = max(latest, at)
                    yield frame

    def _wanted(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """Packets of the video, the ones that end its decoding too, and those that are copied."""
        for packet in packets:
            if packet.size == 0 and packet.dts is not None:
                continue  # the frame before it again, in Ogg and AVI; to a decoder an empty packet is the end
            if packet.stream.index == self._video.index or (packet.size > 0 and self._streams.is_copied(packet.stream)):
                yield packet

    def _saw_end(self, index: int, end: int, packet: Packet) -> None:
        latest = self._ends.get(index)
        if latest is None:
            self._ends[index] = end, packet.time_base
        elif end > latest[0]:
            self._ends[index] = end, latest[1]

    def _counts(self, packet: Packet) -> bool:
        begin, end = self.counted
        if packet.pts is None or (begin, end) == (None, None):
            return begin is None
        at = packet.pts * packet.time_base
        return (begin is None or at >= begin) and (end is None or at < end)

    def _is_past(self, packet: Packet, keyframe: Fraction) -> bool:
        """Whether a video packet surely follows the keyframe that is shown at that time, or the file has ended."""
        return packet.size == 0 or (packet.dts is not None and packet.dts * packet.time_base > keyframe)

    def _is_skipped(self, packet: Packet) -> bool:
        """Whether a video packet comes before the time that decoding begins at, or before the keyframe after it."""
        if self._decode_at is not None:
            if not packet.is_keyframe or packet.pts is None or packet.pts * packet.time_base != self._decode_at:
                return True
            self._decode_at = None
        if self._decode_from is None or packet.size == 0:
            return False
        if packet.dts is not None and (packet.dts * packet.time_base < self._decode_from or not packet.is_keyframe):
            return True
        self._decode_from = None
        return False

    def _decode_packet(self, packet: Packet) -> list[VideoFrame]:
        for _ in range(MAX_READ_FAILURES):
            try:
                return self.decoding.decode(packet)
            except av.error.EOFError:
                return []
            except av.FFmpegError:
                # Recordings may start between keyframes: no player shows that.
                self.failures += self._started and self._counts(packet)
                if packet.size > 0:
                    return []  # the decoder continues with the next packet; a flush is tried again
        return []

    def _with_times(self, frames: list[VideoFrame], *, last: bool) -> list[VideoFrame]:
        """`frames` with a time each. Those without one at the beginning wait until the first one that has is known.

        Matroska's blocks may lie before its clock's 0: libav drops those times.
        """
        if self._last_time is None and self._may_begin_before_zero:
            self._untimed += frames
            timed = next((index for index, frame in enumerate(self._untimed) if frame.pts is not None), None)
            if timed is None and not last and len(self._untimed) < _MAX_UNTIMED:
                return []
            frames, self._untimed = self._untimed, []
            for index, frame in enumerate(frames[: timed or 0]):
                back = (timed or 0) - index
                frame.pts = (frames[index + back].pts or 0) - round(
                    back / self._rate / (frame.time_base or self._time_base)
                )
        return [self._timed(frame) for frame in frames]

    def _timed(self, frame: VideoFrame) -> VideoFrame:
        """`frame` with a time in any case: one without follows the one before."""
        unit = frame.time_base or self._time_base
        if self._has_decoding_times_only:
            if self._delay is None:
                self._delay = delay_of_reordering(self._video, frame)
            frame.pts = None if frame.dts is None else frame.dts - self._delay
        elif frame.pts is None:
            frame.pts = frame.dts
        self._times_guessed |= frame.pts is None
        if frame.pts is None:
            frame.pts = 0 if self._last_time is None else round((self._last_time + 1 / self._rate) / unit)
        self._last_time = frame.pts * unit
        return frame


def _begins_as_matroska(source: PacketSource) -> bool:
    return bool(source.container.format.name.startswith("matroska"))


def _new_timeline(source: PacketSource) -> Timeline:
    if source.container.format.name not in BROADCAST_FORMATS:
        return Timeline(LONGEST_GAP)
    # A network's gaps are real time, and its clock is looked after where the connection is made again.
    return Timeline(_BROADCAST_GAP if isinstance(source, FileSource) else LONGEST_GAP, _BROADCAST_WRAP)
