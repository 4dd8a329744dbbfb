"""Writing an animated image: GIF, WebP or PNG, with frame durations and loop count."""

import contextlib
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.container.core import Flags as ContainerFlags
from av.packet import Packet
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dsmap.common.atomic import finish_file
from dsmap.common.output_files import naming_error
from dsmap.common.part_files import part_file
from dsmap.errors import InputError
from dsmap.runtime.video.encoders import silence
from dsmap.runtime.video.write_errors import write_error

ANIMATION_SUFFIXES = (".gif", ".webp", ".apng")
"""Suffixes that mean an animated image for any video; `.png` does so for an animated input alone."""

_MAX_SIDES = {".gif": 65535, ".webp": 16383, ".apng": 2**31 - 1, ".png": 2**31 - 1}
# A palette per frame: one for all would need all frames at once.
_PALETTE, _USE = "stats_mode=single:reserve_transparent=0", "new=1:dither=sierra2_4a"


class _Kind(NamedTuple):
    """How libav writes an animated format."""

    container: str
    codec: str
    pix_fmt: str
    time_base: Fraction
    shortest: int
    """Minimum ticks per frame: players take less for a tenth of a second."""
    options: dict[str, str]


_PNG = _Kind("apng", "apng", "rgb24", Fraction(1, 1000), 1, {"pred": "mixed"})
_KINDS = {
    ".gif": _Kind("gif", "gif", "pal8", Fraction(1, 100), 2, {}),
    ".webp": _Kind("webp", "libwebp_anim", "bgra", Fraction(1, 1000), 1, {"quality": "90"}),
    ".apng": _PNG,
    ".png": _PNG,
}


def check_animation_size(output: Path, width: int, height: int) -> None:
    """Raise InputError where the format of `output` cannot hold frames of that size."""
    limit = _MAX_SIDES[output.suffix.lower()]
    if max(width, height) > limit:
        fact = f"{output.suffix} takes sides of at most {limit}, got {width}x{height}"
        raise InputError(fact, "Write a video, or pass --height with --no-upscale.")


def animation_notes(output: Path, rate: Fraction) -> list[str]:
    """Notes before writing an animated image of `rate` frames per second."""
    kind = _KINDS[output.suffix.lower()]
    if 1 / rate >= kind.shortest * kind.time_base:
        return []
    most = 1 / (kind.shortest * kind.time_base)
    return [f"{output.suffix} shows at most {most} frames a second: it plays slower"]


class AnimationWriter:
    """Encodes frames into `path`, whose suffix is .gif, .webp, .apng or .png; it appears there, complete, in `close()`.

    `time_base`: of the frames' times. `plays`: how often it is played, 0 for endlessly. Raises InputError for an
    unsupported size, DsmapError when the file cannot be written.
    """

    dropped_packets = 0

    def __init__(
        self, path: Path, *, width: int, height: int, time_base: Fraction, plays: int = 0, overwrite: bool = False
    ) -> None:
        silence()
        check_animation_size(path, width, height)
        self.path = path
        self.frames = 0
        self._overwrite, self._time_base, self._kind = overwrite, time_base, _KINDS[path.suffix.lower()]
        self._last_pts, self._last_duration, self._first_pts = -1, 0, 0
        self._done = False
        with self._explained():
            self._part = part_file(path)
        try:
            with self._explained():
                self._open(width, height, plays)
        except BaseException:
            self.discard()
            raise

    def _open(self, width: int, height: int, plays: int) -> None:
        kind = self._kind
        # A GIF stores the number of repetitions; -1 for none.
        again = {"loop": str(0 if plays == 0 else plays - 1 if plays > 1 else -1)} if kind.codec == "gif" else {}
        times = {"plays": str(plays)} if kind.codec == "apng" else {"loop": str(plays)}
        self._container = av.open(str(self._part.absolute()), "w", format=kind.container, options=again or times)
        self._container.flags |= cast(int, ContainerFlags.bitexact.value)
        self._stream = cast(VideoStream, self._container.add_stream(kind.codec, rate=25, options=dict(kind.options)))
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, kind.pix_fmt
        context.time_base = self._stream.time_base = kind.time_base
        context.flags |= Flags.frame_duration
        self._palette = _palette_graph(width, height, kind.time_base) if kind.codec == "gif" else None

    def write(self, rgb: npt.NDArray[np.uint8], pts: int, duration: int = 0) -> None:
        """Encode one frame: uint8 (H, W, 3), shown from `pts` for `duration` (0: unknown) in `time_base`."""
        kind = self._kind
        if not self.frames:
            self._first_pts = pts
        at = round((pts - self._first_pts) * self._time_base / kind.time_base)
        at = max(at, self._last_pts + kind.shortest if self.frames else 0)
        if self.frames:
            self._last_duration = at - self._last_pts
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        ends = round((pts - self._first_pts + duration) * self._time_base / kind.time_base)
        if duration:
            self._last_duration = max(kind.shortest, ends - at)
        with self._explained():
            self._encode(frame, at)
        self._last_pts = at
        self.frames += 1

    def _encode(self, frame: VideoFrame, at: int) -> None:
        frame.pts, frame.time_base = at, self._kind.time_base
        if self._palette is not None:
            self._palette.push(frame)
            pulled = self._palette.pull()
            assert isinstance(pulled, VideoFrame)
            frame = pulled
        elif self._kind.pix_fmt != "rgb24":
            frame = frame.reformat(format=self._kind.pix_fmt)
        frame.pts, frame.time_base, frame.duration = at, self._kind.time_base, self._last_duration
        self._container.mux(self._stream.encode(frame))

    def copy(self, packet: Packet) -> None:
        """Do nothing: animated images have no sound."""

    def close(self, *, drop_audio_after_video: bool = False, interrupted: bool = False) -> None:
        """Finish the file, and give it its name. Raises DsmapError, and removes it, when it could not be written."""
        if self._done:
            return
        try:
            with self._explained():
                self._container.mux(self._stream.encode(None))
                self._container.close()
                if self._last_duration:
                    _set_last_duration(self._part, self._kind, self._last_duration)
        except BaseException:
            self.discard()
            raise
        self._done = True
        try:
            finish_file(self._part, self.path, replace=self._overwrite)
        except OSError as error:
            raise naming_error("animation", self._part, self.path, error) from error

    def discard(self) -> None:
        """Remove the unfinished file."""
        if self._done:
            return
        self._done = True
        with contextlib.suppress(av.FFmpegError, OSError, ValueError, AttributeError):
            self._container.close()
        self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            advice = "check the folder and the disk"
            raise write_error(self.path, error, frames=self.frames, advice=advice) from error


def _palette_graph(width: int, height: int, time_base: Fraction) -> av.filter.Graph:
    """A filter from RGB to 256 colours, with a palette per frame."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=time_base)
    split, palette, use = graph.add("split"), graph.add("palettegen", _PALETTE), graph.add("paletteuse", _USE)
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _set_last_duration(path: Path, kind: _Kind, ticks: int) -> None:
    """Correct the last frame's duration in a WebP or PNG, which libav guesses."""
    if kind.codec == "gif":
        return
    with path.open("r+b") as file:
        at, last = (8, None) if kind.codec == "apng" else (12, None)
        while len(head := file.read(8) if file.seek(at) >= 0 else b"") == 8:
            if kind.codec == "apng":
                name, size, extra = head[4:], int.from_bytes(head[:4], "big"), 4
            else:
                name, size, extra = head[:4], int.from_bytes(head[4:], "little"), 0
            if name in (b"fcTL", b"ANMF"):
                last = at
            at += 8 + size + extra + (size % 2 if not extra else 0)
        if last is None:
            return
        if kind.codec == "apng":
            _set_png_delay(file, last, ticks)
        else:
            file.seek(last + 8 + 12)
            file.write(min(ticks, 2**24 - 1).to_bytes(3, "little"))


def _set_png_delay(file: BinaryIO, at: int, milliseconds: int) -> None:
    file.seek(at + 4)
    body = bytearray(file.read(4 + 26))
    delay = Fraction(milliseconds, 1000).limit_denominator(65535)
    if delay.numerator > 65535:
        delay = Fraction(65535, 1)
    body[24:28] = delay.numerator.to_bytes(2, "big") + delay.denominator.to_bytes(2, "big")
    file.seek(at + 4)
    file.write(bytes(body) + zlib.crc32(body).to_bytes(4, "big"))
