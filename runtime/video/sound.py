"""Encoding sound again, for containers that cannot hold it as it is: AAC, in WebM Opus."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet

_ENCODERS = {".webm": "libopus"}
_NAMES = {"aac": "AAC", "libopus": "Opus"}
_RATES = {
    "aac": (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000),
    "libopus": (48000, 24000, 16000, 12000, 8000),
}
_BITS_PER_CHANNEL = 96_000  # a second
_MAX_OFFSET = Fraction(3, 100)  # seconds by which sound may be off before it is moved to its place
_MAX_SILENCE = 10  # seconds
_SILENCE_CHUNK = Fraction(1)  # seconds


def encoder_for(suffix: str) -> str:
    """libav's name of the encoder for the container."""
    return _ENCODERS.get(suffix.lower(), "aac")


def encoder_title(suffix: str) -> str:
    """The encoder's name for messages."""
    return _NAMES[encoder_for(suffix)]


def add_encoded(container: OutputContainer, suffix: str, stream: AudioStream) -> "SoundEncoder":
    """Add a stream to `container` for the sound of `stream`, encoded again."""
    name = encoder_for(suffix)
    layout = _layout(name, stream)
    rate = _rate(name, stream.codec_context.sample_rate)
    encoded = cast(AudioStream, container.add_stream(name, rate=rate))
    context = encoded.codec_context
    context.layout = layout
    context.bit_rate = _BITS_PER_CHANNEL * len(context.layout.channels)
    context.time_base = encoded.time_base = Fraction(1, rate)
    context.flags |= Flags.bitexact
    return SoundEncoder(encoded)


class SoundEncoder:
    """Encodes packets of the input's sound as packets of `stream`. Samples keep their time to within 0.03 s.

    Short gaps are filled with silence and overlaps removed, so that the result plays the same everywhere.
    """

    def __init__(self, stream: AudioStream) -> None:
        self.stream = stream
        self.failures = 0
        """Packets that did not decode."""
        self._rate = stream.codec_context.sample_rate
        self._resampler: AudioResampler | None = None
        self._set_up_for: tuple[str, str, int] | None = None
        self._next: int | None = None  # the next sample
        self._given = 0  # samples given to the encoder

    def packets(self, packet: Packet) -> Iterator[Packet]:
        """The packets for a packet of the input. Packets that are not presented only start the decoder."""
        try:
            frames = cast("list[AudioFrame]", packet.decode())
        except av.FFmpegError:
            self.failures += 1
            return
        if frames and frames[0].pts is None and self._next is None and packet.pts is not None:
            frames[0].pts, frames[0].time_base = packet.pts, packet.time_base
        for frame in frames:
            yield from self._encoded(frame)

    def flush(self) -> Iterator[Packet]:
        """The last packets."""
        if self._next is None:
            return
        for frame in self._resampled(None):
            yield from self._placed(frame, None)
        yield from self.stream.encode(None)

    def _encoded(self, frame: AudioFrame) -> Iterator[Packet]:
        at = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._set_up_for:
            for rest in self._resampled(None):
                yield from self._placed(rest, None)
            context = self.stream.codec_context
            self._resampler = AudioResampler(context.format, context.layout, self._rate)
            self._set_up_for = kind
        frame.pts = None  # the resampler would leave gaps empty
        for made in self._resampled(frame):
            yield from self._placed(made, at)
            at = None

    def _resampled(self, frame: AudioFrame | None) -> list[AudioFrame]:
        if self._resampler is None:
            return []
        with contextlib.suppress(av.error.EOFError):
            return [made for made in self._resampler.resample(frame) if made is not None]
        return []

    def _placed(self, frame: AudioFrame, at: Fraction | None) -> Iterator[Packet]:
        """Encode resampled sound that belongs at `at` seconds; None: right after what came before."""
        due = self._next if at is None else round(at * self._rate)
        if self._next is None:
            self._next = due or 0
        elif due is not None and abs(due - self._next) > _MAX_OFFSET * self._rate:
            if due > self._next:
                yield from self._gap(due, frame)
            else:
                skip = self._next - due
                if skip >= frame.samples:
                    return
                frame = _without(frame, skip)
        yield from self._encode(frame)

    def _gap(self, due: int, like: AudioFrame) -> Iterator[Packet]:
        """A gap until `due`: silence, or if it is long, no packets."""
        assert self._next is not None
        if due - self._next <= _MAX_SILENCE * self._rate:
            yield from self._silence(due - self._next, like)
            return
        size = self.stream.codec_context.frame_size or 1
        yield from self._silence(-self._given % size, like)  # fills the encoder's last frame
        self._next = due

    def _silence(self, samples: int, like: AudioFrame) -> Iterator[Packet]:
        most = int(_SILENCE_CHUNK * self._rate)
        while samples > 0:
            count = min(samples, most)
            silence = AudioFrame(like.format.name, like.layout.name, count)
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            silence.sample_rate = self._rate
            yield from self._encode(silence)
            samples -= count

    def _encode(self, frame: AudioFrame) -> Iterator[Packet]:
        assert self._next is not None
        frame.pts, frame.time_base = self._next, Fraction(1, self._rate)
        self._next += frame.samples
        self._given += frame.samples
        yield from self.stream.encode(frame)


def _without(frame: AudioFrame, skip: int) -> AudioFrame:
    """The frame without its first `skip` samples."""
    width = 1 if frame.format.is_planar else len(frame.layout.channels)
    samples = cast(Any, np.ascontiguousarray(frame.to_ndarray()[:, skip * width :]))  # of the format's dtype
    rest = AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    rest.sample_rate = frame.sample_rate
    return rest


def _rate(encoder: str, rate: int) -> int:
    """The encoder's lowest sample rate not below `rate`, or its highest."""
    rates = _RATES[encoder]
    return min((known for known in rates if known >= rate), default=rates[0])


def _layout(encoder: str, stream: AudioStream) -> str:
    """The stream's channel layout if the encoder takes it, otherwise stereo."""
    count = len(stream.codec_context.layout.channels)
    wanted = {1: "mono", 2: "stereo"}.get(count, stream.codec_context.layout.name)
    trial = cast(AudioCodecContext, av.CodecContext.create(encoder, "w"))
    try:
        trial.sample_rate, trial.layout, trial.format = 48000, wanted, "fltp" if encoder == "aac" else "flt"
        trial.open()
    except (av.FFmpegError, ValueError):
        return "stereo"
    return wanted
