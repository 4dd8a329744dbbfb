"""One clock for all streams of a recording whose clock jumps: joined files, a counter that wraps, damage.

A jump moves every stream alike, so that sound, subtitles and data stay with the video. Times are seconds as floats,
which is quick, and exact far below a tick; what is moved is moved by whole ticks. What jumps is told by the decoding
times of the sound and the video, in the order of the file:

- backwards by more than 0.1 s within a stream, or ahead of all streams by more than `longest_gap`: a new part begins,
  and goes on where the one before ended;
- a single packet that is far off, with its stream as before after it: damage, it gets the time that was due;
- what is left of the part before, where the streams are not interleaved well, still belongs there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.packet import Packet

from dsmap.runtime.video.trim import is_cover

_BACK = 0.1  # seconds that a stream may step back within a part; also an overlap that no one hears
_SUDDEN = 10.0  # seconds: a packet so far ahead of all is damaged, or those behind it are as far ahead
_SAME_CLOCK = 1.0  # seconds: a packet so near is on a clock that was there before
_LONGEST_HOLD = 3.0  # seconds of a new part that are waited for, until all streams have come to it
_MOST_HELD, _MOST_HELD_BYTES = 4000, 64 << 20
_MOST_CLOCKS = 16
_LEADING = ("audio", "video")  # their packets come all the time


@dataclass
class _Course:
    """One stream: where it is, in seconds of the result's clock."""

    kind: str
    unit: float
    """Seconds of a tick of its packets."""
    offset: float = 0.0
    """From its own times to the result's."""
    last: float | None = None
    """Decoding time of the latest packet."""
    end: float = 0.0
    """Where what is shown or heard of it ends so far."""
    lead: bool = False
    """Whether its packets are in a new part, behind an end that the streams must not overlap."""


@dataclass
class _NewPart:
    """The packets of a part whose place is not known yet."""

    latest: float
    first: float
    packets: list[Packet] = field(default_factory=list)
    starts: dict[int, float] = field(default_factory=dict)
    bytes: int = 0


class Timeline:
    """Moves packets, in the order of the file, onto one clock. `longest_gap`: seconds without anything that are kept.

    `wraps_after`: seconds after which the counter of the container begins anew, None where it does not.
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
        """The packets, their times moved where the clock has jumped. Some wait until it is clear by how much."""
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
        """While a part has begun that not all streams have come to."""
        new = self._new
        assert new is not None
        course = self._course(packet)
        at = _time(packet, course)
        if packet.dts is None and self._is_held(packet):
            self._hold(packet)
            return
        place, ahead = at + course.offset, abs(at - new.latest)
        if self._fits(course, place) and abs(place - self._due(course)) <= ahead:
            if self._is_held(packet):  # it was no new part but a single packet
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
        far = new.latest - new.first > _LONGEST_HOLD
        if not waiting or far or len(new.packets) > _MOST_HELD or new.bytes > _MOST_HELD_BYTES:
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
        """The packets that were held, at their place: the new part follows what came before it."""
        new, self._new = self._new, None
        if new is None:
            return
        offset = self._place_of(new)
        self.jumps += offset != self._offset
        self._offset = offset
        self._clocks = [*self._clocks[1 - _MOST_CLOCKS :], self._offset]
        for packet in new.packets:
            course = self._course(packet)
            if course.offset != self._offset:
                course.offset, course.lead = self._offset, course.last is not None
            yield from self._moved(packet, course)

    def _dismissed(self) -> Iterator[Packet]:
        """The packets that were held, each where its stream is: their own times are damaged."""
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
        """The offset of a new part: after all streams' ends, and where it is nearly the same, at the video's.

        A gap that is not too long stays.
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
            return  # it would be heard together with the end of the part before
        course.lead = False
        course.end = start + length if course.last is None else max(course.end, start + length)
        course.last = packet.dts * course.unit
        yield packet

    def _fits(self, course: _Course, at: float) -> bool:
        """Whether a stream can go on at `at`."""
        if course.last is None or course.kind not in _LEADING:
            return not self._has_begun or abs(at - self._front()) <= self._longest_gap
        if at < course.last - _BACK:
            return False
        farthest = at - min(self._longest_gap, _SUDDEN)
        return farthest <= course.end or farthest <= self._front()  # the second is slow, and nearly never needed

    def _known_clock(self, course: _Course, at: float) -> float | None:
        """The offset of an earlier clock that the packet is on again, or of the same one after its counter wrapped."""
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
        """Of the stream's own clock and that of the latest part, the one that the packet goes on by."""
        due = self._due(course)
        own, latest = (abs(at + offset - due) for offset in (course.offset, self._offset))
        return course.offset if own < latest or not self._fits(course, at + self._offset) else self._offset

    def _due(self, course: _Course) -> float:
        """Where the next packet of a stream belongs: after the latest, or beside the others."""
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
        """Whether more of a stream is to be expected soon."""
        return course.kind in _LEADING and course.last is not None and self._front() - course.end <= _LONGEST_HOLD


def _leads(packet: Packet, course: _Course) -> bool:
    """Whether the packet says something about the clock: those that are not presented need not go on as others do."""
    return course.kind in _LEADING and packet.dts is not None and not packet.is_discard


def _time(packet: Packet, course: _Course) -> float:
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * course.unit


def _shown(packet: Packet, course: _Course) -> float:
    time = packet.pts if packet.pts is not None else packet.dts
    return (time or 0) * course.unit
