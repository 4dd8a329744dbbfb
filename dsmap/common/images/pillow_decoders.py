"""Decoders that use Pillow or pi-heif: AVIF, GIF, HEIC, CMYK with a profile, transparent grey."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from dsmap.common.images.colour import kind_of_pixels, to_srgb
from dsmap.common.images.exif import orientation_of
from dsmap.common.images.gif import GifFrames
from dsmap.common.images.header import Header, Unreadable
from dsmap.common.images.pixels import Pixels, finish_pixels, turn_upright

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_EXIF_MARK = b"Exif\0\0"


def open_with_pillow(data: bytes, name: str) -> "PillowImage":
    """Opens `data` with Pillow and decodes its first frame. Raises Unreadable."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_image_memory has checked it
        try:
            opened = Image.open(io.BytesIO(data))
            opened.load()
        except UnidentifiedImageError as error:
            raise Unreadable(
                f"it is damaged, or the installed Pillow cannot read {name}",
                "Update Pillow (pip install --upgrade pillow), or replace the file by an intact one.",
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises anything for damaged files
            raise Unreadable(f"the {name} is damaged ({error})") from error
    return opened


def decode_with_pillow(data: bytes, header: Header) -> tuple[Pixels, list[str]]:
    """Decodes AVIF, the first of several frames."""
    opened = open_with_pillow(data, header.format)
    _take_facts(header, opened.info)
    count = int(getattr(opened, "n_frames", 1))
    notes = [f"frame 1 of {count} is read"] if count > 1 else []
    rgb, more = _finished(opened, header, orientation_of(header.exif))
    return rgb, notes + more


def decode_gif(data: bytes, header: Header) -> tuple[Pixels, list[str]]:
    """Decodes the first frame of a GIF."""
    _take_facts(header, open_with_pillow(data, header.format).info)
    try:
        frames = GifFrames(data)
        stored = frames.frame(0)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises anything for damaged files
        raise Unreadable(f"the GIF is damaged ({error})") from error
    convert, notes = to_srgb(header, kind_of_pixels(header, stored))
    more = [f"frame 1 of {len(frames)} is read"] if len(frames) > 1 else []
    return finish_pixels(stored, convert, bgr=False), more + notes


def decode_heic(data: bytes, header: Header) -> tuple[Pixels, list[str]]:
    """Decodes HEIC (also grids), turned upright by libheif; of several images the primary one."""
    try:
        import pi_heif
    except ImportError as error:
        raise Unreadable("it is HEIC, and pi-heif is not installed", "pip install pi-heif, or convert it.") from error
    try:
        opened = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True, bgr_mode=False)
        frame = opened[opened.primary_index]
        image, info = frame.to_pillow(), frame.info
    except MemoryError:
        raise
    except Exception as error:  # libheif raises anything for damaged files
        raise Unreadable(f"the HEIC is damaged ({error})") from error
    _take_facts(header, info)
    nclx = info.get("nclx_profile")
    if nclx:
        header.cicp = (int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    notes = [f"the main one of its {len(opened)} images is read"] if len(opened) > 1 else []
    rgb, more = _finished(image, header, 1)
    return rgb, notes + more


def decode_cmyk(data: bytes, header: Header) -> tuple[Pixels | None, list[str]]:
    """Decodes CMYK by its profile; None, and notes, if that does not fit."""
    convert, notes = to_srgb(header, "CMYK")
    if convert is None:
        return None, notes
    opened = open_with_pillow(data, header.format)
    if opened.mode != "CMYK":
        return None, notes
    return convert(turn_upright(np.asarray(opened), orientation_of(header.exif))), notes


def decode_transparent_grey(data: bytes, header: Header) -> tuple[Pixels | None, list[str]]:
    """Decodes grey whose transparency OpenCV drops (TIFF, PNG's tRNS); None, and notes, for 16 bits."""
    opened = open_with_pillow(data, header.format)
    if opened.mode not in ("1", "L", "LA"):
        return None, ["its transparency is ignored"]
    # Pillow has already turned a TIFF.
    return _finished(opened, header, 1 if header.format == "TIFF" else orientation_of(header.exif))


def _take_facts(header: Header, info: dict) -> None:
    header.icc = info.get("icc_profile") or None
    exif = info.get("exif")
    header.exif = exif.removeprefix(_EXIF_MARK) if exif else None


def _finished(opened: "PillowImage", header: Header, orientation: int) -> tuple[Pixels, list[str]]:
    """Converts an image of any mode to upright sRGB on white."""
    has_alpha = "A" in opened.getbands() or "transparency" in opened.info
    stored = turn_upright(np.asarray(opened.convert("RGBA" if has_alpha else "RGB")), orientation)
    convert, notes = to_srgb(header, kind_of_pixels(header, stored))
    if convert is None and not has_alpha:
        return np.array(stored), notes  # a copy: Pillow's memory is read-only
    return finish_pixels(stored, convert, bgr=False), notes
