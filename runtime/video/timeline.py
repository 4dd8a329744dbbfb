"""Placing all streams of a recording on one clock where its own clock jumps: joined files, wrapped counters, damage.

A jump moves every stream alike, so that sound, subtitles and data stay with the video. Times are seconds as floats,
which is fast, and exact far below a tick; packets are moved by whole ticks. Jumps are detected by the decoding times of
sound and video, in the order of the file:

- backwards by more than 0.1 s within a stream, or ahead of all streams by more than `longest_gap`: a new part begins,
  and continues where the previous one ended;
- a single packet that is far off, with its stream unchanged after it: damage; it gets the time that was due;
- late packets of the previous part, where the streams are not interleaved well, still belong to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.packet import Packet

from dsmap.runtime.video.trim import is_cover

_BACK = 0.1  # seconds that a stream may step back within a part; also an inaudible overlap
_SUDDEN = 10.0  # seconds: a packet so far ahead of all is damaged, or those behind it are as far ahead
_SAME_CLOCK = 1.0  # seconds: a packet this close is on an earlier clock
_MAX_HOLD_SECONDS = 3.0  # seconds of a new part to wait for, until all streams have reached it
_MAX_HELD, _MAX_HELD_BYTES = 4000, 64 << 20
_MAX_CLOCKS = 16
_LEADING = ("audio", "video")  # their packets come continuously


@dataclass
class _Course:
    """The position of a stream, in seconds on the result's clock."""

    kind: str
    unit: float
    """Seconds of a tick of its packets."""
    offset: float = 0.0
    """From its own times to the result's."""
    last: float | None = None
    """Decoding time of the latest packet."""
    end: float = 0.0
    """End of the material presented so far."""
    lead: bool = False
    """Whether it has just entered a new part, which must not overlap the previous one."""


@dataclass
class _NewPart:
    """The packets of a part whose position is not known yet."""

    latest: float
    first: float
    packets: list[Packet] = field(default_factory=list)
    starts: dict[int, float] = field(default_factory=dict)
    bytes: int = 0


class Timeline:
    """Moves packets, in the order of the file, onto one clock. `longest_gap`: seconds of a gap that are kept.

    `wraps_after`: seconds after which the container's counter wraps, None where it does not.
    """

    def __init__(self, longest_gap: float, wraps_after: float | None = None) -> None:
        self.jumps = 0
        """How often the clock of the recording jumped."""
        self._longest_gap, self._wraps_after = longest_gap, wraps_after
        self._courses: dict[int, _Course] = {}
        self._offset = 0.0
        self._clocks = [0.0]  # the offsets so far
        self._new: _NewPart | None = None

    def place(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """The packets, moved where the clock has jumped; some are held until it is clear by how much."""
        for packet in packets:
            if packet.size == 0:
                yield from self._settled()
                yield packet
            elif packet.dts is None and packet.pts is None and not self._is_held(packet):
                yield packet
            elif self._new is not None:
                yield from self._beside_new_part(packet)
            else:
                yield from self._on_course(packet)
        yield from self._settled()

    def _on_course(self, packet: Packet) -> Iterator[Packet]:
        course = self._course(packet)
        at = _time(packet, course)
        if not _leads(packet, course) or self._fits(course, at + course.offset):
            if course.offset != self._offset:
                course.offset = self._nearest(course, at)
            yield from self._moved(packet, course)
        elif (offset := self._known_clock(course, at)) is not None:
            course.offset = self._offset = offset
            yield from self._moved(packet, course)
        elif course.offset != self._offset and self._fits(course, at + self._offset):
            course.offset = self._offset
            yield from self._moved(packet, course)
        else:
            self._new = _NewPart(latest=at, first=at)
            self._hold(packet)

    def _beside_new_part(self, packet: Packet) -> Iterator[Packet]:
        """Place a packet while a new part has begun that not all streams have reached."""
        new = self._new
        assert new is not None
        course = self._course(packet)
        at = _time(packet, course)
        if packet.dts is None and self._is_held(packet):
            self._hold(packet)
            return
        place, ahead = at + course.offset, abs(at - new.latest)
        if self._fits(course, place) and abs(place - self._due(course)) <= ahead:
            if self._is_held(packet):  # it was a single packet, not a new part
                yield from self._dismissed()
            yield from self._moved(packet, course)
            return
        if ahead > self._longest_gap or (
            _leads(packet, course) and at < new.starts.get(packet.stream.index, at) - _BACK
        ):
            yield from self._settled()  # the clock has jumped again
            yield from self._on_course(packet)
            return
        self._hold(packet)
        waiting = [index for index, one in self._courses.items() if self._is_alive(one) and index not in new.starts]
        far = new.latest - new.first > _MAX_HOLD_SECONDS
        if not waiting or far or len(new.packets) > _MAX_HELD or new.bytes > _MAX_HELD_BYTES:
            yield from self._settled()

    def _is_held(self, packet: Packet) -> bool:
        return self._new is not None and packet.stream.index in self._new.starts

    def _hold(self, packet: Packet) -> None:
        new = self._new
        assert new is not None
        new.packets.append(packet)
        new.bytes += packet.size
        if packet.dts is None:
            return
        course = self._course(packet)
        if _leads(packet, course):
            start = _shown(packet, course)
            new.starts[packet.stream.index] = min(new.starts.get(packet.stream.index, start), start)
            new.latest = max(new.latest, _time(packet, course))

    def _settled(self) -> Iterator[Packet]:
        """The held packets in their place: the new part follows the previous one."""
        new, self._new = self._new, None
        if new is None:
            return
        offset = self._place_of(new)
        self.jumps += offset != self._offset
        self._offset = offset
        self._clocks = [*self._clocks[1 - _MAX_CLOCKS :], self._offset]
        for packet in new.packets:
            course = self._course(packet)
            if course.offset != self._offset:
                course.offset, course.lead = self._offset, course.last is not None
            yield from self._moved(packet, course)

    def _dismissed(self) -> Iterator[Packet]:
        """The held packets, each at the position of its stream, as their own times are damaged."""
        new, self._new = self._new, None
        assert new is not None
        for packet in new.packets:
            course = self._course(packet)
            if packet.stream.type == "video":
                packet.pts = packet.dts = None
            else:
                packet.pts = packet.dts = round((course.end - course.offset) / course.unit)
            yield from self._moved(packet, course)

    def _place_of(self, new: _NewPart) -> float:
        """The offset of a new part: after the ends of all streams, or at the video's end where that is nearly the same.

        A gap that is not too long is kept.
        """
        if 0 <= new.first + self._offset - self._front() <= self._longest_gap:
            return self._offset  # the same clock, after a gap
        needed: list[float] = []
        of_video: float | None = None
        for index, course in self._courses.items():
            if course.last is None or course.kind not in _LEADING:
                continue
            if index in new.starts:
                offset = course.end - new.starts[index]
                of_video = offset if course.kind == "video" and of_video is None else of_video
            elif self._is_alive(course):
                offset = course.end - new.latest
            else:
                continue
            needed.append(offset)
        if not needed:
            return self._front() - new.first
        if of_video is not None and max(needed) - of_video <= _BACK:
            return of_video
        return max(needed)

    def _moved(self, packet: Packet, course: _Course) -> Iterator[Packet]:
        if course.offset:
            ticks = round(course.offset / course.unit)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        if packet.dts is None or packet.is_discard:
            yield packet
            return
        length = (packet.duration or 0) * course.unit
        start = _shown(packet, course)
        if course.lead and course.kind == "audio" and start + length / 2 < course.end:
            return  # it would overlap the end of the previous part
        course.lead = False
        course.end = start + length if course.last is None else max(course.end, start + length)
        course.last = packet.dts * course.unit
        yield packet

    def _fits(self, course: _Course, at: float) -> bool:
        """Whether a stream can continue at `at`."""
        if course.last is None or course.kind not in _LEADING:
            return not self._has_begun or abs(at - self._front()) <= self._longest_gap
        if at < course.last - _BACK:
            return False
        farthest = at - min(self._longest_gap, _SUDDEN)
        return farthest <= course.end or farthest <= self._front()  # the second is slow, and nearly never needed

    def _known_clock(self, course: _Course, at: float) -> float | None:
        """The offset of an earlier clock that the packet returns to, or of the same one after its counter wrapped."""
        if course.last is None:
            return None
        offsets = list(reversed(self._clocks))
        if self._wraps_after is not None:
            offsets += [course.offset + self._wraps_after, course.offset - self._wraps_after]
        for offset in offsets:
            if course.last - _BACK <= at + offset <= course.end + _SAME_CLOCK:
                return offset
        return None

    def _nearest(self, course: _Course, at: float) -> float:
        """Of the offsets of the stream and of the latest part, the one that suits the packet."""
        due = self._due(course)
        own, latest = (abs(at + offset - due) for offset in (course.offset, self._offset))
        return course.offset if own < latest or not self._fits(course, at + self._offset) else self._offset

    def _due(self, course: _Course) -> float:
        """Where the next packet of a stream belongs: after its latest, or beside the other streams."""
        return course.end if self._is_alive(course) else self._front()

    def _course(self, packet: Packet) -> _Course:
        index = packet.stream.index
        course = self._courses.get(index)
        if course is None:
            kind = "cover" if is_cover(packet.stream) else packet.stream.type
            course = self._courses[index] = _Course(kind, float(packet.time_base), self._offset)
        return course

    @property
    def _has_begun(self) -> bool:
        return any(course.last is not None for course in self._courses.values())

    def _front(self) -> float:
        """The latest end of all streams that lead."""
        ends = [course.end for course in self._courses.values() if course.last is not None and course.kind in _LEADING]
        return max(ends, default=0.0)

    def _is_alive(self, course: _Course) -> bool:
        """Whether more packets of a stream are expected soon."""
        return course.kind in _LEADING and course.last is not None and self._front() - course.end <= _MAX_HOLD_SECONDS


def _leads(packet: Packet, course: _Course) -> bool:
    """Whether the packet is evidence of the clock; packets that are not presented are not."""
    return course.kind in _LEADING and packet.dts is not None and not packet.is_discard


def _time(packet: Packet, course: _Course) -> float:
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * course.unit


def _shown(packet: Packet, course: _Course) -> float:
    time = packet.pts if packet.pts is not None else packet.dts
    return (time or 0) * course.unit
