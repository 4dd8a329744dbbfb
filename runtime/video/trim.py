"""Cutting a part of a video: from `start` to `end`, at most `frames` frames, with copied packets cut to the same time.

Packets are not split: an audio packet (20 to 30 ms) belongs to the part if it begins in it. Subtitles, which last long,
are shortened where they extend beyond an end.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame

from dsmap.errors import InputError

if TYPE_CHECKING:  # only in PyAV's type hints
    from av.container.core import Chapter

Seconds = Fraction | float | int
_FAR_BEHIND = Fraction(10)  # seconds after the end at which no more packets of the part are expected


@dataclass(frozen=True, kw_only=True)
class TrimRange:
    """`start` and `end` in seconds; None: the video's own. Frames from `start` on and before `end` are in it."""

    start: Fraction | None = None
    end: Fraction | None = None
    frames: int | None = None

    def __bool__(self) -> bool:
        """Whether it is anything but the whole video."""
        return self != TrimRange()

    def moved(self, by: Fraction) -> "TrimRange":
        """The same with all times `by` seconds later."""
        start, end = (None if at is None else at + by for at in (self.start, self.end))
        return TrimRange(start=start, end=end, frames=self.frames)

    def expected(self, frames: int | None, rate: Fraction) -> int | None:
        """Roughly how many of a video's `frames` are in it; None when unknown."""
        if self.start is not None and frames is not None:
            frames = max(1, frames - math.ceil(self.start * rate))
        if self.end is not None:
            within = max(1, math.ceil((self.end - (self.start or 0)) * rate))
            frames = within if frames is None else min(frames, within)
        if self.frames is not None:
            frames = self.frames if frames is None else min(frames, self.frames)
        return frames


def trim_range(start: Seconds | None, end: Seconds | None, frames: int | None) -> TrimRange:
    """A validated range. Raises InputError for times and counts that leave nothing."""
    first, last = (None if at is None else exact(at) for at in (start, end))
    if first is not None and first < 0:
        raise InputError(f"--start is {float(first):g}, before the beginning", "give seconds, 0 or more")
    if last is not None and last <= (first or 0):
        fact = f"--end ({float(last):g} s) is not after --start ({float(first or 0):g} s)"
        raise InputError(fact, "give a later end, in seconds")
    if frames is not None and frames < 1:
        raise InputError(f"--frames is {frames}", "ask for at least one frame")
    return TrimRange(start=first or None, end=last, frames=frames)  # from 0 on is all of it


def exact(number: Seconds) -> Fraction:
    """`number` exactly as written: 0.1 is 1/10. Raises InputError for infinities and NaN."""
    if isinstance(number, float):
        if not math.isfinite(number):
            raise InputError(f"{number} is not a valid time", "give seconds, such as 12.5")
        return Fraction(str(number))
    return Fraction(number)


class Trimmer:
    """Passes on the items that belong to `trim`, whose times are on the packets' clock.

    `first`: the time of its first frame, None where nothing is cut off before it.
    """

    def __init__(
        self, trim: TrimRange, first: Fraction | None, frame_time: Callable[[VideoFrame], Fraction], rate: Fraction
    ) -> None:
        self._trim, self._first, self._frame_time, self._frame_length = trim, first, frame_time, 1 / rate
        self._end = trim.end
        self._count = 0
        self._done = False
        self._ahead: deque[Packet] = deque()  # packets later than the frames so far, while the end is not known
        self._now = Fraction(0)

    def trim(self, items: Iterable[VideoFrame | Packet], waited_for: set[int]) -> Iterator[VideoFrame | Packet]:
        """The items of the range; ends when the streams `waited_for` have nothing more in it."""
        for item in items:
            if isinstance(item, VideoFrame):
                if not self._done and self._take(item):
                    yield item
                elif self._end is not None and self._frame_time(item) >= self._end + _FAR_BEHIND:
                    break
                if self._count == self._trim.frames:
                    self._done = True
                yield from self._released()
            elif is_cover(item.stream):
                yield item
            elif item.stream.index in waited_for or item.stream.type != "audio":
                self._ahead.append(item)
                yield from self._released()
                at = _start(item)
                if self._done and self._end is not None and at is not None and at >= self._end:
                    waited_for.discard(item.stream.index)
                    if at >= self._end + _FAR_BEHIND:
                        break
            if self._done and not waited_for:
                break
        yield from self._released(all_of_them=True)

    def _take(self, frame: VideoFrame) -> bool:
        at = self._frame_time(frame)
        length = (frame.duration or 0) * (frame.time_base or Fraction(0)) or self._frame_length
        if self._trim.end is not None and at >= self._trim.end:
            self._done = True
            return False
        self._count += 1
        self._now = at + length
        if self._count == self._trim.frames:
            self._end = self._now if self._end is None else min(self._end, self._now)
        return True

    def _released(self, *, all_of_them: bool = False) -> Iterator[Packet]:
        free = all_of_them or self._done or self._trim.frames is None
        while self._ahead and (free or (_start(self._ahead[0]) or 0) <= self._now):
            packet = cut_packet(self._ahead.popleft(), self._first, self._end)
            if packet is not None:
                yield packet


def cut_packet(packet: Packet, first: Fraction | None, end: Fraction | None) -> Packet | None:
    """`packet` if it belongs to the time from `first` to `end` (subtitles are shortened to it); otherwise None."""
    start = _start(packet)
    if start is None:
        return None
    first = min(start, Fraction(0)) if first is None else first
    if packet.stream.type != "subtitle":
        return packet if start >= first and (end is None or start < end) else None
    stop = start + (packet.duration or 0) * packet.time_base
    if stop <= first or (end is not None and start >= end):
        return None
    if start >= first and (end is None or stop <= end):
        return packet
    begin, stop = max(start, first), stop if end is None else min(stop, end)
    packet.pts = packet.dts = round(begin / packet.time_base)
    packet.duration = round((stop - begin) / packet.time_base)
    return packet


def cut_chapters(
    chapters: "list[Chapter]", first: Fraction | None, end: Fraction | None, shift: Fraction
) -> "list[Chapter]":
    """The chapters that overlap the time from `first` to `end`, cut to it, then moved by `shift` seconds."""
    kept: list[Chapter] = []
    for chapter in chapters:
        unit = chapter["time_base"] or Fraction(1, 1000)
        begin = chapter["start"] * unit if first is None else max(chapter["start"] * unit, first)
        stop = chapter["end"] * unit if end is None else min(chapter["end"] * unit, end)
        if begin < stop:
            start, last = (round((at + shift) / unit) for at in (begin, stop))
            kept.append({**chapter, "start": start, "end": last})
    return kept


def continuous_streams(streams: Iterable[Stream]) -> set[int]:
    """Indexes of the copied streams whose packets come continuously."""
    return {stream.index for stream in streams if stream.type == "audio"}


def is_cover(stream: Stream) -> bool:
    """Whether a video stream is a single image, such as an album cover."""
    return bool(stream.disposition & Disposition.attached_pic)


def _start(packet: Packet) -> Fraction | None:
    at = packet.pts if packet.pts is not None else packet.dts
    return None if at is None else at * packet.time_base
