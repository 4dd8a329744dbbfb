"""An image's sides by its header, without reading the file to its end."""

from pathlib import Path

from dsmap.common.images.header import read_header
from dsmap.common.images.kinds import open_regular
from dsmap.common.images.memory import check_image_memory
from dsmap.errors import InputError

_FIRST_BYTES, _MOST_BYTES = 1 << 16, 1 << 22  # large profiles and thumbnails stand before the sides


def sides_of(path: Path) -> tuple[int, int] | None:
    """(width, height) as stored, before any turning; None where the header does not tell. Nothing is waited for."""
    file = open_regular(path)
    if file is None:
        return None
    with file:
        for count in (_FIRST_BYTES, _MOST_BYTES):
            file.seek(0)
            try:
                header = read_header(file.read(count))
            except OSError:
                return None
            if header.width and header.height:
                return header.width, header.height
    return None


def too_large(path: Path) -> str | None:
    """Why the image at `path` does not fit into memory, by its header; None where it does, or where nothing is told."""
    sides = sides_of(path)
    if sides is None:
        return None
    try:
        check_image_memory(*sides)
    except InputError as error:
        return error.fact
    return None
