"""Reads an image file as upright 8-bit sRGB.

OpenCV decodes grey, palette, 16-bit and EXIF-turned images rightly (16-bit grey better than Pillow, JPEGs 1.7 times as
fast). Pillow decodes what OpenCV does not or not with its colours: AVIF, GIF, CMYK with a profile; pi-heif HEIC.
Transparency, colour profiles, damage that OpenCV lets pass, memory, and errors that say something are done here.
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
# The JPEG decoder can leave out what a smaller image does not need.
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_BY_PILLOW = {"AVIF": decode_with_pillow, "GIF": decode_gif, "HEIC": decode_heic}

_log = logging.getLogger("dsmap.common.images")
_told: set[tuple[str, str]] = set()

# OpenCV logs every file it cannot read on stderr, and our errors already say it. Its own switch still turns the log on.
if "OPENCV_LOG_LEVEL" not in os.environ:
    # The function has moved between OpenCV 4 and 5.
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as it was read."""

    rgb: Pixels
    """(H, W, 3), upright, sRGB."""
    format: str
    exif: bytes | None = None
    """As it was stored, from its byte order mark on; a whole TIFF file for a TIFF."""
    notes: tuple[str, ...] = ()
    """What a person should know, a line each: a damaged profile, further pages."""


def read_image(path: Path, *, at_least: int | None = None) -> Image:
    """The image at `path` as upright 8-bit sRGB, with its Exif and what there is to tell.

    A caller that shrinks it to a shorter side of `at_least` pixels or less anyway gets a large JPEG at a half, a
    quarter or an eighth of its size (never below twice `at_least`), which is read several times as fast.

    Colours are brought from the image's profile (or what else states them: cICP, gAMA and cHRM, Exif) to sRGB; a
    damaged profile is ignored and told in `notes`. Grey, palette, CMYK and 16-bit images are converted (16 bits are
    scaled to 8). Transparent images are laid on white, as a browser's page shows them. Of several pages or frames the
    first is read. The kind of image is told from the content, not from the suffix.
    Raises InputError when the file is missing, no regular file, empty, cut short, damaged, no image, or needs more
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
        if path.suffix.lower() in RAW_SUFFIXES:  # a TIFF with a small preview in it
            raise Unreadable("it is a camera raw file, which is not read here", "Develop it to TIFF or JPEG first.")
        rgb, notes = _decode(data, header, at_least)
    except Unreadable as error:
        raise InputError(
            f"Cannot read the image {path}: {error}.",
            error.advice or f"Replace the file by a whole one ({FORMATS_READ}), or remove it.",
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
    """The pixels of `read_image`: uint8 (H, W, 3) RGB. What there is to tell goes to the log, once for a file."""
    image = read_image(path, at_least=at_least)
    for note in image.notes:
        if (str(path), note) not in _told:
            _told.add((str(path), note))
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
    """OpenCV's flags, and of how many pixels one is decoded."""
    if header.format == "JPEG" and at_least is not None:
        for part, reduced in _REDUCED:
            if min(header.width, header.height) // part >= 2 * at_least:
                # A progressive one has all of its coefficients in memory.
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
