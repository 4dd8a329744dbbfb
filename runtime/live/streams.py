"""Addresses and files as cameras, through PyAV: a stream gives its frames as they come, a file at its own rate."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.live.sources import Captured, Facts, Pixels, SourceLostError, SourceName
from dsmap.runtime.network_input import SCHEMES
from dsmap.runtime.video_frames import FrameToRgb, orientation
from dsmap.runtime.video_reader import VideoReader

Opened = TypeVar("Opened")

# The first picture soon: the frame rate, which takes twenty frames to find out, does not matter.
_LIVE_OPTIONS = {"analyzeduration": "2000000", "fpsprobesize": "0"}
# An address may never lead to files of this machine, as a playlist could.
_PROTOCOLS = ",".join((*SCHEMES, "httpproxy", "tls", "srtp", "rtmpt", "crypto", "data"))
# RTSP over TCP, as lost UDP packets show as grey smears.
_PROTOCOL_OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}, "rtsps": {"rtsp_transport": "tcp"}}
_TIMEOUTS = (10.0, 5.0)  # seconds to open, and without data
_MAX_FAILURES = 16  # packets in a row that do not decode
_TOO_FAR = 5.0  # seconds: a gap in the timestamps, not a wait
_LATE = 0.1  # seconds after which a file's clock gives in: a camera does not hurry either
_USUAL_RATE = 25.0
_NEARLY_ALL = 1.0  # seconds before the end that count as the end


class Stream:
    """Frames of an address or a file. `stop` ends waits.

    Files, and addresses of whole videos over HTTP, are played at their own rate; what is live comes as it comes.
    Raises InputError for a file that is no video, DsmapError for an address that cannot be opened.
    """

    def __init__(self, name: SourceName, stop: threading.Event, *, loop: bool) -> None:
        self._name = name
        self._stop = stop
        self._loop = loop
        self._to_rgb: FrameToRgb | None = None
        if name.kind == "file":
            with VideoReader(name.text):  # it explains what is wrong with a file
                pass
        self._open()
        try:
            self._first = self._next()
            if self._first is None:
                raise DsmapError(f"{name.shown} gives no pictures", "check that it plays elsewhere")
            turn = orientation(self._first)
            width, height = turn.size(self._first.width, self._first.height)
            rate = float(self._video.average_rate or self._video.guessed_rate or 0)
            self.facts = Facts(
                width=width, height=height, rate=rate if 1 <= rate <= 1000 else None, live=not self._paced
            )
        except SourceLostError as error:
            self.close()
            raise DsmapError(f"{name.shown} gives no pictures: {error}", "check that it plays elsewhere") from None
        except BaseException:
            self.close()
            raise

    def read(self) -> Captured | None:
        """See `Source`."""
        frame, self._first = (self._first or self._next()), None
        if self._stop.is_set():
            return None
        if frame is None and self._loop and self._paced and self._played_all():
            self.close()
            self._stop.wait(1 / (self.facts.rate or _USUAL_RATE))  # the last frame's time
            self._open()
            frame = self._next()
        if frame is None:
            if self._paced and self._played_all():
                return None
            raise SourceLostError("the stream ended")
        if self._paced:
            self._wait_for(frame)
        return Captured(at=time.monotonic(), load=lambda: self._rgb(frame))

    def close(self) -> None:
        """See `Source`."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()

    def _open(self) -> None:
        av.logging.set_libav_level(av.logging.PANIC)  # failures are told by us
        if self._name.kind == "file":
            address = str(Path(self._name.text).absolute())  # FFmpeg would take "12:30.mp4" for a protocol
            self._container = _explained(self._name, lambda: av.open(address, metadata_errors="replace"))
        else:
            address = self._name.text
            options = _LIVE_OPTIONS | {"protocol_whitelist": _PROTOCOLS}
            options |= _PROTOCOL_OPTIONS.get(address.partition("://")[0].lower(), {})
            self._container = _explained(
                self._name, lambda: av.open(address, options=options, timeout=_TIMEOUTS, metadata_errors="replace")
            )
        try:
            self._video = _video_stream(self._container, self._name)
        except BaseException:
            self.close()
            raise
        whole = self._container.duration is not None and self._name.text.lower().startswith(("http://", "https://"))
        self._paced = self._name.kind == "file" or whole
        # Decoding several frames at the same time is faster and holds that many back.
        self._video.thread_type = "AUTO" if self._paced else "SLICE"
        self._frames = self._decode()
        self._anchor: tuple[float, float] | None = None  # (clock, media time) that belong together
        self._time = 0.0

    def _next(self) -> VideoFrame | None:
        return next(self._frames, None)

    def _decode(self) -> Iterator[VideoFrame]:
        failures = 0
        try:
            for packet in self._container.demux(self._video):
                try:
                    yield from packet.decode()
                    failures = 0
                except av.error.EOFError:
                    return
                except av.FFmpegError:  # a stream may be joined between keyframes, and lines lose packets
                    failures += 1
                    if failures > _MAX_FAILURES and self._name.kind != "file":  # a file goes on to its end
                        raise SourceLostError("its pictures cannot be decoded") from None
                if self._stop.is_set():
                    return
        except (av.FFmpegError, OSError) as error:
            if self._name.kind == "file":
                return  # damaged: that was the end
            raise SourceLostError(_reason(error)) from None

    def _wait_for(self, frame: VideoFrame) -> None:
        """Until the frame's turn by the file's clock."""
        step = 1 / (self.facts.rate or _USUAL_RATE)
        self._time = float(frame.time) if frame.time is not None else self._time + step
        now = time.monotonic()
        if self._anchor is None:
            self._anchor = now, self._time
        wait = self._anchor[0] + self._time - self._anchor[1] - now
        if wait > _TOO_FAR or wait < -_LATE:
            self._anchor = now, self._time
        elif wait > 0:
            self._stop.wait(wait)

    def _played_all(self) -> bool:
        """Whether the end is the video's, and not that of a connection that broke."""
        if self._name.kind == "file" or self._container.duration is None:
            return True
        start = (self._container.start_time or 0) / av.time_base
        return self._time - start >= self._container.duration / av.time_base - _NEARLY_ALL

    def _rgb(self, frame: VideoFrame) -> Pixels:
        turn = orientation(frame)
        width, height = turn.size(frame.width, frame.height)
        kept = self._to_rgb
        if kept is None or (kept.width, kept.height, kept.orientation) != (width, height, turn):
            kept = self._to_rgb = FrameToRgb(width, height, turn)
        return kept(frame)


def _explained(name: SourceName, open_it: Callable[[], Opened]) -> Opened:
    try:
        return open_it()
    except (av.FFmpegError, OSError, ValueError) as error:
        # Not from the error: its text holds the whole address, with its secrets.
        raise InputError(
            f"{name.shown} cannot be opened: {_reason(error)}", "check the address, and that the sender is running"
        ) from None


def _video_stream(container: InputContainer, name: SourceName) -> VideoStream:
    best = container.streams.best("video")
    if not isinstance(best, VideoStream) or best.codec_context is None:
        raise InputError(f"{name.shown} holds no video that can be decoded", "pass the address of a video stream")
    return best


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError | TimeoutError):
        return "it does not answer"
    return getattr(error, "strerror", None) or "it cannot be read"
