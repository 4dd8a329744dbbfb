"""The frames of a GIF, composed as browsers show them.

Pillow decodes the pixels of each frame but does not compose them: where the first frame is opaque or does not cover the
canvas, it would show black in places that are transparent in every browser.
"""

import io
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_TO_BACKGROUND, _TO_PREVIOUS = 2, 3
_MAX_GROWTH, _ALWAYS_ALLOWED = 4, 1 << 20  # a frame may be larger than the canvas, but must not fill the memory


@dataclass(frozen=True)
class _Frame:
    """A frame's data, and how it is drawn."""

    left: int
    top: int
    width: int
    height: int
    palette: bytes
    interlaced: int
    transparent: int | None
    disposal: int
    data: bytes
    """The code size and all sub-blocks."""


class GifFrames:
    """The frames of the GIF `data`, as (H, W, 4) RGBA. Read them in order: going back starts from the first."""

    def __init__(self, data: bytes) -> None:
        self.width, self.height = struct.unpack_from("<HH", data, 6)
        self._frames = _split(data)
        self._next = 0
        self._restart()

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, index: int) -> Pixels:
        """A copy of the canvas after frame `index`. Raises what Pillow raises if the frame does not decode."""
        if not (self.width and self.height):
            raise ValueError("a canvas without pixels")
        if index < self._next:
            self._restart()
        while self._next < index:
            number = self._next
            self._next += 1
            try:
                self._draw(self._frames[number])
            except Exception:  # damage, reported when this frame was read
                continue
        self._next = index + 1
        self._draw(self._frames[index])
        return self._canvas.copy()

    def _restart(self) -> None:
        self._canvas = np.zeros((self.height, self.width, 4), np.uint8)
        self._next = 0
        self._restored: tuple[slice, slice, Pixels] | None = None

    def _draw(self, frame: _Frame) -> None:
        if self._restored is not None:
            rows, columns, before = self._restored
            self._canvas[rows, columns] = before
            self._restored = None
        if frame.width * frame.height > _MAX_GROWTH * self.width * self.height + _ALWAYS_ALLOWED:
            raise ValueError(f"a frame of {frame.width}x{frame.height} on {self.width}x{self.height}")
        indices = _indices(frame)
        rows = slice(frame.top, min(frame.top + frame.height, self.height))
        columns = slice(frame.left, min(frame.left + frame.width, self.width))
        part = self._canvas[rows, columns]
        if frame.disposal in (_TO_BACKGROUND, _TO_PREVIOUS):
            kept = part.copy() if frame.disposal == _TO_PREVIOUS else np.zeros_like(part)
            self._restored = rows, columns, kept
        indices = indices[: part.shape[0], : part.shape[1]]
        table = np.zeros((256, 4), np.uint8)
        colours = np.frombuffer(frame.palette, np.uint8).reshape(-1, 3)
        table[: len(colours), :3], table[:, 3] = colours, 255
        drawn = np.ones(indices.shape, bool) if frame.transparent is None else indices != frame.transparent
        part[drawn] = table[indices][drawn]


def _indices(frame: _Frame) -> Pixels:
    """(H, W) palette indices. Decoded as a GIF of its own, with a palette that cannot be taken for grey."""
    from PIL import Image

    size = struct.pack("<HH", frame.width, frame.height)
    palette = bytes(value for i in range(256) for value in (i, 255 - i, i ^ 85))
    head = b"GIF89a" + size + b"\xf7\0\0" + palette + b"," + bytes(4) + size + bytes([frame.interlaced])
    with Image.open(io.BytesIO(head + frame.data + b";")) as opened:
        opened.load()
        if opened.mode != "P":
            raise ValueError(f"a frame came as {opened.mode}")
        return np.asarray(opened, np.uint8)


def _split(data: bytes) -> list[_Frame]:
    """All complete frames; damage ends the list."""
    frames: list[_Frame] = []
    try:
        palette, at = _palette(data, data[10], 13)
        transparent, disposal = None, 0
        while data[at : at + 1] in (b"!", b","):
            if data[at : at + 1] == b"!":
                if data[at + 1] == 0xF9:
                    flags = data[at + 3]
                    transparent, disposal = data[at + 6] if flags & 1 else None, flags >> 2 & 7
                at = _end_of_blocks(data, at + 2)
                continue
            left, top, width, height, flags = struct.unpack_from("<4HB", data, at + 1)
            own, begin = _palette(data, flags, at + 10)
            at = _end_of_blocks(data, begin + 1)
            frames.append(
                _Frame(left, top, width, height, own or palette, flags & 0x40, transparent, disposal, data[begin:at])
            )
            transparent, disposal = None, 0
    except (IndexError, struct.error):
        pass
    return frames


def _palette(data: bytes, flags: int, at: int) -> tuple[bytes, int]:
    """The colour table at offset `at`, if the flags announce one, and its end."""
    size = 3 << ((flags & 7) + 1) if flags & 0x80 else 0
    return data[at : at + size], at + size


def _end_of_blocks(data: bytes, at: int) -> int:
    """The offset after the chain of sub-blocks at `at`. Raises IndexError if it has no end."""
    while data[at]:
        at += data[at] + 1
    return at + 1
