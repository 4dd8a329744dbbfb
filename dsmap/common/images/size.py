"""An image's size by its header, and whether it fits into memory, before it is decoded.

A file of half a megabyte may hold gigabytes of pixels.
"""

from pathlib import Path

from dsmap.common.files import open_regular
from dsmap.common.images.header import read_header
from dsmap.common.memory import available_bytes
from dsmap.errors import InputError

BYTES_PER_PIXEL = 20
"""Peak memory of reading, including the result: 6 to 9 were measured for plain images, 16 for 16 bits with alpha and up
to 19 for HEIC."""
MAX_PIXELS = 2**30
"""OpenCV's own limit."""
_ALWAYS_FITS = 4_000_000  # pixels: querying the memory takes as long as reading a small image
_GB = 1e9
_FIRST_BYTES, _MAX_BYTES = 1 << 16, 1 << 22  # large profiles and thumbnails come before the size


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) as stored, before Exif rotation; None if the header does not say. Never waits."""
    file = open_regular(path)
    if file is None:
        return None
    with file:
        for count in (_FIRST_BYTES, _MAX_BYTES):
            file.seek(0)
            try:
                header = read_header(file.read(count))
            except OSError:
                return None
            if header.width and header.height:
                return header.width, header.height
    return None


def size_fault(path: Path) -> str | None:
    """Why the image at `path` does not fit into memory, by its header; None if it does, or the header does not say."""
    sides = image_size(path)
    if sides is None:
        return None
    try:
        check_image_memory(*sides)
    except InputError as error:
        return error.fact
    return None


def check_image_memory(width: int, height: int, *, share: int = 1) -> None:
    """Raises InputError unless an image of this size fits into the available memory when it is read.

    `share`: the decoder keeps one of so many pixels.
    """
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise InputError(
            f"{width}x{height} pixels exceed the limit for an image ({MAX_PIXELS / 1e6:.0f} megapixels)",
            "Scale it down with another tool first, or leave it out.",
        )
    if pixels <= _ALWAYS_FITS:
        return
    needed, available = pixels * BYTES_PER_PIXEL // share, available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{width}x{height} pixels need about {needed / _GB:.1f} GB of memory, "
            f"{max(0, available) / _GB:.1f} GB are available",
            "Close other programs, scale it down with another tool first, or leave it out.",
        )
