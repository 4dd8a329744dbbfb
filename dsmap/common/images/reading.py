"""Reads an image file as upright 8-bit sRGB.

OpenCV decodes most formats (16-bit grey better than Pillow, JPEGs 1.7 times as fast). Pillow decodes what OpenCV does
not, or not in the right colours: AVIF, GIF, CMYK with a profile; pi-heif decodes HEIC. Transparency, colour profiles,
damage that OpenCV accepts, memory limits and helpful errors are handled here.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.common.files import read_regular
from dsmap.common.images.colour import kind_of_pixels, to_srgb
from dsmap.common.images.exif import orientation_of
from dsmap.common.images.header import Header, Unreadable, read_header
from dsmap.common.images.kinds import RAW_SUFFIXES, unread_format
from dsmap.common.images.pillow_decoders import (
    decode_cmyk,
    decode_gif,
    decode_heic,
    decode_transparent_grey,
    decode_with_pillow,
)
from dsmap.common.images.pixels import Pixels, finish_pixels, turn_upright
from dsmap.common.images.size import check_image_memory
from dsmap.common.text import printable
from dsmap.errors import InputError

FORMATS_READ = "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"

_MAX_BYTES = 4 * 2**30
# The JPEG decoder can decode at a fraction of the size.
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_BY_PILLOW = {"AVIF": decode_with_pillow, "GIF": decode_gif, "HEIC": decode_heic}

_log = logging.getLogger("dsmap.common.images")
_warned: set[tuple[str, str]] = set()

# OpenCV logs unreadable files on stderr, which our errors report already. OPENCV_LOG_LEVEL still turns its log on.
if "OPENCV_LOG_LEVEL" not in os.environ:
    # The function has moved between OpenCV 4 and 5.
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was read."""

    rgb: Pixels
    """(H, W, 3), upright, sRGB."""
    format: str
    exif: bytes | None = None
    """As stored, from its byte order mark on; for a TIFF the whole file."""
    notes: tuple[str, ...] = ()
    """Lines that a person should know, about a damaged profile or further pages."""


def read_image(path: Path, *, at_least: int | None = None) -> Image:
    """Reads the image at `path` as upright 8-bit sRGB, with its Exif and notes.

    at_least: the shorter side that the caller needs. Large JPEGs are then decoded at a half, a quarter or an eighth of
        their size (never below twice `at_least`), which is several times as fast.

    Colours are converted to sRGB from the image's profile, or from cICP, gAMA and cHRM, or Exif; a damaged profile is
    ignored, with a note. Grey, palette, CMYK and 16-bit images are converted to 8-bit RGB, transparent ones are laid on
    white, as browsers show them. Of several pages or frames the first is read. The content decides about the format,
    not the suffix.
    Raises InputError if the file is missing, not a regular file, empty, truncated, damaged, not an image, or needs more
    memory than is available.
    """
    path = Path(path)
    try:
        data = read_regular(path, limit=_MAX_BYTES, what="the image")
    except InputError as error:
        raise InputError(f"{error.fact[0].upper()}{error.fact[1:]}.", error.advice) from error
    header = read_header(data)
    try:
        if header.fault is not None:
            raise Unreadable(header.fault)
        if path.suffix.lower() in RAW_SUFFIXES:  # it would be read as a TIFF with a small preview
            raise Unreadable("it is a camera raw file, which is not read here", "Develop it to TIFF or JPEG first.")
        rgb, notes = _decode(data, header, at_least)
    except Unreadable as error:
        raise InputError(
            f"Cannot read the image {path}: {error}.",
            error.advice or f"Replace it by an intact file ({FORMATS_READ}), or remove it.",
        ) from error
    except InputError as error:
        raise InputError(f"Cannot read the image {path}: {error.fact}.", error.advice) from error
    except (MemoryError, cv2.error) as error:
        raise InputError(
            f"Cannot read the image {path}: there is not enough memory for {header.width}x{header.height} pixels.",
            "Close other programs, scale it down with another tool first, or leave it out.",
        ) from error
    return Image(rgb=rgb, format=header.format, exif=header.exif, notes=tuple(notes))


def read_rgb(path: Path, *, at_least: int | None = None) -> Pixels:
    """The pixels of `read_image`: uint8 (H, W, 3) RGB. Notes go to the log, once per file."""
    image = read_image(path, at_least=at_least)
    for note in image.notes:
        if (str(path), note) not in _warned:
            _warned.add((str(path), note))
            _log.warning("%s: %s", printable(path), note)
    return image.rgb


def _decode(data: bytes, header: Header, at_least: int | None) -> tuple[Pixels, list[str]]:
    if name := unread_format(data[:64]):
        raise Unreadable(f"it is a {name} file, which is not read here", "Convert it to PNG or JPEG first.")
    flags, share = _reduction(header, at_least)
    check_image_memory(header.width, header.height, share=share)
    part = "page" if header.format == "TIFF" else "frame"
    notes = [f"{part} 1 of {header.pages} is read"] if header.pages > 1 else []
    if header.format in _BY_PILLOW:
        decoded, more = _BY_PILLOW[header.format](data, header)
        return decoded, notes + more
    if header.channels == 4 and header.icc is not None and not header.has_alpha:
        found, more = decode_cmyk(data, header)
        if found is not None:
            return found, notes + more
        notes += more
        header.icc = None
    if header.has_alpha:
        stored = _decoded(data, cv2.IMREAD_UNCHANGED)
        if stored.ndim == 3 and stored.shape[2] == 4:
            upright = stored if header.format == "TIFF" else turn_upright(stored, orientation_of(header.exif))
            # libtiff hands out 8-bit colours already multiplied by their alpha, the other decoders do not.
            multiplied = header.format == "TIFF" and stored.dtype == np.uint8
            convert, more = to_srgb(header, kind_of_pixels(header, upright))
            return finish_pixels(upright, convert, multiplied=multiplied), notes + more
        if stored.ndim == 2:
            found, more = decode_transparent_grey(data, header)
            if found is not None:
                return found, notes + more
            notes += more
        del stored
    bgr = _decoded(data, flags)
    convert, more = to_srgb(header, kind_of_pixels(header, bgr))
    if bgr.dtype == np.uint8 and convert is None:
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), notes + more
    return finish_pixels(bgr, convert), notes + more


def _reduction(header: Header, at_least: int | None) -> tuple[int, int]:
    """OpenCV's flags, and the number of pixels of which one is decoded."""
    if header.format == "JPEG" and at_least is not None:
        for part, reduced in _REDUCED:
            if min(header.width, header.height) // part >= 2 * at_least:
                # A progressive JPEG has all its coefficients in memory.
                return reduced, 2 if header.progressive else part * part
    return cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, 1


def _decoded(data: bytes, flags: int) -> npt.NDArray:
    """uint8 or uint16, BGR or BGRA."""
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for example more pixels than OpenCV's limit
        decoded = None
    if decoded is None:
        raise Unreadable("OpenCV cannot decode it")
    if decoded.dtype not in (np.uint8, np.uint16):
        raise Unreadable(f"its pixels are {decoded.dtype}, expected 8 or 16 bits")
    return decoded
