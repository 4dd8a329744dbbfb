"""Reading a video: upright RGB frames with repaired timestamps, and the packets to copy untouched, in file order.

A source gives packets (`file_source`, `network_source`). The decoder makes frames of those of the video (`decoder`),
from the first one that is wanted on (`seeking`) to the last (`trim`); the reader turns them into RGB (`frame_to_rgb`)
with strictly increasing times.
"""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.video.addresses import NetworkSettings, is_address
from dsmap.runtime.video.colour_matrix import check_matrix
from dsmap.runtime.video.decoder import VideoDecoder
from dsmap.runtime.video.device_planes import device_frame, on_host, planar
from dsmap.runtime.video.file_source import FileSource
from dsmap.runtime.video.frame import NO_PIXELS, ArrayPool, Frame
from dsmap.runtime.video.frame_count import frame_rate, has_index, missing_frames, total_frames, video_end
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.hardware import OFF, check_device, check_hwaccel
from dsmap.runtime.video.input_warnings import input_warnings
from dsmap.runtime.video.network_source import NetworkSource
from dsmap.runtime.video.orientation import Orientation, orientation
from dsmap.runtime.video.pipe_source import PipeSource
from dsmap.runtime.video.pipes import is_piped_in
from dsmap.runtime.video.planes import can_stay_yuv
from dsmap.runtime.video.scaling import size_at_height
from dsmap.runtime.video.section import Section
from dsmap.runtime.video.seeking import decoder_at, decoder_at_keyframe
from dsmap.runtime.video.shown_size import ShownSize
from dsmap.runtime.video.stream import check_size
from dsmap.runtime.video.stream_choice import StreamChoice
from dsmap.runtime.video.stream_side_data import stream_side_data
from dsmap.runtime.video.timecode import timecode_of, video_start
from dsmap.runtime.video.timestamps import LONGEST_GAP, TimestampRepair
from dsmap.runtime.video.tone_mapping import tone_of
from dsmap.runtime.video.trim import Seconds, Trimmer, continuous_streams, cut_chapters, is_cover, trim_range

if TYPE_CHECKING:  # only in PyAV's type hints
    from av.container.core import Chapter

_LATE_START = Fraction(1, 2)  # seconds: a clock that begins later, or so far before 0, is that of a running stream
_MAX_REPORTED_CHANGES = 5  # of the frames' size
_numbers = itertools.count(1)  # of the readers


class VideoReader:
    """Opens `source` and decodes its first frame, so that later failures can only concern single packets.

    `source` is a file, an address (rtsp://, https://, ...: see `addresses`) or `-` (see `pipes`). `height` scales the
    frames to that many lines, aspect kept, width even. `start` and `end` (seconds from the beginning of the recording,
    whatever its clock says there) and `frames` choose a part: see `trim`; with `start`, it begins at 0. `programme`
    (its number) is for recordings of several; without it, it is the first with a video. Iterate once over `Frame`s and
    the `Packet`s of `copied` (time base of their stream, timestamps as in the file, or moved by as much as the
    frames'). Streams and packets must not be used after `close`: libav frees them. Raises InputError when there is no
    video in the source, or no frame of it decodes.

    `failed_packets` counts video packets that did not decode, `missing_frames` those that the header promises and
    the file does not hold (both final after the iteration). `notes`: a line about each thing that the user should
    know, such as HDR. `deinterlace`: see `Deinterlacer`. `ten_bits`: frames of more than 8 bits have a `residual`.
    `pool`: where frames get their arrays. `network`: see `NetworkSource`. `notify` gets a line when a network
    connection breaks off, when frames change their size, and when another decoder takes over. `hwaccel`: what decodes,
    see `open_decoding`. `on_device`: frames are given in the memory of a device that was named, where they can be
    (`Frame.device`), unless something is done to them here: they are turned, cropped, scaled or deinterlaced.
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
        hwaccel: str = OFF,
        on_device: bool = False,
        pool: ArrayPool | None = None,
        network: NetworkSettings | None = None,
        notify: Notify | None = None,
    ) -> None:
        check_device(check_hwaccel(hwaccel))
        trim = trim_range(start, end, frames)
        self._source: FileSource | NetworkSource | PipeSource
        self.path: Path | None
        if is_piped_in(source):
            self._source, self.path = PipeSource(), None
        elif is_address(source):
            self._source, self.path = NetworkSource(str(source), network, notify), None
        else:
            self._source = FileSource(Path(source))
            self.path = self._source.path
        self.name = self._source.name
        """The path, or the address without passwords: fit to be shown."""
        self.missing_frames = 0
        self._number = next(_numbers)
        self._section: Section | None = None
        self._decodes = True
        self._deinterlace, self._ten_bits, self._hwaccel = deinterlace, ten_bits, hwaccel
        self.on_device = on_device and not deinterlace
        """Whether frames may stay in a device's memory; can be switched off later."""
        self.as_yuv = False
        """Whether frames that can stay Y'CbCr are given so (`Frame.yuv`), where nothing is done to them here; can be
        switched on before the iteration."""
        self._notify = notify or (lambda line: None)
        try:
            self._streams = StreamChoice(self._source.container, self.path, programme, self.name)
            begins = self._streams.start()
            self._origin = begins if abs(begins) > _LATE_START else Fraction(0)
            self._trim = trim.moved(self._origin)
            self.time_base = self._streams.video.time_base or Fraction(1, 90000)
            if self.time_base > 1:  # damage: no frame lasts so long
                self.time_base = Fraction(1, 1000)
            self.rate = frame_rate(self._streams.video)
            opened = decoder_at(self._trim.start, self._origin, self._source, self._streams, self._new_decoder)
            self._decoder, first = opened
            self._container, self._video = self._source.container, self._streams.video
            self._set_up_conversion(first, height, pool)
            self._set_up_times(first)
            self._describe(first)
        except BaseException:
            self._source.close()
            raise

    def _new_decoder(self, decode_from: Fraction | None, decode_at: Fraction | None = None) -> VideoDecoder:
        return VideoDecoder(
            self._source,
            self._streams,
            time_base=self.time_base,
            rate=self.rate,
            deinterlace=self._deinterlace,
            decode_from=decode_from,
            decode_at=decode_at,
            hwaccel=self._hwaccel,
            notify=self._notify,
            origin=self._origin,
            keep=self.on_device,
        )

    def _set_up_conversion(self, first: VideoFrame, height: int | None, pool: ArrayPool | None) -> None:
        check_size(self.name, first.width, first.height)
        check_matrix(first)
        self.side_data = stream_side_data(self._video)
        """What the container says about the whole stream: cropping, projection."""
        described = self._decoder.decoding.described(first)
        self.orientation = turn = orientation(described)
        self._shown = ShownSize(self._video, first, self.side_data.crop, lambda: self._decoder.decoding.context)
        self.width, self.height = size_at_height(*turn.size(*self._shown.size), height)
        aspect = self._shown.aspect
        self.sample_aspect = 1 / aspect if turn.swap else aspect
        self._to_rgb = FrameToRgb(
            self.width, self.height, turn, pool, self._shown.crop, self._shown.shape, tone_of(described)
        )

    def _set_up_times(self, first: VideoFrame) -> None:
        self._timestamps = TimestampRepair(self.time_base, self.rate)
        self._first_time = at = self._decoder.time_of(first)
        self._cut_before = None if self._trim.start is None else at
        # Seconds to add to all timestamps of all streams: the file begins at 0, and no frame comes before it.
        self._shift = -self._origin - min(at - self._origin, Fraction(0)) if self._trim.start is None else -at

    # Facts that remain known when the file is closed

    def _describe(self, first: VideoFrame) -> None:
        self._describe_streams()
        self._describe_length()
        later = Fraction(0) if self._cut_before is None else self._first_time - video_start(self._video)
        timecode = timecode_of(self._container, self._video, later)
        self.timecode = timecode.kept
        """Of the first frame, where the file has one; None otherwise."""
        about_frames = input_warnings(
            self._video,
            self._decoder.decoding.described(first),
            self.side_data,
            self._decoder.deinterlacer,
            ten_bits=self._ten_bits,
        )
        about_decoding = self._decoder.decoding.note
        self.notes = (*self._streams.notes(), *about_frames, *filter(None, [timecode.note, about_decoding]))

    def _describe_streams(self) -> None:
        streams = self._container.streams
        self.metadata = dict(self._container.metadata)
        """The container's (title and the like)."""
        self.video_metadata = dict(self._video.metadata)
        """The video stream's (language and the like)."""
        self.audio: tuple[AudioStream, ...] = tuple(one for one in streams.audio if self._streams.is_copied(one))
        self.copied: tuple[Stream, ...] = tuple(stream for stream in streams if self._streams.is_copied(stream))
        """The streams whose packets are passed on, or whose data (attachments) can be copied, in the file's order.
        Cover art is one of them: a video stream with the disposition `attached_pic`, and one packet."""
        self.codec_change = self._streams.codec_change()
        """The video's codecs at the beginning and at the end of a recording, where they differ; None elsewhere. What
        follows the change does not decode."""
        self.left_out = tuple(self._streams.left_out())
        """What is not read, a word for each: a second video, streams of unknown kinds, what follows another codec."""

    def _describe_length(self) -> None:
        container, video, trim = self._container, self._video, self._trim
        self.chapters = self._cut_chapters()
        """On the clock of the frames."""
        whole = trim.start is None and trim.end is None
        self.counts_exactly = has_index(container) and video.frames > 0 and whole
        """Whether `expected_frames` is exact: mp4 and mov hold an index of all packets, unless fragmented."""
        ends = [end for end in (video_end(container, video), trim.end) if end is not None]
        within = [min(ends) - self._first_time] if ends else []
        within += [trim.frames / self.rate] if trim.frames else []
        self.expected_seconds = float(max(min(within), Fraction(0))) if within else None
        """From the first frame to the end of the last, about; None when unknown."""
        frames = total_frames(container, video, self.rate)
        self.expected_frames = trim.moved(-self._origin).expected(frames, self.rate)

    def _cut_chapters(self) -> "list[Chapter]":
        end = self._trim.end
        if self._trim.frames is not None:
            after_them = self._first_time + self._trim.frames / self.rate
            end = after_them if end is None else min(end, after_them)
        return cut_chapters(self._container.chapters(), self._cut_before, end, self._shift)

    # Iterating: decoded items, cut to the wanted part, as frames and packets of the result

    def skip_decoding(self) -> None:
        """The iteration gives packets only: all frames are done. Facts that decoding tells stay as they are now."""
        self._decodes = False

    def limit_to(self, section: Section) -> None:
        """The iteration gives the first frame, as always, and then the frames of the section only, without packets.

        Where the section begins with the first frame, that comes once. Frames and their times are those of an iteration
        over everything.
        """
        self._section = section

    def placed_packets(self) -> Iterator[Packet]:
        """All packets of a file's video, from its beginning, on the frames' clock, undecoded: instead of an iteration.

        Raises av.FFmpegError.
        """
        self._source.restart(None)
        self._streams.take(self._source.container)
        self._decoder = self._new_decoder(None)
        return self._decoder.placed_packets()

    def _read_section(self, section: Section) -> Iterator[Frame]:
        if section.begin is not None and section.keyframe is not None:
            yield next(self._frame(item) for item in self._decoder if isinstance(item, VideoFrame))
            keyframe = section.keyframe
            self._decoder = decoder_at_keyframe(
                keyframe,
                self._source,
                self._streams,
                lambda: self._new_decoder(None, keyframe),
                seeks=section.seeks,
            )
            self._timestamps = TimestampRepair(self.time_base, self.rate)
        begin, end = self._decoder.counted = section.begin, section.end
        for item in self._decoder:
            if not isinstance(item, VideoFrame):
                continue
            at = self._decoder.time_of(item)
            if begin is not None and at < begin:
                continue
            section.damaged += item.is_corrupt
            frame = self._frame(item)
            if end is None or at < end:
                if begin is not None and not section.head:
                    self._shown.changed = 0  # compared with the frame before it when sections are joined
                section.saw(frame, str(self._shown))
                yield frame
            elif section.saw_beyond(frame):
                return

    def __iter__(self) -> Iterator[Frame | Packet]:
        if self._section is not None:
            yield from self._read_section(self._section)
            return
        items = iter(self._decoder) if self._decodes else self._decoder.copied_packets(self._trim.end)
        if self._trim:
            trimmer = Trimmer(self._trim, self._cut_before, self._decoder.time_of, self.rate)
            items = trimmer.trim(items, continuous_streams(self.copied))
        for item in items:
            if self._decodes or not isinstance(item, VideoFrame):
                yield self._frame(item) if isinstance(item, VideoFrame) else self._shifted(item)
        if not self._trim.frames and not self._trim.end:
            self.missing_frames = self._count_missing()

    def _frame(self, decoded: VideoFrame) -> Frame:
        unit = decoded.time_base or self.time_base
        shifted = round((self._decoder.time_of(decoded) + self._shift) / self.time_base)
        duration = round((decoded.duration or 0) * unit / self.time_base)
        if duration * self.time_base > LONGEST_GAP:
            duration = 0
        changed = self._shown.changes(decoded)
        pts = self._timestamps.next(shifted, duration)
        if changed:
            self._report_change(decoded, pts)
        if self.on_device and (device := self._device_frame(decoded)) is not None:
            return Frame(NO_PIXELS, pts, duration, device=device)
        decoded = on_host(decoded)
        if self.as_yuv and self._is_unchanged(decoded):
            ordered = decoded if decoded.format.name == "p010le" else planar(decoded)  # more than 8 bits cannot stay so
            if can_stay_yuv(ordered):
                return Frame(NO_PIXELS, pts, duration, yuv=ordered)
        if self._ten_bits:
            rgb, residual = self._to_rgb.with_residual(decoded, self._shown.aspect)
            return Frame(rgb, pts, duration, residual)
        return Frame(self._to_rgb(decoded, self._shown.aspect), pts, duration)

    def _device_frame(self, decoded: VideoFrame) -> DeviceFrame | None:
        if not self._is_unchanged(decoded):
            return None
        # Made when it is needed: few frames are compared.
        return device_frame(
            decoded, lambda frame: FrameToRgb(self.width, self.height, Orientation())(frame), self._number
        )

    def _is_unchanged(self, decoded: VideoFrame) -> bool:
        """Whether the frame is neither turned nor cropped nor scaled, and has no bars."""
        size = decoded.width, decoded.height
        if size != (self.width, self.height) or self.orientation != Orientation() or self._shown.crop:
            return False
        return self._to_rgb.fills(decoded, self._shown.aspect)

    def _shifted(self, packet: Packet) -> Packet:
        if self._shift and not is_cover(packet.stream):
            ticks = round(self._shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        return packet

    def _report_change(self, frame: VideoFrame, pts: int) -> None:
        if self._shown.changed > _MAX_REPORTED_CHANGES:
            if self._shown.changed == _MAX_REPORTED_CHANGES + 1:
                self._notify("further size changes are counted, not reported")
            return
        at = float(pts * self.time_base)
        bars = "" if self._to_rgb.fills(frame, self._shown.aspect) else ", between black bars"
        change = f"at {at:.2f} s the frames change to {self._shown}"
        self._notify(f"{change}: they are shown at {self.width}x{self.height}{bars}")

    def _count_missing(self) -> int:
        read = None if self._trim.start is not None else self._decoder.packets_read
        if self._decoder.clock_jumps and not has_index(self._container):
            return 0  # what the header says is about one of the parts
        size = self.path.stat().st_size if self.path else None
        return missing_frames(self._container, self._video, self.rate, read=read, size=size, end=self._decoder.end)

    @property
    def wanted(self) -> tuple[Fraction, Fraction | None, int | None]:
        """The time of the first frame, the end of what is read (None: the file's), both in seconds on the file's clock,
        and how many frames at most.
        """
        return self._first_time, self._trim.end, self._trim.frames

    @property
    def format_name(self) -> str:
        """libav's name of the container."""
        return str(self._source.container.format.name)

    @property
    def video_stream(self) -> VideoStream:
        """The one that is decoded."""
        return self._streams.video

    # While reading

    @property
    def failed_packets(self) -> int:
        """Video packets that did not decode, and places of the file that could not be read."""
        return self._decoder.failures + (self._source.failures if self._section is None else 0)

    @property
    def decoder(self) -> str:
        """What decodes the frames: "software" or a device."""
        return self._decoder.decoding.name

    @property
    def keeps_on_device(self) -> bool:
        """Whether frames are given in a device's memory, but for those that differ from the first one in kind."""
        return self.on_device and self._decoder.decoding.keeps and self.orientation == Orientation()

    @property
    def is_live(self) -> bool:
        """Whether it comes from a network or a pipe and has no known end: a result made of it cannot be made again."""
        return self.path is None and self._container.duration is None

    @property
    def clock_jumps(self) -> int:
        """How often the recording's clock has jumped so far; the parts follow each other without a gap."""
        return self._decoder.clock_jumps

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
        """Why a network source ended before its time; all frames that came until then were given."""
        return self._source.broken_off

    def cancel(self) -> None:
        """End the iteration soon, also one that waits for the network. Any thread may call it."""
        self._source.cancel()

    def close(self) -> None:
        """Close the file. Where another thread is still reading from it, it stays open: libav would crash."""
        try:
            self._decoder.close()
        except ValueError:  # another thread is in it
            return
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
