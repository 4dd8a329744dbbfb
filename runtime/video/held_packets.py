"""Packets of other streams that wait for the video to catch up, so that a file is interleaved well."""

import heapq
import itertools
from collections.abc import Iterator
from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.packet import Packet

_MAX_HELD = 2000  # packets held back for the video to catch up: about 40 s of AAC
_MAX_HELD_BYTES = 64 << 20


class HeldPackets:
    """Packets in order of time, held until the video has caught up, within a limit of memory."""

    def __init__(self) -> None:
        self._heap: list[tuple[Fraction, int, Packet]] = []
        self._bytes = 0
        self._count = itertools.count()

    def add(self, packet: Packet) -> None:
        """Add a packet."""
        heapq.heappush(self._heap, (packet_start(packet), next(self._count), packet))
        self._bytes += packet.size

    def due(self, end: Fraction) -> Iterator[Packet]:
        """Take out those that start no later than `end` (seconds), and the earliest ones while too much is held."""
        while self._heap and (self._heap[0][0] <= end or self._too_many):
            yield self._pop()

    def drain(self, *, before: Fraction | None = None) -> Iterator[Packet]:
        """Take out all; with `before` (seconds), those that start at or after it are dropped."""
        while self._heap:
            packet = self._pop()
            if before is None or packet_start(packet) < before:
                yield packet

    @property
    def _too_many(self) -> bool:
        return len(self._heap) > _MAX_HELD or self._bytes > _MAX_HELD_BYTES

    def _pop(self) -> Packet:
        _, _, packet = heapq.heappop(self._heap)
        self._bytes -= packet.size
        return packet


def packet_start(packet: Packet) -> Fraction:
    """Start of the packet, in seconds."""
    time = packet.pts if packet.pts is not None else packet.dts
    return (time or 0) * packet.time_base if packet.time_base else Fraction(0)
