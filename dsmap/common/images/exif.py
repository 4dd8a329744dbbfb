"""Exif: an image's orientation, and what of its Exif a translation keeps."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
# Tags about the image itself: description, maker, model, resolution, software, dates, artist, computer, rating,
# copyright, and Windows' title, comment, author, keywords, subject. Others say how the original's pixels were stored.
_KEPT = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
_COLOUR_SPACE, _WIDTH, _HEIGHT, _INTEROP, _MAKER_NOTE = 0xA001, 0xA002, 0xA003, 0xA005, 0x927C
_MAX_BYTES = 65_000  # what a JPEG holds
_ORIENTATION = 0x0112


@contextmanager
def loaded_exif(exif: bytes) -> Iterator["Image.Exif"]:
    """Exif, from its byte order mark on, read by Pillow without warnings. Damage raises any exception."""
    from PIL import Image

    found = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.load(b"Exif\0\0" + exif)
        yield found


def orientation_of(exif: bytes | None) -> int:
    """The Exif orientation, 1 to 8; 1 (upright) if it is missing or damaged."""
    if exif is None:
        return 1
    try:
        with loaded_exif(exif) as found:
            orientation = found.get(_ORIENTATION, 1)
    except Exception:  # Pillow raises anything for damaged Exif
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def carried_exif(exif: bytes, width: int, height: int) -> bytes | None:
    """`exif` for a translation of this size, from its byte order mark on; None if nothing can be kept.

    Dropped are the orientation (the pixels are upright), the thumbnail (of the original) and how pixels were stored;
    the colour space becomes sRGB. The place (GPS) stays. Damaged Exif is dropped without an error.
    """
    try:
        with loaded_exif(exif) as found:
            plain = {tag: found[tag] for tag in _KEPT if tag in found}
            taken = {tag: value for tag, value in found.get_ifd(_EXIF_IFD).items() if tag != _INTEROP}
            place = dict(found.get_ifd(_GPS_IFD))
    except Exception:  # Pillow raises anything for damaged Exif
        return None
    if not (plain or taken or place):
        return None
    taken |= {_COLOUR_SPACE: 1, _WIDTH: width, _HEIGHT: height}
    smaller = {tag: value for tag, value in taken.items() if tag != _MAKER_NOTE}
    for of_camera in (taken, smaller, {}):
        written = _written(plain, of_camera, place)
        if written is not None:
            return written
    return None


def _written(plain: dict[int, Any], taken: dict[int, Any], place: dict[int, Any]) -> bytes | None:
    from PIL import Image

    kept = Image.Exif()
    for tag, value in plain.items():
        kept[tag] = value
    for tag, values in ((_EXIF_IFD, taken), (_GPS_IFD, place)):
        if values:
            kept[tag] = values
    try:
        data = kept.tobytes().removeprefix(b"Exif\0\0")
    except Exception:  # values that Pillow read and cannot write
        return None
    return data if len(data) <= _MAX_BYTES else None
