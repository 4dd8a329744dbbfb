"""Pictures on disk to and from RGB arrays. A leaf (numpy and OpenCV): training, export and runtime all use it.

OpenCV reads grey, palette, CMYK, 16-bit and EXIF-turned pictures rightly (16-bit grey better than Pillow, JPEGs 1.7
times as fast). What it lacks is here: transparency, damage that it lets pass, and errors that say something.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.common.files import whole_file
from dsmap.errors import DsmapError, InputError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_TIFF_STARTS = (b"II", b"MM")
# The JPEG decoder can leave out what a smaller picture does not need.
_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_WRITE_OPTIONS = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
}

# OpenCV logs every file it cannot read on stderr, and our errors already say it. Its own switch still turns the log on.
if "OPENCV_LOG_LEVEL" not in os.environ:
    # The function has moved between OpenCV 4 and 5.
    (cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def list_pictures(folder: Path) -> list[Path]:
    """The picture files directly in `folder`, sorted by name; hidden files are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def read_picture_rgb(path: Path, *, at_least: int | None = None) -> npt.NDArray[np.uint8]:
    """The picture at `path` as uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    A caller that shrinks it to a shorter side of `at_least` pixels or less anyway gets a large JPEG at a half, a
    quarter or an eighth of its size (never below twice `at_least`), which is read several times as fast.

    Grey, palette, CMYK and 16-bit pictures are converted (16 bits are scaled to 8). Transparent pictures are laid on
    white, as a browser's page shows them. The kind of picture is told from the content, not from the suffix.
    Raises InputError when the file is missing, empty, cut short, damaged or no picture.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read the picture {path}: {error.strerror}.", "Check the path.") from error
    picture_bgr, fault = _decode_colour(data, at_least)
    if picture_bgr is None:
        raise InputError(
            f"Cannot read the picture {path}: {fault}.",
            "Replace the file by a whole one (JPEG, PNG, WebP, BMP or TIFF), or remove it.",
        )
    return np.asarray(cv2.cvtColor(_to_8_bits(_lay_on_white(picture_bgr, data)), cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_picture(path: Path, picture_rgb: npt.NDArray[np.uint8], *, durable: bool = True) -> None:
    """Write uint8 (H, W, 3) RGB as the suffix says: .png, .jpg and .webp (both at quality 95).

    The file appears whole or not at all: it is written beside `path` and renamed. Not `durable`: without waiting for
    the disk, for one of many in a folder that is flushed later, or thrown away. Raises InputError for another suffix
    and DsmapError when the file cannot be encoded or written.
    """
    if picture_rgb.dtype != np.uint8 or picture_rgb.ndim != 3 or picture_rgb.shape[2] != 3:
        raise ValueError(f"picture_rgb is {picture_rgb.dtype} {picture_rgb.shape}, expected uint8 (H, W, 3)")
    path = Path(path)
    options = _WRITE_OPTIONS.get(path.suffix.lower())
    if options is None:
        raise InputError(
            f"Cannot write a picture as {path.name}: the suffix is {path.suffix or 'missing'}.",
            f"Use one of {', '.join(_WRITE_OPTIONS)}.",
        )
    try:
        done, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(picture_rgb, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done = False
    if not done:
        height, width = picture_rgb.shape[:2]
        raise DsmapError(
            f"Cannot encode {width}x{height} pixels as {path.name}.",
            "Use .png, or a smaller picture for .jpg and .webp.",
        )
    try:
        with whole_file(path, durable=durable) as beside:
            beside.write_bytes(encoded.tobytes())
    except OSError as error:
        raise DsmapError(
            f"Cannot write {path}: {error.strerror}.", "Check that the folder exists, may be written to and has space."
        ) from error


def resize_shorter_side(picture_rgb: npt.NDArray[np.uint8], shorter_side: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) resized so that min(H, W) == shorter_side, the aspect ratio kept."""
    height, width = picture_rgb.shape[:2]
    shorter = min(height, width)
    if shorter == shorter_side:
        return picture_rgb
    new_hw = [max(shorter_side, round(size * shorter_side / shorter)) for size in (height, width)]
    # Area averages every source pixel (no aliasing); only enlarging needs an interpolating kernel.
    method = cv2.INTER_AREA if shorter_side < shorter else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture_rgb, (new_hw[1], new_hw[0]), interpolation=method), np.uint8)


def _decode_colour(data: bytes, at_least: int | None = None) -> tuple[npt.NDArray | None, str]:
    """The encoded picture `data` as uint8 or uint16 (H, W, 3) BGR, or None and what is wrong with it."""
    fault = _fault(data)
    if fault is not None:
        return None, fault
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    shorter = _jpeg_shorter_side(data) if at_least is not None else None
    if shorter is not None and at_least is not None:
        for part, reduced in _REDUCED:
            if shorter // part >= 2 * at_least:
                flags = reduced
                break
    picture_bgr = _decode(data, flags)
    if picture_bgr is None:
        return None, "OpenCV cannot decode it"
    if picture_bgr.dtype not in (np.uint8, np.uint16):
        return None, f"its pixels are {picture_bgr.dtype}, expected 8 or 16 bits"
    return picture_bgr, ""


def _decode(data: bytes, flags: int) -> npt.NDArray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for example more pixels than OpenCV's limit
        return None


def _to_8_bits(picture: npt.NDArray) -> npt.NDArray[np.uint8]:
    # 65535 = 255 * 257. uint32: the rounding must not wrap.
    return picture if picture.dtype == np.uint8 else ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _lay_on_white(picture_bgr: npt.NDArray, data: bytes) -> npt.NDArray:
    """`picture_bgr`, decoded from `data`, with its transparent parts made white; an opaque picture as it is."""
    if not _may_be_transparent(data):
        return picture_bgr
    bgra = _decode(data, cv2.IMREAD_UNCHANGED)
    if bgra is None or bgra.ndim != 3 or bgra.shape[2] != 4:
        return picture_bgr
    white = np.iinfo(bgra.dtype).max
    alpha_hw1 = _turned_like(picture_bgr, bgra)[..., 3:].astype(np.float32) / white
    # libtiff hands out 8-bit colours already multiplied by their alpha, the other decoders do not.
    multiplied = data[:2] in _TIFF_STARTS and bgra.dtype == np.uint8
    on_white = white * (1 - alpha_hw1) + (picture_bgr if multiplied else picture_bgr * alpha_hw1)
    return np.rint(on_white).clip(0, white).astype(bgra.dtype)


def _turned_like(picture_bgr: npt.NDArray, bgra: npt.NDArray) -> npt.NDArray:
    """`bgra` in the orientation of `picture_bgr`: OpenCV returns alpha only with the picture as stored, not turned."""
    for mirrored in (bgra, bgra[:, ::-1]):
        for turns in range(4):
            turned = np.rot90(mirrored, turns)
            if np.array_equal(turned[..., :3], picture_bgr):
                return turned
    return bgra


def _may_be_transparent(data: bytes) -> bool:
    if data.startswith(_PNG_START):  # colour types with alpha, or a transparent palette entry
        return data[25] in (4, 6) or b"tRNS" in data[: data.find(b"IDAT")]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data[12:16] == b"VP8L" or (data[12:16] == b"VP8X" and bool(data[20] & 0x10))
    return data[:2] in _TIFF_STARTS  # The fourth byte of a 32-bit BMP is seldom meant as alpha.


def _fault(data: bytes) -> str | None:
    """What is visibly wrong with an encoded picture, or None. OpenCV 4 fills the lost part of a JPEG with grey."""
    if not data:
        return "the file is empty"
    if data.startswith(_JPEG_START):
        return _jpeg_fault(data)
    if data.startswith(_PNG_START):
        return _png_fault(data)
    return None


def _jpeg_fault(data: bytes) -> str | None:
    for marker, at in _jpeg_segments(data):  # not the last bytes alone: a thumbnail has an end marker of its own
        if marker is None:
            return "the JPEG is damaged"
        if marker == 0xDA:  # the scan: here an end marker is the picture's
            return None if data.find(_JPEG_END, at) >= 0 else "the JPEG is cut short (no end marker)"
    return "the JPEG is cut short (no image data)"


def _jpeg_shorter_side(data: bytes) -> int | None:
    """The shorter side that a JPEG's frame header tells; None for other pictures."""
    if not data.startswith(_JPEG_START):
        return None
    for marker, at in _jpeg_segments(data):
        # A start of frame.
        if marker is not None and 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
            return min(int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big"))
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int | None, int]]:
    """Every segment's marker and place; None, and the end, where there should be a marker and is none."""
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


def _png_fault(data: bytes) -> str | None:
    at = len(_PNG_START)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        # Checked here as libpng would print on stderr, past OpenCV's log level.
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return "the PNG is damaged (wrong checksum)"
        if data[at + 4 : at + 8] == b"IEND":
            return None
        at = end + 4
    return "the PNG is cut short (no end chunk)"
