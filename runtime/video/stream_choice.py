"""Choosing which streams of a file are read: its video, and what is copied beside it."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from dsmap.runtime.video.frame_count import clock_start
from dsmap.runtime.video.programmes import announced_later, choose_programme, codecs_that_change, companions_of
from dsmap.runtime.video.stream import find_video_stream
from dsmap.runtime.video.timecode import is_timecode
from dsmap.runtime.video.trim import is_cover

_WITH_PROGRAMMES = ("mpegts", "hls")
_COPIED = ("audio", "subtitle", "attachment", "data")


class StreamChoice:
    """The streams of `container`, which was opened from `path` (None for an address) and is called `name` in errors.

    `programme`: the number of one, where there are several; without it, it is the first with a video. Raises
    InputError where there is no such programme, or no video.
    """

    def __init__(self, container: InputContainer, path: Path | None, programme: int | None, name: str) -> None:
        self._path, self._name = path, name
        self._programme, self._others = choose_programme(container, path, programme, name)
        self._companions: frozenset[int] | None = None
        """Of a network's stream with several programmes: the indexes of those in the video's."""
        self.take(container)
        if path is None and container.format.name in _WITH_PROGRAMMES:
            self._companions = companions_of(container, self.video)

    def take(self, container: InputContainer) -> None:
        """Switch to the streams of `container`, the same source opened again."""
        self._container = container
        ids = self._programme.streams if self._programme else None
        self.video: VideoStream = find_video_stream(container, self._name, ids)
        """The one that is decoded."""

    def start(self) -> Fraction:
        """Start of the file's clock, in seconds; each of several programmes has its own."""
        if self._programme is None and self._companions is None:
            return clock_start(self._container)
        streams = [self.video, *(one for one in self._container.streams.audio if self.is_copied(one))]
        return min((one.start_time or 0) * (one.time_base or Fraction(1)) for one in streams)

    def is_copied(self, stream: Stream) -> bool:
        """Whether its packets, or its data (attachments), are passed on unchanged. So is cover art: one packet."""
        if stream.index == self.video.index or not self._is_in_programme(stream):
            return False
        # PyAV cannot copy sound or subtitles of an unknown codec.
        known = stream.type not in ("audio", "subtitle") or stream.codec_context is not None
        if is_timecode(stream):
            return False  # written separately, see `timecode`
        return (stream.type in _COPIED and known) or is_cover(stream)

    def notes(self) -> Iterator[str]:
        """Notes on the choice of a programme."""
        if self._programme is not None and self._others:
            yield f"programme {self._programme} of {1 + len(self._others)}: --programme N takes another"

    def left_out(self) -> Iterator[str]:
        """What is not read, a few words each: a second video, unknown kinds, programmes, parts after a codec change."""
        for stream in self._container.streams:
            taken = stream.index == self.video.index or self.is_copied(stream) or is_timecode(stream)
            if self._is_in_programme(stream) and not taken:
                yield self._not_read(stream)
        yield from (f"programme {other}" for other in self._others)
        others = sum(not self._is_in_programme(stream) for stream in self._container.streams)
        if self._companions is not None and others:
            yield f"{others} streams of other programmes"
        if later := announced_later(self._container, self._path, self._programme):
            yield f"{later} stream{'s' * (later > 1)} that the recording announces only after its beginning"
        changed = codecs_that_change(self._container, self._path)
        for stream in (self.video, *filter(self.is_copied, self._container.streams.audio)):
            if stream.id in changed:
                first, last = changed[stream.id]
                yield f"{stream.type} after the recording changes from {first} to {last}: cut it in two there"

    def _not_read(self, stream: Stream) -> str:
        if stream.type in _COPIED:
            return f"{stream.type} of an unknown codec"
        if isinstance(stream, VideoStream) and stream.codec_context is not None:
            size = f"{stream.codec_context.width}x{stream.codec_context.height}"
            return f"video stream {stream.index} ({size}): stream {self.video.index} is the one that is translated"
        return f"{stream.type} stream {stream.index}"

    def codec_change(self) -> tuple[str, str] | None:
        """The first and the last codec of the video, where a recording changes it; libav decodes the first only."""
        return codecs_that_change(self._container, self._path).get(self.video.id)

    def _is_in_programme(self, stream: Stream) -> bool:
        if self._companions is not None:
            return stream.index in self._companions
        return self._programme is None or stream.id in self._programme.streams
