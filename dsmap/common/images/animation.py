"""Frame durations and loop counts of animated GIF, WebP, PNG and AVIF files, read without decoding (but for AVIF)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from dsmap.common.images.kinds import PNG_START

_DEFAULT = Fraction(1, 10)  # seconds: what browsers make of a delay of 0
_MIN_GIF_DELAY = 2  # hundredths of a second: players take less for 0
_MAX_PARTS = 1_000_000  # chunks or blocks; damage could make a file endless


@dataclass(frozen=True)
class Animation:
    """The frames of an animated image, by its file."""

    durations: tuple[Fraction, ...] = ()
    """Seconds, one per frame; 0 and what players take for 0 become a tenth. Empty for a still image."""
    plays: int = 0
    """How often it is played; 0: endlessly."""
    default_image: bool = False
    """In a PNG: the default image is not a frame, but there for programs that only know stills."""

    @property
    def moves(self) -> bool:
        """Whether there is more than one frame."""
        return len(self.durations) > 1


def scan_animation(stream: BinaryIO, name: str) -> Animation:
    """The frames of the file `stream`, a GIF, WebP, PNG or AVIF by `name`. Damage ends the list early."""
    stream.seek(0)
    if name not in ("GIF", "WebP", "PNG", "AVIF"):
        return Animation()
    return {"GIF": _gif, "WebP": _webp, "PNG": _png, "AVIF": _avif}[name](stream)


def _gif(stream: BinaryIO) -> Animation:
    head = stream.read(13)
    if len(head) < 13:
        return Animation()
    stream.seek(_table_bytes(head[10]), os.SEEK_CUR)
    durations: list[Fraction] = []
    plays, delay = 1, 0
    for _ in range(_MAX_PARTS):
        block = stream.read(1)
        if block == b"!":
            label = stream.read(1)
            body = _sub_blocks(stream, keep=16)
            if label == b"\xf9" and len(body) >= 4:
                delay = int.from_bytes(body[1:3], "little")
            elif label == b"\xff" and body.startswith((b"NETSCAPE2.0\1", b"ANIMEXTS1.0\1")) and len(body) >= 14:
                again = int.from_bytes(body[12:14], "little")
                plays = again + 1 if again else 0
        elif block == b"," and len(place := stream.read(9)) == 9:
            stream.seek(_table_bytes(place[8]) + 1, os.SEEK_CUR)
            _sub_blocks(stream)
            durations.append(Fraction(delay, 100) if delay >= _MIN_GIF_DELAY else _DEFAULT)
            delay = 0
        else:
            break
    return Animation(tuple(durations), plays)


def _table_bytes(flags: int) -> int:
    """The size of the colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks(stream: BinaryIO, keep: int = 0) -> bytes:
    """Skips a chain of sub-blocks; returns up to `keep` bytes of their content."""
    kept = b""
    while size := stream.read(1)[:1]:
        if size == b"\0":
            break
        if len(kept) < keep:
            kept += stream.read(size[0])
        else:
            stream.seek(size[0], os.SEEK_CUR)
    return kept[:keep]


def _webp(stream: BinaryIO) -> Animation:
    durations: list[Fraction] = []
    plays, at = 0, 12
    for _ in range(_MAX_PARTS):
        stream.seek(at)
        head = stream.read(24)
        if len(head) < 8:
            break
        if head[:4] == b"ANIM" and len(head) >= 14:
            plays = int.from_bytes(head[12:14], "little")
        elif head[:4] == b"ANMF" and len(head) >= 23:
            durations.append(Fraction(int.from_bytes(head[20:23], "little"), 1000) or _DEFAULT)
        size = int.from_bytes(head[4:8], "little")
        at += 8 + size + size % 2
    return Animation(tuple(durations), plays)


def _png(stream: BinaryIO) -> Animation:
    durations: list[Fraction] = []
    plays, default_image = 0, False
    for name, at in _png_chunks(stream):
        if name == b"acTL":
            stream.seek(at)
            plays = int.from_bytes(stream.read(8)[4:], "big")
        elif name == b"IDAT":
            default_image |= not durations
        elif name == b"fcTL":
            stream.seek(at + 20)
            delay = stream.read(4)
            if len(delay) < 4:
                break
            denominator = int.from_bytes(delay[2:], "big") or 100
            durations.append(Fraction(int.from_bytes(delay[:2], "big"), denominator) or _DEFAULT)
    return Animation(tuple(durations), plays, default_image and bool(durations))


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields every chunk's name and the offset of its content."""
    at = len(PNG_START)
    for _ in range(_MAX_PARTS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return
        yield head[4:8], at + 8
        at += 12 + int.from_bytes(head[:4], "big")


def _avif(stream: BinaryIO) -> Animation:
    """By decoding: Pillow offers no other way."""
    from PIL import Image

    durations: list[Fraction] = []
    try:
        with Image.open(stream) as opened:
            for index in range(getattr(opened, "n_frames", 1)):
                opened.seek(index)
                opened.load()
                durations.append(Fraction(round(opened.info.get("duration", 0)), 1000) or _DEFAULT)
    except Exception:  # Pillow raises anything for damaged files: the list ends
        pass
    return Animation(tuple(durations))
