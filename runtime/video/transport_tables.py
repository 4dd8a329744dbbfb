"""Reading the tables (PAT, PMT, SDT) of a transport stream: its programmes, their names, streams and codecs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from dsmap.common.text import printable

_PACKET_SIZES = (188, 192, 204)  # plain, of Blu-rays and cameras, with error correction
_SYNC = 0x47
_PAT_PID, _SDT_PID = 0, 0x11
_PAT, _PMT, _SDT = 0, 2, 0x42
_SERVICE = 0x48  # the descriptor with a programme's name
_CODECS = {
    0x01: "MPEG video",
    0x02: "MPEG video",
    0x03: "MPEG audio",
    0x04: "MPEG audio",
    0x0F: "AAC",
    0x11: "AAC (LATM)",
    0x1B: "H.264",
    0x24: "HEVC",
    0x81: "AC-3",
    0x87: "E-AC-3",
}
"""By the stream types of PMTs. Other types (0x06: private) leave the codec to descriptors."""


@dataclass
class TransportTables:
    """The programmes, names, streams and codecs read so far."""

    pmt_pids: dict[int, int] = field(default_factory=dict)
    """By programme number, in the stream's order."""
    streams: dict[int, set[int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    codecs: dict[int, tuple[str, str]] = field(default_factory=dict)
    """By stream id: the first and the latest codec, where it is in `_CODECS`."""

    def take(self, pid: int, section: bytes) -> None:
        if section[0] == _PAT and pid == _PAT_PID:
            for at in range(8, len(section) - 4, 4):
                number = int.from_bytes(section[at : at + 2], "big")
                if number:  # 0: the network's own tables
                    self.pmt_pids[number] = int.from_bytes(section[at + 2 : at + 4], "big") & 0x1FFF
        elif section[0] == _PMT and pid in self.pmt_pids.values():
            found = dict(_streams(section))
            self.streams.setdefault(int.from_bytes(section[3:5], "big"), set()).update(found)
            for stream, kind in found.items():
                if codec := _CODECS.get(kind):
                    self.codecs[stream] = self.codecs.get(stream, (codec, codec))[0], codec
        elif section[0] == _SDT and pid == _SDT_PID:
            self.names.update(_names(section))

    @property
    def are_whole(self) -> bool:
        return bool(self.pmt_pids) and all(number in self.streams and number in self.names for number in self.pmt_pids)


def tables_in(data: bytes, *, to_the_end: bool = False) -> TransportTables:
    """The tables in a piece of a transport stream; without `to_the_end`, only until each has been seen."""
    tables = TransportTables()
    parts: dict[int, bytes] = {}
    for pid, starts, payload in _packets(data):
        if pid not in (_PAT_PID, _SDT_PID) and pid not in tables.pmt_pids.values():
            continue
        for section in _sections(parts, pid, payload, starts=starts):
            tables.take(pid, section)
        if tables.are_whole and not to_the_end:
            break
    return tables


def _packets(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Every packet: its id, whether a section starts in it, and its payload."""
    found = _framing(data)
    if found is None:
        return
    at, size = found
    while at + 188 <= len(data):
        if data[at] != _SYNC:  # damage
            at = data.find(_SYNC, at)
            if at < 0:
                return
            continue
        pid = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF
        control = data[at + 3] >> 4 & 3
        begin = at + 4 + (1 + data[at + 4] if control & 2 else 0)
        if control & 1 and begin < at + 188:
            yield pid, bool(data[at + 1] & 0x40), data[begin : at + 188]
        at += size


def _framing(data: bytes) -> tuple[int, int] | None:
    """Offset of the first packet, and the distance between packets."""
    for size in _PACKET_SIZES:
        for at in range(min(2 * size, len(data))):
            marks = data[at : at + 8 * size : size]
            if len(marks) > 1 and all(mark == _SYNC for mark in marks):
                return at, size
    return None


def _sections(parts: dict[int, bytes], pid: int, payload: bytes, *, starts: bool) -> Iterator[bytes]:
    """The sections completed by this packet. `parts`: incomplete ones, by packet id."""
    if starts:
        pointer = payload[0]
        rest = parts.pop(pid, b"") + payload[1 : 1 + pointer]
        yield from _whole(rest)
        parts[pid] = payload[1 + pointer :]
    elif pid in parts:
        parts[pid] += payload
    data = parts.get(pid, b"")
    while section := next(_whole(data), b""):
        yield section
        data = data[len(section) :]
    if pid in parts:
        parts[pid] = data


def _whole(data: bytes) -> Iterator[bytes]:
    """The section at the beginning of `data`, if it is complete and intact."""
    if len(data) < 3 or data[0] == 0xFF:  # stuffing
        return
    size = 3 + (int.from_bytes(data[1:3], "big") & 0xFFF)
    if 12 <= size <= len(data) and _checksum(data[:size]) == 0:
        yield data[:size]


@lru_cache(maxsize=256)  # tables are repeated constantly
def _checksum(data: bytes) -> int:
    """MPEG's CRC-32: 0 for a section followed by its own checksum."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def _streams(section: bytes) -> Iterator[tuple[int, int]]:
    """Stream ids in a PMT, each with its stream type."""
    at = 12 + (int.from_bytes(section[10:12], "big") & 0xFFF)
    while at + 5 <= len(section) - 4:
        yield int.from_bytes(section[at + 1 : at + 3], "big") & 0x1FFF, section[at]
        at += 5 + (int.from_bytes(section[at + 3 : at + 5], "big") & 0xFFF)


def _names(section: bytes) -> Iterator[tuple[int, str]]:
    """Programme numbers and names in an SDT."""
    at = 11
    while at + 5 <= len(section) - 4:
        number = int.from_bytes(section[at : at + 2], "big")
        size = int.from_bytes(section[at + 3 : at + 5], "big") & 0xFFF
        descriptors = section[at + 5 : at + 5 + size]
        yield number, _name(descriptors)
        at += 5 + size


def _name(descriptors: bytes) -> str:
    at = 0
    while at + 2 <= len(descriptors):
        kind, size = descriptors[at], descriptors[at + 1]
        body = descriptors[at + 2 : at + 2 + size]
        if kind == _SERVICE and len(body) > 2:
            provider = body[1]
            return _text(body[3 + provider : 3 + provider + body[2 + provider]] if len(body) > 2 + provider else b"")
        at += 2 + size
    return ""


def _text(data: bytes) -> str:
    """DVB text: a first byte below 32 selects the alphabet."""
    alphabet = "utf-8" if data[:1] == b"\x15" else "latin-1"
    if data[:1] < b" ":
        data = data[3 if data[:1] == b"\x10" else 1 :]
    return printable(data.decode(alphabet, "replace")).strip()
