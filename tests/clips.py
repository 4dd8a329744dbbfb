"""Small real clips for the video tests, encoded on the fly."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import numpy.typing as npt
import pytest

MPEG, JPEG = 1, 2
_YUV_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@dataclass(frozen=True, kw_only=True)
class Video:
    """The content of a clip, as any player would read it."""

    times: list[Fraction]
    frames: list[npt.NDArray[np.uint8]]
    audio: list[list[tuple[Fraction, bytes]]]
    """Per audio stream: (seconds, packet)."""


def read(path: Path) -> Video:
    """Decode `path` plainly with PyAV: (H, W, 3) RGB, not turned, BT.709 when untagged."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame for packet in container.demux(stream) for frame in packet.decode()]
        frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in decoded]
        times = [frame.pts * frame.time_base for frame in decoded]
    audio = []
    with av.open(str(path)) as container:
        count = len(container.streams.audio)
    for index in range(count):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(audio=index) if packet.size]
            audio.append([(packet.pts * packet.time_base, bytes(packet)) for packet in packets])
    return Video(times=times, frames=frames, audio=audio)


def grey(index: int) -> int:
    """The grey level of frame `index` of a clip: identifies the frame."""
    return 20 + (index * 37) % 200


def has_frames(part: Path) -> bool:
    """Whether frames lie in an mp4 that is being written; its head alone is shorter."""
    return part.exists() and part.stat().st_size > 1000


def make_clip(
    path: Path,
    *,
    frames: int = 20,
    size: tuple[int, int] = (64, 48),
    colours: Sequence[tuple[int, int, int]] = (),
    colourspace: int = 2,
    colour_range: int = MPEG,
    primaries: int = 2,
    trc: int = 2,
    pix_fmt: str = "yuv420p",
    time_base: Fraction = Fraction(1, 30000),
    pts: Sequence[int] | None = None,
    last_duration: int = 0,
    rotation: int = 0,
    hflip: bool = False,
    sample_aspect: Fraction | None = None,
    audio: Sequence[str] = (),
    audio_seconds: float = 1.0,
    audio_start: float = 0.0,
    codec: str = "libx264",
    container_options: dict[str, str] | None = None,
    title: str | None = None,
    ramp: bool = False,
) -> Path:
    """Write a clip of grey frames (see `grey`) or of `colours` in turn, with a tone per encoder name in `audio`.

    `size` is (width, height) as stored. `colourspace`, `primaries`, `trc`: H.273 numbers, 2 for untagged (values are
    then written by BT.601 below 720 lines). `ramp`: frames are darker at the left and at the
    top, so that no side is like another.
    """
    pts = list(pts) if pts is not None else [index * 1001 for index in range(frames)]
    with av.open(str(path), "w", options=container_options or {}) as out:
        video = out.add_stream(codec, rate=30, options={"crf": "6", "g": "12"} if codec == "libx264" else {})
        context = video.codec_context
        context.width, context.height, context.pix_fmt = *size, pix_fmt
        context.time_base = video.time_base = time_base
        context.flags |= av.codec.context.Flags.frame_duration
        context.colorspace, context.color_range, context.color_primaries = colourspace, colour_range, primaries
        context.color_trc = trc
        if sample_aspect:
            context.sample_aspect_ratio = sample_aspect
        if rotation or hflip:
            video.set_display_rotation(rotation, hflip=hflip)
        if title:
            out.metadata["title"] = title
        tones = [_add_tone(out, name, 440 * (number + 1)) for number, name in enumerate(audio)]
        for number, (stream, _) in enumerate(tones):
            stream.metadata["language"] = ("eng", "deu", "fra")[number]
        for stream, pitch in tones:
            _write_tone(out, stream, pitch, audio_seconds, audio_start)
        for index, time in enumerate(pts):
            matrix = colourspace if colourspace in _YUV_WEIGHTS else 6
            rgb = colours[index % len(colours)] if colours else (grey(index),) * 3
            frame = plain_frame(size, rgb, pix_fmt, matrix, colour_range)
            if ramp:
                darken(frame)
            frame.pts, frame.time_base = time, time_base
            frame.duration = pts[index + 1] - time if index + 1 < len(pts) else last_duration
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def plain_frame(
    size: tuple[int, int], rgb: tuple[int, int, int], pix_fmt: str, matrix: int, colour_range: int
) -> av.VideoFrame:
    """A frame of one colour, its YUV values computed here by the standard's formula and not by swscale."""
    frame = av.VideoFrame(*size, pix_fmt)
    ten_bits = pix_fmt.endswith("10le")
    for plane, value in zip(frame.planes, yuv(rgb, matrix, colour_range, 10 if ten_bits else 8), strict=True):
        kind = np.uint16 if ten_bits else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, value, kind).tobytes())
    return frame


def darken(frame: av.VideoFrame) -> None:
    """Makes the left and the top of a plain frame darker, by up to 70 levels of its 8-bit luminance."""
    plane = frame.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size).astype(int)
    slope = np.add.outer(np.linspace(30, 0, plane.height), np.linspace(40, 0, plane.line_size))
    plane.update(np.clip(luma - slope, 16, 235).astype(np.uint8).tobytes())


def yuv(rgb: tuple[int, int, int], matrix: int, colour_range: int, bits: int = 8) -> list[int]:
    """Y, Cb, Cr of an 8-bit colour."""
    kr, kb = _YUV_WEIGHTS[matrix]
    red, green, blue = (value / 255 for value in rgb)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = ((blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr)))
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    if colour_range == JPEG:
        return [min(top, round(value)) for value in (luma * top, *(c * top + 128 * unit for c in chroma))]
    return [round((16 + 219 * luma) * unit), *(round((128 + 224 * c) * unit) for c in chroma)]


def _add_tone(out: av.container.OutputContainer, codec: str, pitch: int) -> tuple[av.AudioStream, int]:
    stream = out.add_stream(codec, rate=48000)
    stream.layout = "mono"
    return stream, pitch


def _write_tone(
    out: av.container.OutputContainer, stream: av.AudioStream, pitch: int, seconds: float, start: float
) -> None:
    count, size = int(seconds * 48000), 960
    for first in range(0, count, size):
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(first, first + size) / 48000)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, first + int(start * 48000), Fraction(1, 48000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def truncate(path: Path, share: float) -> Path:
    """Cut the end of the file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def shared_videos() -> Path:
    """The folder of real videos: $DSMAP_SHARED/videos, or shared/videos beside the checkout. Skips without it."""
    root = Path(os.environ.get("DSMAP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (root / "videos").is_dir():
        pytest.skip("no folder of real videos (set DSMAP_SHARED)")
    return root / "videos"
