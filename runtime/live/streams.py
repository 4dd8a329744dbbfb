"""Reading addresses and files as cameras, through PyAV: streams as they come, files at their own rate."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.video.frame import VideoFrame

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.live.source import CapturedFrame, Pixels, SourceLostError, SourceName, StreamInfo
from dsmap.runtime.video.addresses import WEB, NetworkSettings, scheme_of
from dsmap.runtime.video.decoding import open_decoding
from dsmap.runtime.video.frame_count import clock_start
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.hardware import OFF
from dsmap.runtime.video.media import open_address, open_file
from dsmap.runtime.video.orientation import orientation
from dsmap.runtime.video.patience import Patience
from dsmap.runtime.video.stream import check_size, find_video_stream
from dsmap.runtime.video.stream_side_data import stream_side_data
from dsmap.runtime.video.tone_mapping import tone_of

_NETWORK = NetworkSettings(read_seconds=5.0)  # a camera that is silent for longer is reopened
_MAX_FAILURES = 16  # packets in a row that do not decode
_TOO_FAR = 5.0  # seconds: a longer wait is a gap in the timestamps
_LATE = 0.1  # seconds of delay after which a file's clock is reset: a camera does not catch up either
_USUAL_RATE = 25.0
_NEARLY_ALL = 1.0  # seconds before the end that still count as the end


class StreamSource:
    """Frames of an address or a file. `stop` ends waits.

    Files, and complete videos over HTTP, are played at their own rate; live streams are read as they come. Raises
    InputError for what is not a video or cannot be opened, DsmapError where no frame comes. `hwaccel`, `notify`: see
    `open_decoding`.
    """

    def __init__(
        self,
        name: SourceName,
        stop: threading.Event,
        *,
        loop: bool,
        network: NetworkSettings = _NETWORK,
        hwaccel: str = OFF,
        notify: Notify = lambda _line: None,
    ) -> None:
        self._hwaccel, self._notify = hwaccel, notify
        self._name = name
        self._stop = stop
        self._loop = loop
        self._network = network
        self._to_rgb: FrameToRgb | None = None
        self._open()
        try:
            self._first = self._next()
            if self._first is None:
                raise DsmapError(f"{name.shown} gives no frames", "check that it plays elsewhere")
            check_size(name.shown, self._first.width, self._first.height)
            turn = orientation(self._decoding.described(self._first))
            width, height = turn.size(*self._crop.size(self._first.width, self._first.height))
            rate = float(self._video.average_rate or self._video.guessed_rate or 0)
            self.info = StreamInfo(
                width=width,
                height=height,
                rate=rate if 1 <= rate <= 1000 else None,
                live=not self._paced,
                decoder=self._decoding.name,
                decoding=self._decoding.note,
            )
        except SourceLostError as error:
            self.close()
            raise DsmapError(f"{name.shown} gives no frames: {error}", "check that it plays elsewhere") from None
        except BaseException:
            self.close()
            raise

    def read(self) -> CapturedFrame | None:
        """See `FrameSource`."""
        frame, self._first = (self._first or self._next()), None
        if self._stop.is_set():
            return None
        if frame is None and self._loop and self._paced and self._played_all():
            self.close()
            self._stop.wait(1 / (self.info.rate or _USUAL_RATE))  # the last frame's duration
            try:
                self._open()
            except DsmapError as error:  # it may be back soon, if another program is writing it
                raise SourceLostError(error.fact) from None
            frame = self._next()
        if frame is None:
            if self._paced and self._played_all():
                return None
            raise SourceLostError("the stream ended")
        if self._paced:
            self._wait_for(frame)
        return CapturedFrame(at=time.monotonic(), load=lambda: self._rgb(frame))

    def close(self) -> None:
        """See `FrameSource`."""
        with contextlib.suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()

    def _open(self) -> None:
        if self._name.kind == "file":
            self._container = open_file(Path(self._name.text))
        else:
            self._container = open_address(self._name.text, self._network, live=True)
        try:
            self._video = find_video_stream(self._container, self._name.shown)
            self._crop = stream_side_data(self._video).crop
        except BaseException:
            self.close()
            raise
        whole = self._container.duration is not None and scheme_of(self._name.text) in WEB
        self._paced = self._name.kind == "file" or whole
        # Decoding several frames at once is faster, but delays them.
        self._video.thread_type = "AUTO" if self._paced else "SLICE"
        self._decoding = open_decoding(self._video, self._hwaccel, self._notify, clock_start(self._container))
        self._frames = self._decode()
        self._anchor: tuple[float, float] | None = None  # (clock, media time) of the same moment
        self._time = 0.0

    def _next(self) -> VideoFrame | None:
        return next(self._frames, None)

    def _decode(self) -> Iterator[VideoFrame]:
        failures = 0
        patience = Patience(self._network.frame_seconds)
        try:
            for packet in self._container.demux():  # all streams: one without frames may go on for ever
                patience.count()
                if self._stop.is_set():
                    return
                if self._name.kind != "file" and patience.is_over:
                    raise SourceLostError(f"it sent no frame for {patience.seconds:g} s")
                if packet.stream.index != self._video.index:
                    continue
                try:
                    for frame in self._decoding.decode(packet):
                        yield frame
                        failures = 0
                        patience.saw_frame()
                        patience.leave_out()
                except av.error.EOFError:
                    return
                except av.FFmpegError:  # streams may be joined between keyframes, and packets get lost
                    failures += 1
                    if failures > _MAX_FAILURES and self._name.kind != "file":  # a file goes on to its end
                        raise SourceLostError("its frames cannot be decoded") from None
        except (av.FFmpegError, OSError) as error:
            if self._name.kind == "file":
                return  # damaged: treated as the end
            raise SourceLostError(_reason(error)) from None

    def _wait_for(self, frame: VideoFrame) -> None:
        """Wait until the frame is due by the file's clock."""
        step = 1 / (self.info.rate or _USUAL_RATE)
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
        """Whether the video has ended, rather than its connection."""
        if self._name.kind == "file" or self._container.duration is None:
            return True
        start = (self._container.start_time or 0) / av.time_base
        return self._time - start >= self._container.duration / av.time_base - _NEARLY_ALL

    def _rgb(self, frame: VideoFrame) -> Pixels:
        described = self._decoding.described(frame)
        turn = orientation(described)
        width, height = turn.size(*self._crop.size(frame.width, frame.height))
        kept = self._to_rgb
        if kept is None or (kept.width, kept.height, kept.orientation) != (width, height, turn):
            kept = self._to_rgb = FrameToRgb(width, height, turn, crop=self._crop, tone=tone_of(described))
        return kept(frame)


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError | TimeoutError):
        return "it does not answer"
    return getattr(error, "strerror", None) or "it cannot be read"
