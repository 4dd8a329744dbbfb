"""Writes a video: H.264 yuv420p tagged BT.709, audio packets as they came, timestamps as they came."""

import contextlib
import errno
import io
import math
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.video_frames import RgbToFrame, pad_to_even

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
# 18 is visually lossless; "veryfast" costs half the time of "medium" at this quality and the same size.
_ENCODER_OPTIONS = {"crf": "18", "preset": "veryfast"}
_BT709, _LIMITED = 1, 1
_FINEST_TIME_BASE = Fraction(1, 1_000_000)  # mp4 counts a sample's duration in 32 bits
_MAX_HELD_PACKETS = 2000  # audio held back for the video to catch up, about 40 s of AAC
_STREAM_METADATA = ("language", "title", "handler_name")
_CONTAINER_METADATA = ("title", "artist", "album", "comment", "description", "copyright", "date", "creation_time")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class VideoWriter:
    """Encodes frames and copies audio into `path`; the container follows its suffix (see `FORMATS`).

    `width`, `height`: of the frames; odd sides are padded by one repeated pixel. `time_base`: unit of the frames'
    timestamps. `rate`: frames per second, about, for rate control only. `audio`: streams whose packets will be copied.
    They must fit the container: see `check_container`. Raises DsmapError when the file cannot be written.

    Call `close()` to finish the file or `discard()` to remove it.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        rate: Fraction,
        sample_aspect: Fraction = Fraction(1),
        audio: Sequence[AudioStream] = (),
        metadata: dict[str, str] | None = None,
        video_metadata: dict[str, str] | None = None,
    ) -> None:
        self.path = path
        self.frames = 0
        self._time_base = time_base
        self._to_frame = RgbToFrame()
        self._end = Fraction(0)  # seconds: where the video written so far ends
        self._held: deque[Packet] = deque()
        self._last_dts: dict[int, int] = {}
        with self._explained():
            self._container = _open(path, max(time_base, _FINEST_TIME_BASE))
            try:
                self._video = _add_video(self._container, width, height, time_base, rate, sample_aspect)
                _copy_metadata(video_metadata or {}, self._video, _STREAM_METADATA)
                self._audio = {stream.index: _add_audio(self._container, stream) for stream in audio}
                self._container.metadata.update(_selected(metadata or {}, _CONTAINER_METADATA))
                self._container.start_encoding()  # writes the header: what is wrong shows now
            except BaseException:
                self.discard()
                raise

    def write(self, rgb: npt.NDArray[np.uint8], pts: int, duration: int = 0) -> None:
        """Encode one frame: uint8 (H, W, 3), shown from `pts` for `duration` (0: unknown) in `time_base`."""
        frame = self._to_frame(pad_to_even(rgb))
        frame.pts, frame.time_base, frame.duration = pts, self._time_base, duration
        with self._explained():
            self._container.mux(self._video.encode(frame))
            self.frames += 1
            self._end = (pts + max(duration, 1)) * self._time_base
            self._release_audio()

    def copy(self, packet: Packet) -> None:
        """Pass an audio packet on. It is held until the video has got there, so that both can end together."""
        self._held.append(packet)
        with self._explained():
            self._release_audio()

    def close(self, *, drop_audio_after_video: bool = False) -> None:
        """Finish the file. Raises DsmapError, and removes the file, when it could not be written whole."""
        if drop_audio_after_video:
            self._held = deque(packet for packet in self._held if _start(packet) < self._end)
        try:
            with self._explained():
                while self._held:
                    self._mux_audio(self._held.popleft())
                self._container.mux(self._video.encode(None))
                self._container.close()
                self._check()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the unfinished file."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()
        self.path.unlink(missing_ok=True)

    def _release_audio(self) -> None:
        while self._held and (_start(self._held[0]) <= self._end or len(self._held) > _MAX_HELD_PACKETS):
            self._mux_audio(self._held.popleft())

    def _mux_audio(self, packet: Packet) -> None:
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:
            return  # no time at all: no container takes it
        # Muxers refuse a clock that stands still or runs back, as damaged recordings have it.
        index = packet.stream.index
        if index in self._last_dts and packet.dts <= self._last_dts[index]:
            packet.dts = self._last_dts[index] + 1
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._last_dts[index] = packet.dts
        packet.stream = self._audio[index]
        self._container.mux(packet)

    def _check(self) -> None:
        """A full disk can go unnoticed until the very end: look at what was written."""
        with av.open(str(self.path.absolute())) as written:
            frames = written.streams.video[0].frames
        if frames not in (0, self.frames):  # matroska does not say (0)
            raise DsmapError(
                f"{self.path} came out with {frames} frames instead of {self.frames}",
                "free some disk space and try again",
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            if error.errno in _DISK_FULL:
                raise DsmapError(
                    f"the disk is full: {self.path.parent} has no room for the video (after {self.frames} frames)",
                    "free some space, or pass -o with a folder on another disk; nothing was kept",
                ) from error
            raise DsmapError(
                f"{self.path} could not be written: {error.strerror or error}",
                "check the folder and the disk; with an unusual frame size try --height 720",
            ) from error


def check_container(path: Path, audio: Sequence[AudioStream]) -> None:
    """Raise InputError when the container that `path`'s suffix asks for is not known or cannot hold `audio`."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"cannot write a video as {path.suffix or 'a file without a suffix'} ({path.name})",
            f"use one of {', '.join(FORMATS)}, for example -o {path.stem or path.name}.mp4",
        )
    if _holds(path.suffix, audio):
        return
    codecs = ", ".join(sorted({_codec_name(stream) for stream in audio}))
    other = next((suffix for suffix in (".mkv", ".mov", ".mp4") if _holds(suffix, audio)), None)
    raise InputError(
        f"{path.suffix} files cannot hold this video's audio ({codecs}), which is copied, never re-encoded",
        f"choose a container that can: -o {path.with_suffix(other)}" if other else "convert the audio to AAC first",
    )


def _holds(suffix: str, audio: Sequence[AudioStream]) -> bool:
    """Whether the container takes these streams, by writing its header to memory."""
    if not audio:
        return True
    probe = av.open(io.BytesIO(), "w", format=FORMATS[suffix.lower()])
    try:
        for stream in audio:
            probe.add_stream_from_template(stream)
        probe.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, ValueError):
            probe.close()
    return True


def _open(path: Path, time_base: Fraction) -> OutputContainer:
    name = FORMATS[path.suffix.lower()]
    # Matroska's default moves everything so that no timestamp is negative: audio often starts just before 0.
    options = {"avoid_negative_ts": "disabled"}
    if name in ("mp4", "mov"):
        # Where a stream starts is counted in the movie's time scale, and the usual 1/1000 s is too coarse: a multiple
        # of the video's is exact for it, and within half an audio sample.
        scale = time_base.denominator * math.ceil(90_000 / time_base.denominator)
        # Faststart: the index moves to the front, so that browsers start before the whole file has come.
        options = {"movflags": "+faststart", "movie_timescale": str(scale)}
    return av.open(str(path.absolute()), "w", format=name, options=options)


def _add_video(
    container: OutputContainer, width: int, height: int, time_base: Fraction, rate: Fraction, sample_aspect: Fraction
) -> VideoStream:
    stream = container.add_stream("libx264", rate=rate, options=dict(_ENCODER_OPTIONS))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    context.time_base = stream.time_base = max(time_base, _FINEST_TIME_BASE)
    context.flags |= Flags.frame_duration  # or the last frame's duration would be a guess
    context.sample_aspect_ratio = sample_aspect
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    return stream


def _add_audio(container: OutputContainer, template: AudioStream) -> AudioStream:
    stream = container.add_stream_from_template(template)
    _copy_metadata(template.metadata, stream, _STREAM_METADATA)
    stream.disposition = template.disposition
    return stream


def _codec_name(stream: Stream) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "unknown codec"


def _copy_metadata(metadata: dict[str, str], stream: Stream, keys: Sequence[str]) -> None:
    stream.metadata.clear()
    stream.metadata.update(_selected(metadata, keys))


def _selected(metadata: dict[str, str], keys: Sequence[str]) -> dict[str, str]:
    return {key.lower(): value for key, value in metadata.items() if key.lower() in keys}


def _start(packet: Packet) -> Fraction:
    time = packet.pts if packet.pts is not None else packet.dts
    return (time or 0) * packet.time_base
