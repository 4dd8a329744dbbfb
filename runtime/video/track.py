"""Encoding the video stream of an output file, with timestamps kept and packets of earlier runs first."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from dsmap.errors import DsmapError
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.jobs.packet_journal import PacketJournal, PacketRecord
from dsmap.runtime.video.device_encoding import DeviceEncoding
from dsmap.runtime.video.encoder_table import Encoder
from dsmap.runtime.video.projection import add_projected_stream
from dsmap.runtime.video.rgb_to_frame import RGB_FORMATS, RgbToFrame, pad_to_even, padded_size

_BT709, _RGB, _LIMITED, _FULL = 1, 0, 1, 2
# Seconds that a frame may wait in an encoder: for one or two frames, libx265 gives random decoding times.
_MAX_DELAY = 60
_FINEST_TIME_BASE = Fraction(1, 1_000_000)  # mp4 counts a sample's duration in 32 bits


def encoder_time_base(time_base: Fraction) -> Fraction:
    """The time base that frames of `time_base` are encoded in."""
    return max(time_base, _FINEST_TIME_BASE)


class VideoTrack:
    """Encodes frames into a stream of `container`; `stream` is that stream. Raises PyAV's errors and OSError,
    DsmapError where the encoder itself fails.

    `projection`: see `plan_projection`. `on_device`: frames may be in the memory of the encoder's device; not with a
    projection.

    With a `journal`, every packet is written there too, and its earlier packets can be muxed first.
    """

    def __init__(
        self,
        container: OutputContainer,
        encoder: Encoder,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        rate: Fraction,
        sample_aspect: Fraction,
        journal: PacketJournal | None,
        projection: bytes = b"",
        on_device: bool = False,
    ) -> None:
        self._container = container
        self._encoder = encoder
        self._given_time_base = time_base
        self.time_base = encoder_time_base(time_base)
        self._journal = journal
        self._device = DeviceEncoding() if on_device else None
        self._pix_fmt = encoder.pix_fmt if self._device is None else self._device.pix_fmt
        self._to_frame = RgbToFrame(self._pix_fmt)
        self._durations: dict[int, int] = {}  # of the frames within the encoder, by pts
        self._has_encoded = False
        self._first_pts = 0  # of the frames encoded here
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._cut_next = False
        self._cuts: set[int] = set()  # pts of the keyframes that begin a segment
        self._earlier: Iterator[PacketRecord] = iter(())
        self._next_earlier: PacketRecord | None = None
        self.stream = self._add_stream(width, height, rate, sample_aspect, projection)

    def _add_stream(
        self, width: int, height: int, rate: Fraction, sample_aspect: Fraction, projection: bytes
    ) -> VideoStream:
        encoder = self._encoder
        if projection:
            stream = add_projected_stream(self._container, encoder, projection)
        elif self._device is not None:
            stream = self._device.add_stream(self._container, encoder, rate)
        else:
            stream = cast(VideoStream, self._container.add_stream(encoder.library, rate=rate, options=encoder.options))
        context = stream.codec_context
        context.framerate = rate
        context.width, context.height = padded_size(width, height, encoder.pix_fmt)
        context.pix_fmt = self._pix_fmt
        context.time_base = stream.time_base = self.time_base
        context.flags |= Flags.frame_duration  # or the last frame's duration would be a guess
        context.flags |= Flags.closed_gop
        context.thread_count = encoder.threads
        context.sample_aspect_ratio = sample_aspect
        is_rgb = encoder.pix_fmt in RGB_FORMATS
        context.color_primaries = context.color_trc = _BT709
        context.colorspace, context.color_range = (_RGB, _FULL) if is_rgb else (_BT709, _LIMITED)
        if encoder.mp4_tag and self._container.format.name in ("mp4", "mov"):
            context.codec_tag = encoder.mp4_tag
        return stream

    def facts(self) -> dict[str, Any]:
        """What must be equal for packets of two encoders to be joined. Call it after the header is written."""
        context = self.stream.codec_context
        return {
            "encoder": self._encoder.library,
            "options": self._encoder.options,
            "size": [context.width, context.height],
            "time base": str(self.time_base),
            "pixel format": self._encoder.pix_fmt,  # in whatever memory frames are
            "headers": (context.extradata or b"").hex(),
        }

    def encode(self, given: npt.NDArray[np.uint8] | VideoFrame | DeviceResult, pts: int, duration: int) -> None:
        """Encode a frame: uint8 (H, W, 3), or one of the encoder's own format; times in the given time base."""
        self.mux_earlier()
        frame = given if isinstance(given, VideoFrame) else self._converted(given)
        frame.pts, frame.time_base = self._ticks(pts), self.time_base
        frame.duration = self._ticks(duration)
        if not self._has_encoded and self._last_pts is not None and frame.pts <= self._last_pts:
            raise DsmapError(
                f"the first remaining frame is at {float(frame.pts * self.time_base):.3f} s, "
                f"the last finished one at {float(self._last_pts * self.time_base):.3f} s",
                "the finished parts belong to another input: start the job again",
            )
        if not self._has_encoded:
            self._first_pts = frame.pts
        self._last_pts, self._has_encoded = frame.pts, True
        if frame.duration:
            self._durations[frame.pts] = frame.duration
        if self._cut_next:
            frame.pict_type = PictureType.I
            self._cuts.add(frame.pts)
            self._cut_next = False
        self._mux(frame)

    def _converted(self, given: npt.NDArray[np.uint8] | DeviceResult) -> VideoFrame:
        if isinstance(given, DeviceResult):
            assert self._device is not None
            return self._device.frame(given)
        return self._to_frame(pad_to_even(given, self._encoder.pix_fmt))

    def cut(self) -> None:
        """The next frame begins a new segment: it becomes a keyframe that no earlier frame refers past."""
        self._cut_next = self._journal is not None

    def flush(self, *, keep: bool) -> None:
        """Flush the encoder; with `keep`, its last packets become a finished segment of the journal."""
        self.mux_earlier()
        if self._has_encoded:  # some encoders wait for a first frame for ever
            self._mux(None)
        if self._journal is not None and keep:
            self._journal.finish_segment()

    def begin_after(self, journal: PacketJournal) -> Fraction:
        """Put the journal's packets first; returns their end in seconds. Call it before the first frame."""
        self._earlier = journal.packets()
        self._next_earlier = next(self._earlier, None)
        if journal.last_pts is None:
            return Fraction(0)
        self._last_pts = journal.last_pts
        return (journal.last_pts + 1) * self.time_base

    def mux_earlier(self, until: Fraction | None = None) -> None:
        """Mux the packets of earlier runs up to `until` seconds; None for all of them."""
        while (record := self._next_earlier) is not None:
            if until is not None and record.dts * self.time_base > until:
                return
            packet = Packet(record.data)
            dts = record.dts
            if self._last_dts is not None and dts <= self._last_dts:
                dts = self._last_dts + 1  # of segments made apart; there is room, see `_repair`
            packet.pts, packet.dts, packet.duration = record.pts, dts, record.duration
            packet.time_base, packet.is_keyframe, packet.stream = self.time_base, record.keyframe, self.stream
            self._last_dts = dts
            self._container.mux(packet)
            self._next_earlier = next(self._earlier, None)

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in self._encoded(frame):
            self._repair(packet)
            if self._journal is not None:
                if packet.is_keyframe and packet.pts in self._cuts:
                    self._cuts.discard(packet.pts)
                    self._journal.finish_segment()
                self._journal.add(_record(packet))
            self._container.mux(packet)

    def _encoded(self, frame: VideoFrame | None) -> list[Packet]:
        try:
            return self.stream.encode(frame)
        except av.FFmpegError as error:  # as distinct from one of the container: nothing is wrong with the disk
            at = "at the end" if frame is None else f"at {float((frame.pts or 0) * self.time_base):.3f} s"
            raise DsmapError(
                f"{self._encoder.title} failed {at}: {error.strerror or error}", "try again, or choose another --codec"
            ) from error

    def _repair(self, packet: Packet) -> None:
        """Restore durations that encoders lose, and keep decoding times increasing after earlier packets."""
        if packet.pts is None:
            return
        packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
        if packet.dts is None or not self._first_pts - _MAX_DELAY / self.time_base <= packet.dts <= packet.pts:
            packet.dts = packet.pts if self._last_dts is None else self._last_dts + 1
        if self._last_dts is not None and packet.dts <= self._last_dts:
            packet.dts = self._last_dts + 1  # there is room: the frames in between have distinct pts
        self._last_dts = packet.dts

    def _ticks(self, time: int) -> int:
        if self.time_base == self._given_time_base:
            return time
        return round(time * self._given_time_base / self.time_base)


def _record(packet: Packet) -> PacketRecord:
    assert packet.pts is not None
    assert packet.dts is not None
    return PacketRecord(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, bytes(packet))
