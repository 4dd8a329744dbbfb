"""Deinterlacing decoded frames with libavfilter's bwdif: one frame out for each frame in, at the same time."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.filter import Graph
from av.video.frame import VideoFrame

from dsmap.errors import InputError
from dsmap.runtime.video.device_planes import planar

Other = TypeVar("Other")

# FFmpeg's AVFieldOrder, read as its decoders and muxers do; 1 is progressive, 0 unknown.
FIELD_ORDERS = {2: "top field first", 3: "bottom field first", 4: "top field first", 5: "bottom field first"}


@dataclass(frozen=True)
class _Times:
    pts: int | None
    time_base: Fraction | None
    duration: int


class Deinterlacer:
    """Deinterlaces the frames of one video, called with each in order; a frame is returned once the next one is given.

    Raises InputError for frames that are too small.

    If the first frame is marked as interlaced, frames marked as progressive are left alone; otherwise all frames are
    deinterlaced. `field_order`: AVFieldOrder of the container, for frames that do not say which field comes first.
    """

    def __init__(self, field_order: int = 0) -> None:
        self._order = FIELD_ORDERS.get(field_order, "")
        self.was_marked = False
        """Whether the first frame is marked as interlaced."""
        self._mode: str | None = None
        self._kind: tuple[int, int, str] | None = None
        self._graph: Graph | None = None
        self._times: deque[_Times] = deque()

    def __call__(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The frames that are ready: at most one, except where the size changes."""
        if self._mode is None:
            self.was_marked = frame.interlaced_frame
            self._mode = "interlaced" if self.was_marked else "all"
        frame = planar(frame)  # bwdif knows no other, and what libavfilter converts by itself has other values
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            yield from self.flush()
            self._graph, self._kind = self._built(frame, self._mode), kind
        assert self._graph is not None
        self._times.append(_Times(frame.pts, frame.time_base, frame.duration or 0))
        frame.pts, frame.time_base = None, Fraction(1, 1000)
        self._graph.vpush(frame)
        yield from self._ready()

    def flush(self) -> Iterator[VideoFrame]:
        """The remaining frames."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()
        self._graph = self._kind = None

    def items(self, items: Iterable[VideoFrame | Other]) -> Generator[VideoFrame | Other, None, None]:
        """`items` with frames deinterlaced; everything else passes through at once."""
        for item in items:
            if isinstance(item, VideoFrame):
                yield from self(item)
            else:
                yield item
        yield from self.flush()

    def _built(self, frame: VideoFrame, mode: str) -> Graph:
        try:
            return self._build(frame, mode)
        except (av.FFmpegError, ValueError) as error:
            raise InputError(
                f"frames of {frame.width}x{frame.height} ({frame.format.name}) cannot be deinterlaced",
                "leave out --deinterlace",
            ) from error

    def _build(self, frame: VideoFrame, mode: str) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        parity = "auto"
        if mode == "all" and self._order:
            parity = "bff" if self._order.startswith("bottom") else "tff"
        bwdif = graph.add("bwdif", f"mode=send_frame:parity={parity}:deint={mode}")
        graph.link_nodes(source, bwdif, graph.add("buffersink"))
        graph.configure()
        return graph

    def _ready(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while self._times:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            times = self._times.popleft()
            frame.pts, frame.duration = times.pts, times.duration
            if times.time_base is not None:
                frame.time_base = times.time_base
            yield frame
