"""Writes images as PNG, JPEG, WebP or AVIF, atomically."""

import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.common.atomic import atomic_write
from dsmap.common.images.exif import carried_exif
from dsmap.common.images.matrix_profile import srgb_profile
from dsmap.errors import DsmapError, InputError

WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif")

_QUALITY = 95
_BY_OPENCV = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, _QUALITY],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, _QUALITY],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, _QUALITY],
}
_BY_PILLOW = {
    ".png": ("PNG", {"compress_level": 1}),  # as fast as OpenCV's
    ".jpg": ("JPEG", {"quality": _QUALITY}),
    ".jpeg": ("JPEG", {"quality": _QUALITY}),
    ".webp": ("WEBP", {"quality": _QUALITY}),
    ".avif": ("AVIF", {"quality": 90, "speed": 6}),
}


def write_rgb(path: Path, image_rgb: npt.NDArray[np.uint8], *, durable: bool = True) -> None:
    """Writes uint8 (H, W, 3) RGB in the format of the suffix: .png, .jpg or .webp (both at quality 95), or .avif.

    The file is written atomically. Without `durable` it is not flushed to the disk: for one of many in a folder that is
    flushed later, or thrown away. Raises InputError for another suffix, DsmapError if encoding or writing fails.
    """
    path = _checked(path, image_rgb)
    if path.suffix.lower() not in _BY_OPENCV:
        _write(path, _with_pillow(path, image_rgb, None), durable)
        return
    try:
        done, encoded = cv2.imencode(
            path.suffix.lower(), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), _BY_OPENCV[path.suffix.lower()]
        )
    except cv2.error:
        done = False
    if not done:
        raise _not_encoded(path, image_rgb)
    _write(path, encoded.tobytes(), durable)


def write_image(
    path: Path,
    image_rgb: npt.NDArray[np.uint8],
    *,
    exif: bytes | None = None,
    durable: bool = True,
    replace: bool = True,
) -> None:
    """Writes uint8 (H, W, 3) sRGB as `write_rgb`, with its profile and what `carried_exif` keeps of `exif`.

    Without `replace` an existing file stays, and DsmapError is raised.
    """
    path = _checked(path, image_rgb)
    kept = carried_exif(exif, image_rgb.shape[1], image_rgb.shape[0]) if exif else None
    _write(path, _with_pillow(path, image_rgb, kept), durable, replace)


def _checked(path: Path, image_rgb: npt.NDArray[np.uint8]) -> Path:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise ValueError(f"image_rgb is {image_rgb.dtype} {image_rgb.shape}, expected uint8 (H, W, 3)")
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise InputError(
            f"Cannot write an image as {path.name}: the suffix is {path.suffix or 'missing'}.",
            f"Use one of {', '.join(WRITTEN_SUFFIXES)}.",
        )
    return path


def _with_pillow(path: Path, image_rgb: npt.NDArray[np.uint8], exif: bytes | None) -> bytes:
    from PIL import Image

    name, options = _BY_PILLOW[path.suffix.lower()]
    kept = {"exif": b"Exif\0\0" + exif} if exif else {}
    encoded = io.BytesIO()
    try:
        Image.fromarray(image_rgb).save(encoded, name, icc_profile=srgb_profile(), **options, **kept)
    except KeyError as error:
        raise DsmapError(
            f"Cannot encode {path.name}: the installed Pillow cannot write {name}.",
            "Update Pillow (pip install --upgrade pillow), or use .png.",
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        raise _not_encoded(path, image_rgb) from error
    return encoded.getvalue()


def _not_encoded(path: Path, image_rgb: npt.NDArray[np.uint8]) -> DsmapError:
    height, width = image_rgb.shape[:2]
    return DsmapError(
        f"Cannot encode {width}x{height} pixels as {path.name}.",
        "Use .png, or a smaller image for .jpg, .webp and .avif.",
    )


def _write(path: Path, encoded: bytes, durable: bool, replace: bool = True) -> None:
    try:
        with atomic_write(path, durable=durable, replace=replace) as beside:
            beside.write_bytes(encoded)
    except FileExistsError as error:
        raise DsmapError(f"{path} was created meanwhile", "Choose another name with -o.") from error
    except OSError as error:
        raise DsmapError(
            f"Cannot write {path}: {error.strerror}.", "Check that the folder exists, is writable and has space."
        ) from error
