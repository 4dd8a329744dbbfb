"""Copying the streams that are not translated into the output, packet by packet, as `copy_plan` says."""

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream

from dsmap.runtime.video.containers import add_copy, codec_name
from dsmap.runtime.video.copy_plan import CopyPlan
from dsmap.runtime.video.held_packets import packet_start
from dsmap.runtime.video.metadata import describe
from dsmap.runtime.video.sound import SoundEncoder, add_encoded

_EMPTY_MOV_TEXT = 2  # bytes: the length of an empty text
_TIMES_MAY_REPEAT = 0x20000  # FFmpeg's AVFMT_TS_NONSTRICT
_MAX_PRIMING, _MAX_PRIMING_SECONDS = 4, Fraction(1, 10)  # packets, seconds: AAC's is 1 or 2 packets


class StreamCopier:
    """Adds the streams of `plan` to a new container, and makes its packets of theirs."""

    def __init__(self, container: OutputContainer, plan: CopyPlan, suffix: str) -> None:
        self._tracks: dict[int, _CopiedTrack] = {}
        self._encoders: dict[int, SoundEncoder] = {}
        self.windows_names = 0
        """Sound tracks that must be renamed when the file is complete: see `windows_sound`."""
        for sound in plan.encoded:
            self._encoders[sound.index] = encoder = add_encoded(container, suffix, sound)
            _describe(encoder.stream, sound)
        for stream in plan.copied:
            copy, by_windows_name = add_copy(container, suffix, stream)
            self.windows_names += by_windows_name
            _describe(copy, stream)
            self._tracks[stream.index] = _CopiedTrack(copy)
        for stream, codec in plan.converted:
            source = cast(SubtitleStream, stream)
            text = container.add_stream(codec)
            text.time_base = stream.time_base
            _describe(text, stream)
            converter = _TextConverter(source, cast(SubtitleCodecContext, text.codec_context))
            self._tracks[stream.index] = _CopiedTrack(text, converter)

    def knows(self, packet: Packet) -> bool:
        """Whether the packet's stream is in the output."""
        return packet.stream.index in self._tracks or packet.stream.index in self._encoders

    def packets(self, packet: Packet) -> Iterable[Packet]:
        """The packets to mux for one of the input: itself, a converted one, or none."""
        if packet.stream.index in self._encoders:
            return self._encoders[packet.stream.index].packets(packet)
        return self._tracks[packet.stream.index].packets(packet)

    def rest(self) -> Iterator[Packet]:
        """The packets that the encoders still hold at the end."""
        for encoder in self._encoders.values():
            yield from encoder.flush()

    @property
    def failures(self) -> int:
        """Packets of converted sound that did not decode: silence replaces them."""
        return sum(encoder.failures for encoder in self._encoders.values())


class _CopiedTrack:
    """A copied stream of the output, with strictly increasing times where the container needs them."""

    def __init__(self, stream: Stream, converter: "_TextConverter | None" = None) -> None:
        self._stream = stream
        self._converter = converter
        self._is_mov_text = converter is None and stream.type == "subtitle" and codec_name(stream) == "mov_text"
        self._last_dts: int | None = None
        self._lead_in = _LeadIn(stream)

    def packets(self, packet: Packet) -> list[Packet]:
        if packet.is_discard:  # removed by an edit list: the source does not present it
            self._lead_in.add(packet)
            return []
        return [made for one in (*self._lead_in.before(packet), packet) for made in self._copies(one)]

    def _copies(self, packet: Packet) -> list[Packet]:
        if self._stream.disposition & Disposition.attached_pic and packet.pts is None:
            packet.pts = packet.dts = 0  # a cover image
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:
            return []  # without any time: no container takes it
        self._step_on(packet)
        if self._is_mov_text and packet.size <= _EMPTY_MOV_TEXT:
            return []  # the pause between two texts: the muxer writes those itself
        made = self._converter(packet) if self._converter else packet
        if made is None:
            return []
        made.stream = self._stream
        return [made]

    def _step_on(self, packet: Packet) -> None:
        """Keep packets in order: muxers refuse one that is not after its predecessor, as in damaged recordings.

        Compared in the output's unit, in which two times of the input's finer clock may be equal.
        """
        unit = self._stream.time_base
        if packet.dts is None or not unit or not packet.time_base:
            return
        at = _ticks(packet.dts, packet.time_base, unit)
        # Two subtitles may begin together, and where the container says so, any two packets.
        loose = self._stream.type in ("subtitle", "data") or self._stream.container.format.flags & _TIMES_MAY_REPEAT
        earliest = at if self._last_dts is None else self._last_dts + (0 if loose else 1)
        if at < earliest:
            pts = earliest if packet.pts is None else max(_ticks(packet.pts, packet.time_base, unit), earliest)
            duration = _ticks(packet.duration or 0, packet.time_base, unit)
            packet.pts, packet.dts, packet.duration, packet.time_base = pts, earliest, duration, unit
            at = earliest
        self._last_dts = at


class _LeadIn:
    """The packets before a sound's first presented one that its decoder needs to start.

    An encoder's priming (0.02 to 0.06 s) is kept. Of a longer lead-in, left by cutting, only the last packet is kept,
    and only where an edit list can mark it as not to be heard.
    """

    def __init__(self, stream: Stream) -> None:
        self._has_edit_lists = stream.container.format.name in ("mp4", "mov")
        self._begun = stream.type != "audio"
        self._packets: list[Packet] = []

    def add(self, packet: Packet) -> None:
        if not self._begun:
            self._packets = [*self._packets[-_MAX_PRIMING:], packet]

    def before(self, packet: Packet) -> list[Packet]:
        """Those that go before `packet`, the first one that is presented."""
        if self._begun:
            return []
        self._begun = True
        packets, self._packets = self._packets, []
        if len(packets) > _MAX_PRIMING or (
            packets and packet_start(packet) - packet_start(packets[0]) > _MAX_PRIMING_SECONDS
        ):
            return packets[-1:] if self._has_edit_lists else []
        return packets


class _TextConverter:
    """Converts text subtitles to another codec; times are kept."""

    def __init__(self, source: SubtitleStream, encoder: SubtitleCodecContext) -> None:
        self._decoder, self._encoder = source.codec_context, encoder
        self._decoder.open(strict=False)
        encoder.subtitle_header = self._decoder.subtitle_header  # styles, which every text encoder requires

    def __call__(self, packet: Packet) -> Packet | None:
        with contextlib.suppress(av.FFmpegError):  # one damaged line must not cost the others
            lines = self._decoder.decode2(packet)
            if lines is not None and len(lines):
                made = self._encoder.encode_subtitle(lines)
                made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
                made.time_base = packet.time_base
                made.is_keyframe = True
                return made if made.size else None
        return None


def _describe(copy: Stream, template: Stream) -> None:
    if template.type != "attachment":  # whose name and type are metadata, taken over with the template
        describe(template.metadata, copy)
    copy.disposition = template.disposition


def _ticks(time: int, unit: Fraction, other: Fraction) -> int:
    """`time` in another unit, rounded like libav: halves away from zero."""
    exact = abs(time) * unit / other
    whole = (2 * exact + 1) // 2
    return int(whole) if time >= 0 else -int(whole)
