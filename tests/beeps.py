"""Clips whose image flashes while their sound beeps, so that a test can check whether the two are in step."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np

RATE, SIZE = 48000, (64, 48)
PERIOD, LENGTH = Fraction(1, 2), Fraction(2, 25)  # seconds: between beeps, and of a beep
_FPS = 25


def make_beeps(
    path: Path,
    *,
    seconds: int = 2,
    start: Fraction | int = 0,
    sound_start: Fraction | int | None = None,
    video: str = "libx264",
    sound: str | None = "aac",
    options: dict[str, str] | None = None,
    container: str | None = None,
    muxing: dict[str, str] | None = None,
    pitches: Sequence[int] = (1000,),
) -> Path:
    """Flashes and beeps from `start` (seconds) on, every half second; the sound may begin at another time.

    `pitches`: of one sound stream each.
    """
    first = Fraction(start)
    with av.open(str(path), "w", format=container, options=muxing or {}) as out:
        image = out.add_stream(video, rate=_FPS, options=options or ({"bf": "0"} if video == "libx264" else {}))
        image.width, image.height = SIZE
        image.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
        tones = [out.add_stream(sound, rate=RATE) for _ in pitches] if sound else []
        for tone in tones:
            tone.layout, tone.bit_rate = "mono", 96_000
        tracks = [_images(image, seconds, first)]
        begin = first if sound_start is None else Fraction(sound_start)
        tracks += [_sound(tone, seconds, begin, pitch) for tone, pitch in zip(tones, pitches, strict=False)]
        packets = list(itertools.chain.from_iterable(tracks))
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            out.mux(packet)
    return path


def flashes(path: Path) -> list[float]:
    """Seconds at which the image turns bright."""
    found, bright = [], False
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            is_bright = float(frame.to_ndarray(format="gray").mean()) > 120
            if is_bright and not bright:
                found.append(float(frame.pts * frame.time_base))
            bright = is_bright
    return found


def beeps(path: Path, stream: int = 0) -> list[float]:
    """Seconds at which the sound begins after silence; every decoded frame counts at its own time."""
    found: list[float] = []
    quiet, begin = RATE, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=stream):
            samples = frame.to_ndarray()
            scale = np.iinfo(samples.dtype).max if samples.dtype.kind == "i" else 1
            channels = 1 if frame.format.is_planar else len(frame.layout.channels)
            wave = np.abs(samples.reshape(-1, channels)[:, 0] if channels > 1 else samples[0]) / scale
            begin = begin if frame.pts is None else float(frame.pts * frame.time_base)
            loud = np.flatnonzero(wave > 0.2)
            since = np.diff(loud, prepend=-quiet)  # samples of silence before each
            found += [round(begin + float(at) / frame.sample_rate, 3) for at in loud[since > frame.sample_rate * 0.1]]
            quiet = len(wave) + (-int(loud[-1]) if len(loud) else quiet)
            begin += len(wave) / frame.sample_rate
    return found


def packets(path: Path, kind: str = "audio") -> list[bytes]:
    """The packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(one for one in container.streams if one.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def _is_loud(at: Fraction) -> bool:
    return at % PERIOD < LENGTH


def _images(stream: av.VideoStream, seconds: int, first: Fraction) -> list[av.Packet]:
    made = []
    stream.codec_context.time_base = Fraction(1, _FPS)
    for index in range(seconds * _FPS):
        value = 235 if _is_loud(Fraction(index, _FPS)) else 16
        frame = av.VideoFrame.from_ndarray(np.full((SIZE[1], SIZE[0]), value, np.uint8), format="gray")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = index + round(first * _FPS), Fraction(1, _FPS)
        made += stream.encode(frame)
    return [*made, *stream.encode(None)]


def _sound(stream: av.AudioStream, seconds: int, first: Fraction, pitch: int) -> list[av.Packet]:
    made = []
    times = np.arange(seconds * RATE) / RATE
    wave = np.where(times % float(PERIOD) < float(LENGTH), 0.8 * np.sin(2 * np.pi * pitch * times), 0)
    for begin in range(0, len(wave), 960):
        frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + 960].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = begin + round(first * RATE)
        made += stream.encode(frame)
    return [*made, *stream.encode(None)]
