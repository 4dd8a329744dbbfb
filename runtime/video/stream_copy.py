"""Streams that are not translated: audio, subtitles, fonts and data go into the output packet by packet.

Everything is copied bit for bit where the container takes it. Text subtitles are rewritten for a container that knows
another kind of text only, sound is encoded anew where that was asked for; the rest is left out, and named.
"""

import contextlib
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream

from dsmap.runtime.video.containers import add_copy, codec_name, holds, no_room
from dsmap.runtime.video.sound import SoundEncoder, add_encoded

_TEXT_CODECS = {".mp4": "mov_text", ".m4v": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
_STREAM_METADATA = ("language", "title", "handler_name")
# What describes the old file rather than its content.
_TECHNICAL_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
_MOST_HELD = 2000  # packets held back for the video to catch up: about 40 s of AAC
_MOST_HELD_BYTES = 64 << 20
_EMPTY_MOV_TEXT = 2  # bytes: the length of a text of none
_MOST_STREAMS = 999  # beside the video: PyAV crashes when libav refuses the 1001st stream, and no input has more
_TIMES_MAY_REPEAT = 0x20000  # FFmpeg's AVFMT_TS_NONSTRICT
_MOST_PRIMING, _LONGEST_PRIMING = 4, Fraction(1, 10)  # packets, seconds: AAC's is 1 or 2 packets
_MOST_ENCODED = 64
_NO_TIME = Fraction(0)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A stream that the output will not have."""

    stream: Stream
    reason: str

    def __str__(self) -> str:
        language = self.stream.metadata.get("language")
        return f"{self.stream.type} stream {self.stream.index}{f' ({language})' if language else ''}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """What becomes of the streams that are not translated."""

    copied: tuple[Stream, ...] = ()
    """Bit for bit."""
    converted: tuple[tuple[Stream, str], ...] = ()
    """Text subtitles, each with the codec that they are rewritten in."""
    encoded: tuple[AudioStream, ...] = ()
    """Sound that is encoded anew."""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def written(self) -> list[Stream]:
        """The streams that the output has something of."""
        return [*self.copied, *(stream for stream, _ in self.converted), *self.encoded]


def plan_copies(suffix: str, streams: Sequence[Stream], audio: str = "copy") -> CopyPlan:
    """What a container (its suffix, one of `FORMATS`) can take of `streams`.

    `audio`: "copy"; "convert" encodes all sound anew; "none" leaves it out. Raises InputError for audio that cannot be
    copied.
    """
    suffix = suffix.lower()
    fitting: list[Stream] = []
    converted: list[tuple[Stream, str]] = []
    encoded: list[AudioStream] = []
    left_out: list[LeftOut] = []
    for stream in streams:
        if _is_chapter_text(stream):
            continue  # chapters travel by themselves
        if isinstance(stream, AudioStream) and (reason := _why_silent(stream, audio)):
            left_out.append(LeftOut(stream=stream, reason=reason))
        elif isinstance(stream, AudioStream) and audio == "convert":
            encoded.append(stream)
        elif _fits(suffix, stream) and holds(suffix, [stream]):
            fitting.append(stream)
        elif stream.type == "audio":
            raise no_room(suffix, [one for one in streams if isinstance(one, AudioStream)])
        elif isinstance(stream, SubtitleStream) and _is_text(stream):
            converted.append((stream, _TEXT_CODECS[suffix]))
        else:
            left_out.append(LeftOut(stream=stream, reason=f"{suffix} files cannot hold {_words(stream)}"))
    converted, encoded = converted[:_MOST_STREAMS], encoded[:_MOST_ENCODED]
    room = max(_MOST_STREAMS - len(converted) - len(encoded), 0)
    copied = fitting[: _most_together(suffix, fitting[:room])]
    for stream in fitting[len(copied) :]:
        if stream.type == "audio":
            raise no_room(suffix, [stream])
        left_out.append(LeftOut(stream=stream, reason=f"{suffix} files cannot hold so many streams"))
    return CopyPlan(copied=tuple(copied), converted=tuple(converted), encoded=tuple(encoded), left_out=tuple(left_out))


def _why_silent(stream: AudioStream, audio: str) -> str:
    """Why nothing of a sound can be in the result; empty where it can."""
    if audio == "none":
        return "--audio none"
    if not stream.codec_context.sample_rate:
        return "it is announced, and none of it was found in the beginning of the file"
    return ""


def _most_together(suffix: str, streams: Sequence[Stream]) -> int:
    """How many of the streams, from the first on, the container takes together. Each fits alone."""
    if holds(suffix, streams):
        return len(streams)
    fits, too_many = 0, len(streams)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if holds(suffix, streams[:middle]) else (fits, middle)
    return fits


class StreamCopier:
    """Adds the streams of `plan` to a new container, and turns their packets into packets for it."""

    def __init__(self, container: OutputContainer, plan: CopyPlan, suffix: str) -> None:
        self._tracks: dict[int, _Track] = {}
        self._encoders: dict[int, SoundEncoder] = {}
        self.windows_names = 0
        """Sounds whose tracks must be named when the file is whole: see `windows_sound`."""
        for sound in plan.encoded:
            self._encoders[sound.index] = encoder = add_encoded(container, suffix, sound)
            _describe(encoder.stream, sound)
        for stream in plan.copied:
            copy, by_windows_name = add_copy(container, suffix, stream)
            self.windows_names += by_windows_name
            _describe(copy, stream)
            self._tracks[stream.index] = _Track(copy)
        for stream, codec in plan.converted:
            source = cast(SubtitleStream, stream)
            text = container.add_stream(codec)
            text.time_base = stream.time_base
            _describe(text, stream)
            converter = _TextConverter(source, cast(SubtitleCodecContext, text.codec_context))
            self._tracks[stream.index] = _Track(text, converter)

    def knows(self, packet: Packet) -> bool:
        """Whether the packet's stream is in the output."""
        return packet.stream.index in self._tracks or packet.stream.index in self._encoders

    def packets(self, packet: Packet) -> Iterable[Packet]:
        """What to mux for a packet of the input: itself, itself rewritten, or nothing."""
        if packet.stream.index in self._encoders:
            return self._encoders[packet.stream.index].packets(packet)
        return self._tracks[packet.stream.index].packets(packet)

    def rest(self) -> Iterator[Packet]:
        """What the encoders still hold, at the end."""
        for encoder in self._encoders.values():
            yield from encoder.flush()

    @property
    def failures(self) -> int:
        """Packets of encoded sound that did not decode: there is silence instead."""
        return sum(encoder.failures for encoder in self._encoders.values())


class HeldPackets:
    """Packets in the order of their time, held until the video has got there; few enough that memory stays small."""

    def __init__(self) -> None:
        self._heap: list[tuple[Fraction, int, Packet]] = []
        self._bytes = 0
        self._count = itertools.count()

    def add(self, packet: Packet) -> None:
        """Hold one more."""
        heapq.heappush(self._heap, (start_of(packet), next(self._count), packet))
        self._bytes += packet.size

    def due(self, end: Fraction) -> Iterator[Packet]:
        """Take out those that start no later than `end` (seconds), and the earliest where too much is held."""
        while self._heap and (self._heap[0][0] <= end or self._too_many):
            yield self._pop()

    def drain(self, *, before: Fraction | None = None) -> Iterator[Packet]:
        """Take out all; with `before` (seconds), those that start at or after it are dropped."""
        while self._heap:
            packet = self._pop()
            if before is None or start_of(packet) < before:
                yield packet

    @property
    def _too_many(self) -> bool:
        return len(self._heap) > _MOST_HELD or self._bytes > _MOST_HELD_BYTES

    def _pop(self) -> Packet:
        _, _, packet = heapq.heappop(self._heap)
        self._bytes -= packet.size
        return packet


def start_of(packet: Packet) -> Fraction:
    """Where the packet begins, in seconds."""
    time = packet.pts if packet.pts is not None else packet.dts
    return (time or 0) * packet.time_base if packet.time_base else _NO_TIME


def _ticks(time: int, unit: Fraction, other: Fraction) -> int:
    """`time` in another unit, rounded as libav does: halves away from zero."""
    exact = abs(time) * unit / other
    whole = (2 * exact + 1) // 2
    return int(whole) if time >= 0 else -int(whole)


def describe(metadata: dict[str, str], stream: Stream) -> None:
    """Give an output stream the language and title in `metadata`, and nothing else."""
    known = {key.lower(): text for key, text in metadata.items()}
    if "name" in known:
        known.setdefault("title", known["name"])  # what mp4 calls it
    stream.metadata.clear()
    stream.metadata.update({key: known[key] for key in _STREAM_METADATA if key in known})


def container_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """What of a file's metadata (title, artist, ...) is true for its translation too."""
    return {key.lower(): text for key, text in metadata.items() if key.lower() not in _TECHNICAL_METADATA}


class _Track:
    """One stream of the output, with a clock that never stands still."""

    def __init__(self, stream: Stream, converter: "_TextConverter | None" = None) -> None:
        self._stream = stream
        self._converter = converter
        self._is_mov_text = converter is None and stream.type == "subtitle" and codec_name(stream) == "mov_text"
        self._last_dts: int | None = None
        self._lead_in = _LeadIn(stream)

    def packets(self, packet: Packet) -> list[Packet]:
        if packet.is_discard:  # cut away by an edit list: the source does not present it
            self._lead_in.add(packet)
            return []
        return [made for one in (*self._lead_in.before(packet), packet) for made in self._copies(one)]

    def _copies(self, packet: Packet) -> list[Packet]:
        if self._stream.disposition & Disposition.attached_pic and packet.pts is None:
            packet.pts = packet.dts = 0  # a cover picture
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:
            return []  # no time at all: no container takes it
        self._step_on(packet)
        if self._is_mov_text and packet.size <= _EMPTY_MOV_TEXT:
            return []  # the pause between two texts: the muxer writes those itself
        made = self._converter(packet) if self._converter else packet
        if made is None:
            return []
        made.stream = self._stream
        return [made]

    def _step_on(self, packet: Packet) -> None:
        """No packet at or before the one before it: muxers refuse that, and damaged recordings have it.

        Counted in the output's unit: two times of the input's finer clock may be one there.
        """
        unit = self._stream.time_base
        if packet.dts is None or not unit or not packet.time_base:
            return
        at = _ticks(packet.dts, packet.time_base, unit)
        # Two lines of text may begin together, and where the container says so any two packets.
        loose = self._stream.type in ("subtitle", "data") or self._stream.container.format.flags & _TIMES_MAY_REPEAT
        earliest = at if self._last_dts is None else self._last_dts + (0 if loose else 1)
        if at < earliest:
            pts = earliest if packet.pts is None else max(_ticks(packet.pts, packet.time_base, unit), earliest)
            duration = _ticks(packet.duration or 0, packet.time_base, unit)
            packet.pts, packet.dts, packet.duration, packet.time_base = pts, earliest, duration, unit
            at = earliest
        self._last_dts = at


class _LeadIn:
    """The packets in front of a sound's first presented one that its decoder needs to begin with.

    An encoder's priming (0.02 to 0.06 s) stays whole. Of a longer lead-in, which cutting has left, the last packet
    stays where an edit list can say that it is not to be heard.
    """

    def __init__(self, stream: Stream) -> None:
        self._has_edit_lists = stream.container.format.name in ("mp4", "mov")
        self._begun = stream.type != "audio"
        self._packets: list[Packet] = []

    def add(self, packet: Packet) -> None:
        if not self._begun:
            self._packets = [*self._packets[-_MOST_PRIMING:], packet]

    def before(self, packet: Packet) -> list[Packet]:
        """Those that go before `packet`, the first one that is presented."""
        if self._begun:
            return []
        self._begun = True
        packets, self._packets = self._packets, []
        if len(packets) > _MOST_PRIMING or (packets and start_of(packet) - start_of(packets[0]) > _LONGEST_PRIMING):
            return packets[-1:] if self._has_edit_lists else []
        return packets


class _TextConverter:
    """Rewrites text subtitles in another codec; times stay as they are."""

    def __init__(self, source: SubtitleStream, encoder: SubtitleCodecContext) -> None:
        self._decoder, self._encoder = source.codec_context, encoder
        self._decoder.open(strict=False)
        encoder.subtitle_header = self._decoder.subtitle_header  # styles: every text encoder asks for them

    def __call__(self, packet: Packet) -> Packet | None:
        with contextlib.suppress(av.FFmpegError):  # one damaged line: the others are worth having
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


def _is_text(stream: SubtitleStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.text_sub


def _fits(suffix: str, stream: Stream) -> bool:
    """What a container's header does not tell."""
    if stream.type == "attachment":
        return suffix == ".mkv"  # WebM takes them and does not write them
    if stream.type == "data":
        return stream.name not in (None, "bin_data")  # time codes and camera data fail when the file is closed
    return stream.type != "video" or bool(stream.disposition & Disposition.attached_pic)


def _words(stream: Stream) -> str:
    if stream.type == "attachment":
        return f"attachments ({stream.name})"
    if stream.type == "video":
        return "a cover picture" if stream.disposition & Disposition.attached_pic else "a second, untranslated video"
    return f"{codec_name(stream)} {'subtitles' if stream.type == 'subtitle' else stream.type}"


def _is_chapter_text(stream: Stream) -> bool:
    """Whether this is the track in which mov and mp4 keep the names of chapters."""
    return stream.type == "data" and stream.name == "bin_data" and bool(stream.container.chapters())
