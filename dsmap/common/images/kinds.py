"""Detects images, animations, videos and formats that are not read, by a file's content.

Suffixes lie: phones send HEIC as .jpg, browsers save WebP as .png. They decide only if the content does not (an empty
file, damage at the very beginning), and for camera raw files, which look like TIFF.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from dsmap.common.files import open_regular

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"}
    | {".avif", ".heic", ".heif", ".hif"}
)
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut"}
    | {".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)

Role = Literal["image", "animation", "video", "unread"]

RAW_SUFFIXES = frozenset({".dng", ".nef", ".cr2", ".cr3", ".crw", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf"})
_MOTION_JPEG_SUFFIXES = frozenset({".mjpg", ".mjpeg"})
_MAX_CHUNKS = 100_000  # chunks read of one file: damage could make it endless

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STILL_BRANDS = {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC"}
# Image formats that are not read here, by their first bytes.
_UNREAD = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
)


@dataclass(frozen=True)
class Kind:
    """What a file is: its role and format."""

    role: Role
    format: str = ""
    """For people: "JPEG", "JPEG XL"; empty if only the suffix decided."""


def kind_of(path: Path) -> Kind | None:
    """The kind of the file `path`, by its content, then by its suffix; None if it is neither image nor video.

    Never waits: for a FIFO, a device or a file that cannot be read, the suffix decides.
    """
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return Kind("unread", "camera raw")
    found = _by_content(path)
    if found is not None and found.format == "JPEG" and suffix in _MOTION_JPEG_SUFFIXES:
        return Kind("video", "Motion JPEG")
    if found is not None and found.role == "video" and suffix not in ("", *VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
        return None  # containers of videos hold sound, subtitles and much else
    if found is not None:
        return found
    if suffix in IMAGE_SUFFIXES:
        return Kind("image")
    return Kind("video") if suffix in VIDEO_SUFFIXES | _MOTION_JPEG_SUFFIXES else None


def format_of_bytes(data: bytes) -> str:
    """The format of a still image by its first bytes; empty if it is not read here."""
    return next((name for test, name in _STILL_TESTS if test(data)), "")


def unread_format(data: bytes) -> str:
    """The name of a known image format that is not read here; empty for others."""
    return next((name for start, name in _UNREAD if data.startswith(start)), "")


def _by_content(path: Path) -> Kind | None:
    stream = open_regular(path)
    if stream is None:
        return None
    with stream:
        try:
            return _of_stream(stream)
        except OSError:
            return None


def _of_stream(stream: BinaryIO) -> Kind | None:
    head = stream.read(64)
    name = format_of_bytes(head)
    if name == "GIF" or (name == "WebP" and _may_move_webp(head)) or (name == "PNG" and _may_move_png(stream)):
        from dsmap.common.images.animation import scan_animation

        return Kind("animation" if scan_animation(stream, name).moves else "image", name)
    if name:
        return Kind("image", name)
    if head[4:8] == b"ftyp":
        return _of_boxes(stream, head)
    if unread := unread_format(head):
        return Kind("unread", unread)
    if head.startswith(b"\x1aE\xdf\xa3") or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return Kind("video", "Matroska" if head[:1] == b"\x1a" else "AVI")
    return None


def _of_boxes(stream: BinaryIO, head: bytes) -> Kind | None:
    """mp4, mov, or the moving kinds of AVIF and HEIC; None for sound alone."""
    brand = head[8:12]
    if brand == b"crx ":
        return Kind("unread", "camera raw")
    if brand in (b"M4A ", b"M4B "):
        return None
    if brand != b"avis":
        return Kind("video", "MP4")
    from PIL import Image

    stream.seek(0)
    try:
        with Image.open(stream) as opened:
            moves = getattr(opened, "n_frames", 1) > 1
    except Exception:  # Pillow raises anything for damaged files
        moves = True  # the reader will say what is wrong
    return Kind("animation" if moves else "image", "AVIF")


def _may_move_webp(head: bytes) -> bool:
    return head[12:16] == b"VP8X" and bool(head[20:21]) and bool(head[20] & 2)


def _may_move_png(stream: BinaryIO) -> bool:
    """Whether a PNG announces frames, before its first pixels."""
    at = len(PNG_START)
    for _ in range(_MAX_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"acTL"):
            return head[4:] == b"acTL"
        at += 12 + int.from_bytes(head[:4], "big")
    return False


def _is_heif(data: bytes, name: str) -> bool:
    if data[4:8] != b"ftyp":
        return False
    major = data[8:12]
    if major == b"mif1" or major == b"miaf":  # a general brand: the compatible ones say more
        size = min(int.from_bytes(data[:4], "big"), len(data))
        compatible = {data[at : at + 4] for at in range(16, size - 3, 4)}
        return ("AVIF" if b"avif" in compatible else "HEIC") == name
    return _STILL_BRANDS.get(major) == name


_STILL_TESTS = (
    (lambda data: data.startswith(JPEG_START), "JPEG"),
    (lambda data: data.startswith(PNG_START), "PNG"),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", "WebP"),
    (lambda data: data[:6] in (b"GIF87a", b"GIF89a"), "GIF"),
    (lambda data: data.startswith(TIFF_STARTS), "TIFF"),
    (lambda data: data[:2] == b"BM" and len(data) >= 26 and data[6:10] == b"\0\0\0\0", "BMP"),
    (lambda data: _is_heif(data, "AVIF"), "AVIF"),
    (lambda data: _is_heif(data, "HEIC"), "HEIC"),
)
