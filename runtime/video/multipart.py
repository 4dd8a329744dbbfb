"""Reading a camera's endless images over HTTP (multipart/x-mixed-replace), each of a bounded size.

FFmpeg's own reader takes an image that never ends into memory until a deadline. So the stream is cut into its parts
here, and FFmpeg is given those that are whole, each with its length.
"""

import errno
import re
from collections.abc import Iterator

MAX_PART_BYTES = 64 << 20
_MAX_HEAD_BYTES = 1 << 16
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_BEGIN = re.compile(rb"\s*--\S[^\r\n]*\r?\n((?:[!-~]+:[^\r\n]*\r?\n)+)")
_TYPE = re.compile(rb"^content-type:[ \t]*(\S*)", re.IGNORECASE | re.MULTILINE)


def is_multipart(begin: bytes) -> bool:
    """Whether a stream that begins so consists of JPEG images between boundaries."""
    match = _BEGIN.match(begin)
    kind = _TYPE.search(match[1]) if match else None
    return match is not None and (kind is None or kind[1].lower().startswith(b"image/jp"))


def begins_part(begin: bytes) -> bool:
    """Whether more of a stream must come before `is_multipart` can tell."""
    first = begin[:_MAX_HEAD_BYTES].lstrip()
    return len(begin) < _MAX_HEAD_BYTES and first[:2] in (b"", b"-", b"--") and re.search(rb"\n\r?\n", first) is None


class MultipartImages:
    """A file for `av.open(..., format="mpjpeg")`: `chunks` of such a stream, cut into its parts.

    Reading raises OSError for a part of more than `MAX_PART_BYTES`, and what `chunks` raises.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()
        self._ready = memoryview(b"")
        self._boundary = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        if not self._ready:
            self._ready = memoryview(self._next_part())
        given, self._ready = self._ready[:size], self._ready[size:]
        return bytes(given)

    def _next_part(self) -> bytes:
        """The next part that is whole, boundary and head included; empty at the end."""
        while (head := self._head()) is not None:
            length = _LENGTH.search(head)
            body = self._until_boundary() if length is None else self._exactly(int(length[1]))
            if body is not None:
                kind = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: "
                return kind + str(len(body)).encode() + b"\r\n\r\n" + body + b"\r\n"
        return b""

    def _head(self) -> bytes | None:
        """The lines up to the next empty one, from a boundary on; None at the end."""
        while True:
            match = re.search(rb"--(\S[^\r\n]*)\r?\n(.*?\n)??\r?\n", bytes(self._held[:_MAX_HEAD_BYTES]), re.DOTALL)
            if match is not None:
                self._boundary = self._boundary or b"\n--" + match[1].rstrip()
                del self._held[: match.end()]
                return match[2] or b""
            if len(self._held) > _MAX_HEAD_BYTES or not self._more():
                return None

    def _exactly(self, length: int) -> bytes | None:
        if length > MAX_PART_BYTES:
            raise _too_large()
        while len(self._held) < length:
            if not self._more():
                return None
        body = bytes(self._held[:length])
        del self._held[:length]
        return body

    def _until_boundary(self) -> bytes | None:
        seen = 0
        while (end := self._held.find(self._boundary, seen)) < 0:
            seen = max(0, len(self._held) - len(self._boundary))
            if len(self._held) > MAX_PART_BYTES:
                raise _too_large()
            if not self._more():
                return None
        body = bytes(self._held[:end]).removesuffix(b"\r")
        del self._held[: end + 1]
        return body

    def _more(self) -> bool:
        """Whether another chunk came."""
        chunk = b"" if self._ended else next(self._chunks, b"")
        self._ended = not chunk
        self._held += chunk
        return not self._ended


def _too_large() -> OSError:
    return OSError(errno.EMSGSIZE, f"it sends an image of more than {MAX_PART_BYTES >> 20} MB")
