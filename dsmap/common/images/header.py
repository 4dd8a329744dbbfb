"""Headers of encoded images: size, colours, transparency, orientation and damage, without decoding.

So an image that would not fit into memory is never decoded.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dsmap.common.images.kinds import PNG_START, format_of_bytes

_JPEG_END = b"\xff\xd9"
_MAX_PROFILE = 16 * 2**20  # bytes; the largest printing profiles have some megabytes
_EXIF_MARK, _ICC_MARK = b"Exif\0\0", b"ICC_PROFILE\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


class Unreadable(Exception):  # noqa: N818  # never leaves the reading of images
    """Why an image cannot be read, without its name; and special advice, if there is any."""

    def __init__(self, fault: str, advice: str = "") -> None:
        super().__init__(fault)
        self.advice = advice


@dataclass(slots=True)
class Header:
    """What the header of an encoded image says. A size of 0 is unknown."""

    format: str
    """Empty for a file in no format that is read here."""
    width: int = 0
    """In pixels as stored, before Exif rotation."""
    height: int = 0
    channels: int = 0
    """Colour channels of a JPEG, PNG or TIFF: 1 is grey, 4 without alpha is CMYK. 0: unknown."""
    has_alpha: bool = False
    """Whether it may be transparent in places."""
    progressive: bool = False
    pages: int = 1
    """Pages of a TIFF, frames of an animated WebP or PNG."""
    icc: bytes | None = None
    exif: bytes | None = None
    """TIFF-structured, from its byte order mark on."""
    cicp: tuple[int, int] | None = None
    """Primaries and transfer, as numbered in H.273."""
    gamma: float | None = None
    """Encoding exponent of a PNG; 0.45455 is that of sRGB."""
    chromaticities: tuple[float, ...] | None = None
    """x and y of white, red, green and blue of a PNG."""
    is_srgb: bool = False
    """Whether the file declares sRGB."""
    fault: str | None = None


def read_header(data: bytes) -> Header:
    """The header of the encoded image `data`. Never raises: `fault` says what is wrong."""
    header = Header("AVIF" if data[4:12] == b"ftypavis" else format_of_bytes(data))
    if not data:
        header.fault = "the file is empty"
        return header
    parse = _PARSERS.get(header.format)
    if parse is not None:
        try:
            parse(data, header)
        except (struct.error, IndexError, ValueError, zlib.error):
            header.fault = header.fault or f"the {header.format} is damaged"
    return header


def _jpeg(data: bytes, header: Header) -> None:
    profile: dict[int, bytes] = {}
    header.fault = "the JPEG is cut short (no image data)"
    for marker, at in jpeg_segments(data):  # not just the last bytes: a thumbnail has an end marker of its own
        if marker is None:
            header.fault = "the JPEG is damaged"
            return
        if marker == 0xDA:  # the scan: here an end marker is the image's
            header.fault = None if data.find(_JPEG_END, at) >= 0 else "the JPEG is cut short (no end marker)"
            break
        if marker in _FRAMES and not header.width and at + 10 <= len(data):
            header.height, header.width = struct.unpack_from(">HH", data, at + 5)
            header.channels, header.progressive = data[at + 9], marker in _PROGRESSIVE
        elif marker == 0xE1 and header.exif is None and data.startswith(_EXIF_MARK, at + 4):
            header.exif = data[at + 10 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        elif marker == 0xE2 and data.startswith(_ICC_MARK, at + 4):
            profile[data[at + 16]] = data[at + 18 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    if profile:
        header.icc = b"".join(profile[number] for number in sorted(profile))


def jpeg_segments(data: bytes) -> Iterator[tuple[int | None, int]]:
    """Yields every segment's marker and offset; None, and the end, where a marker is missing."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            yield None, at
            return
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        yield data[at + 1], at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _png(data: bytes, header: Header) -> None:
    header.fault = "the PNG is cut short (no end chunk)"
    at, colour_type, transparent = len(PNG_START), 0, False
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        # Checked here because libpng prints on stderr, whatever OpenCV's log level.
        if end + 4 > len(data):
            break
        name = data[at + 4 : at + 8]
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            header.fault = "the PNG is damaged (wrong checksum)"
            return
        if name == b"IEND":
            header.fault = None
            break
        if name == b"IHDR":
            header.width, header.height, _, colour_type = struct.unpack_from(">IIBB", data, at + 8)
        elif name == b"tRNS":
            transparent = True
        elif name != b"IDAT":
            _png_chunk(name, data[at + 8 : end], header)
        at = end + 4
    header.has_alpha = transparent or colour_type in (4, 6)
    header.channels = 1 if colour_type in (0, 4) else 3


def _png_chunk(name: bytes, body: bytes, header: Header) -> None:
    if name == b"iCCP":
        _, _, rest = body.partition(b"\0")
        try:
            header.icc = zlib.decompressobj().decompress(rest[1:], _MAX_PROFILE)
        except zlib.error:
            header.icc = b"damaged"  # reported as unreadable later
    elif name == b"eXIf":
        header.exif = body.removeprefix(_EXIF_MARK)
    elif name == b"cICP" and len(body) >= 4:
        header.cicp = (body[0], body[1])
    elif name == b"acTL":
        header.pages = max(1, int.from_bytes(body[:4], "big"))
    elif name == b"sRGB":
        header.is_srgb = True
    elif name == b"gAMA" and len(body) >= 4:
        header.gamma = int.from_bytes(body[:4], "big") / 100_000
    elif name == b"cHRM" and len(body) >= 32:
        header.chromaticities = tuple(value / 100_000 for value in struct.unpack_from(">8I", body))


def _webp(data: bytes, header: Header) -> None:
    at, frames = 12, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = at + 8
        if name == b"VP8X":
            header.has_alpha = bool(data[body] & 0x10)
            header.width = 1 + int.from_bytes(data[body + 4 : body + 7], "little")
            header.height = 1 + int.from_bytes(data[body + 7 : body + 10], "little")
        elif name == b"VP8L" and not header.width:
            bits = int.from_bytes(data[body + 1 : body + 5], "little")
            header.width, header.height, header.has_alpha = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), True
        elif name == b"VP8 " and not header.width:
            width, height = struct.unpack_from("<HH", data, body + 6)
            header.width, header.height = width & 0x3FFF, height & 0x3FFF
        elif name == b"ANMF":
            frames += 1
        elif name == b"ICCP":
            header.icc = data[body : body + min(size, _MAX_PROFILE)]
        elif name == b"EXIF":
            header.exif = data[body : body + size].removeprefix(_EXIF_MARK)
        at = body + size + size % 2
    header.pages = max(1, frames)


def _bmp(data: bytes, header: Header) -> None:
    if int.from_bytes(data[14:18], "little") == 12:
        header.width, header.height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
        header.width, header.height = abs(width), abs(height)


def _gif(data: bytes, header: Header) -> None:
    header.width, header.height = struct.unpack_from("<HH", data, 6)
    header.has_alpha = True


def _tiff(data: bytes, header: Header) -> None:
    """Reads the first page and counts the others."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:3] == b"+" or data[3:4] == b"+"
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    seen: set[int] = set()
    while at and at not in seen and at + 8 <= len(data) and len(seen) < 100_000:
        seen.add(at)
        count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
        at += 8 if big else 2
        if len(seen) == 1:
            _tiff_tags(data, at, min(count, 1000), order, big, header)
        at += count * (20 if big else 12)
        at = struct.unpack_from(order + ("Q" if big else "I"), data, at)[0] if at + 8 <= len(data) + 4 else 0
    header.pages = max(1, len(seen))
    header.exif = data  # Exif is stored as TIFF


def _tiff_tags(data: bytes, at: int, count: int, order: str, big: bool, header: Header) -> None:
    values: dict[int, int] = {}
    for place in range(at, at + count * (20 if big else 12), 20 if big else 12):
        tag, kind = struct.unpack_from(order + "HH", data, place)
        number = struct.unpack_from(order + ("Q" if big else "I"), data, place + 4)[0]
        value_at = place + (12 if big else 8)
        values[tag] = struct.unpack_from(order + {3: "H", 16: "Q"}.get(kind, "I"), data, value_at)[0]
        if tag == 34675 and number <= _MAX_PROFILE:
            where = struct.unpack_from(order + ("Q" if big else "I"), data, value_at)[0]
            header.icc = data[where : where + number]
    header.width, header.height = values.get(256, 0), values.get(257, 0)
    header.channels = {0: 1, 1: 1, 5: 4}.get(values.get(262, 2), 3)
    header.has_alpha = header.channels != 4 and (338 in values or values.get(277, 1) > header.channels)


def _heif(data: bytes, header: Header) -> None:
    """Takes the largest size of any item: a grid and its tiles have one each."""
    at = data.find(b"ispe")
    while at >= 0 and at + 16 <= len(data):
        width, height = struct.unpack_from(">II", data, at + 8)
        if width * height > header.width * header.height and data[at + 4 : at + 8] == b"\0\0\0\0":
            header.width, header.height = width, height
        at = data.find(b"ispe", at + 4, 2**20)
    coded = data.find(b"colrnclx", 0, 2**20)
    if coded >= 0:
        header.cicp = struct.unpack_from(">HH", data, coded + 8)
    header.has_alpha = True  # only the decoder knows


_PARSERS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "TIFF": _tiff,
    "AVIF": _heif,
    "HEIC": _heif,
}
