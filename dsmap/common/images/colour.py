"""Converts colours to sRGB, by an image's profile or its other colour tags, with LittleCMS (Pillow's ImageCms)."""

import hashlib
import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from dsmap.common.images import matrix_profile
from dsmap.common.images.exif import loaded_exif
from dsmap.common.images.header import Header
from dsmap.common.primaries import SRGB

Pixels = npt.NDArray[np.uint8]

DAMAGED = "its colour profile is damaged, and is ignored: colours are read as sRGB"
MISFIT = "its colour profile is for {profile} and its pixels are {pixels}: it is ignored, colours are read as sRGB"
NONSENSE = "its colour tags are damaged, and are ignored: colours are read as sRGB"
HDR = "HDR ({name}): shown as SDR, brighter than the white of paper is white"

_MAX_KEPT = 32  # conversions
_BAND_PIXELS = 1 << 20  # converted at once: Pillow takes 4 bytes for each
_PNG_SRGB_GAMMA, _CLOSE = 0.45455, 0.005
_EXIF_IFD, _INTEROP_IFD, _COLOUR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
_ADOBE_RGB = 2
_SPACES = {"RGB ": "RGB", "GRAY": "grey", "CMYK": "CMYK"}


class ToSrgb:
    """A conversion of an image's colours to sRGB. `pixels`: what it takes, RGB, grey or CMYK."""

    def __init__(self, transform: Any, pixels: str) -> None:
        self._transform, self.pixels = transform, pixels
        self._table: npt.NDArray[np.uint8] | None = None
        if pixels == "grey":
            self._table = _apply(transform, np.arange(256, dtype=np.uint8)[None], "L")

    def __call__(self, pixels: Pixels) -> Pixels:
        """uint8 (H, W, 3) RGB (or grey, in three equal channels) or (H, W, 4) CMYK -> uint8 (H, W, 3) sRGB."""
        if self._table is not None:
            return np.ascontiguousarray(self._table[0][pixels[..., 0]])
        mode = "RGB" if self.pixels == "RGB" else "CMYK"
        rows = max(1, _BAND_PIXELS // pixels.shape[1])
        converted = np.empty((*pixels.shape[:2], 3), np.uint8)
        for top in range(0, len(pixels), rows):
            converted[top : top + rows] = _apply(self._transform, pixels[top : top + rows], mode)
        return converted


def to_srgb(header: Header, pixels: str) -> tuple[ToSrgb | None, list[str]]:
    """The conversion to sRGB of an image with this header, and notes; None if it is sRGB, or nothing is known.

    `pixels`: what the image holds, RGB, grey or CMYK. Tags take precedence as in PNG: cICP, a profile, sRGB, gamma.
    """
    coded = header.cicp if header.cicp and header.cicp[0] != 2 else None
    if coded and (header.format == "PNG" or header.icc is None) and pixels != "CMYK":
        notes = [HDR.format(name="PQ" if coded[1] == 16 else "HLG")] if matrix_profile.is_hdr(coded[1]) else []
        profile = matrix_profile.coded_profile(*coded)
        return (None if profile is None else _made(profile)), notes
    if header.icc is not None:
        return _by_profile(header.icc, pixels)
    if pixels == "CMYK" or header.is_srgb:
        return None, []
    try:
        profile = _png_profile(header) or _exif_profile(header)
    except (ValueError, ArithmeticError, struct.error, np.linalg.LinAlgError):  # primaries on one line and such
        return None, [NONSENSE]
    found = None if profile is None else _made(profile)
    return found, [NONSENSE] * (profile is not None and found is None)


def _by_profile(icc: bytes, pixels: str) -> tuple[ToSrgb | None, list[str]]:
    found = _transform(icc)
    if isinstance(found, str):
        return None, [found]
    fits = found.pixels == pixels or (found.pixels == "RGB" and pixels == "grey")
    if not fits:
        return None, [MISFIT.format(profile=found.pixels, pixels=pixels)]
    return (None if _changes_nothing(found) else found), []


def _transform(icc: bytes) -> ToSrgb | str:
    """The conversion, or what is wrong with the profile. Cached: the images of a folder mostly share one."""
    digest = hashlib.sha256(icc).digest()
    if digest not in _transforms:
        if len(_transforms) >= _MAX_KEPT:
            _transforms.clear()
        _transforms[digest] = _built(icc)
    return _transforms[digest]


_transforms: dict[bytes, ToSrgb | str] = {}


def _built(icc: bytes) -> ToSrgb | str:
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        pixels = _SPACES.get(profile.profile.xcolor_space)
        if pixels is None or profile.profile.device_class in ("link", "abst", "nmcl"):
            return f"its colour profile is for {profile.profile.xcolor_space.strip()}, and is ignored"
        mode = {"RGB": "RGB", "grey": "L", "CMYK": "CMYK"}[pixels]
        # As in browsers: by the profile's perceptual table, if it has one.
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        return ToSrgb(transform, pixels)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return DAMAGED


def _made(profile: bytes) -> ToSrgb | None:
    """The conversion by a profile that was built here; None if its numbers make no sense."""
    found = _transform(profile)
    return None if isinstance(found, str) else found


_PROBES = np.array(
    [[v, v, v] for v in range(0, 256, 15)]
    + [[r, g, b] for r in (0, 90, 255) for g in (0, 90, 255) for b in (0, 90, 255)],
    np.uint8,
)[None]


def _changes_nothing(convert: ToSrgb) -> bool:
    """Whether it is sRGB under another name, within one grey level."""
    if convert.pixels == "CMYK":
        return False
    probes = _PROBES[:, :18] if convert.pixels == "grey" else _PROBES
    return int(np.abs(convert(probes).astype(int) - probes).max()) <= 1


def _png_profile(header: Header) -> bytes | None:
    if header.gamma is None and header.chromaticities is None:
        return None
    chromaticities = header.chromaticities or SRGB
    if len(chromaticities) != 8 or not all(0 < value < 1 for value in chromaticities):
        return None
    near_srgb = np.allclose(chromaticities, SRGB, atol=_CLOSE)
    gamma = None if header.gamma is None or abs(header.gamma - _PNG_SRGB_GAMMA) < _CLOSE else header.gamma
    if (near_srgb and gamma is None) or (gamma is not None and not 0.1 <= gamma <= 5):
        return None
    return matrix_profile.gamma_profile(chromaticities, None if gamma is None else 1 / gamma)


def _exif_profile(header: Header) -> bytes | None:
    """Adobe RGB, if the camera says so in Exif only."""
    if header.exif is None or header.format == "TIFF" or (b"R03" not in header.exif and not _says_adobe(header.exif)):
        return None
    try:
        with loaded_exif(header.exif) as exif:
            space = exif.get_ifd(_EXIF_IFD).get(_COLOUR_SPACE)
            index = exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX)
    except Exception:  # Pillow raises anything for damaged Exif
        return None
    if space != _ADOBE_RGB and not (space != 1 and str(index).startswith("R03")):
        return None
    return matrix_profile.gamma_profile(matrix_profile.ADOBE_RGB, matrix_profile.ADOBE_GAMMA)


def _says_adobe(exif: bytes) -> bool:
    """Whether it contains the bytes of the tag ColorSpace = 2, in either byte order."""
    return b"\xa0\x01\0\x03\0\0\0\x01\0\x02" in exif or b"\x01\xa0\x03\0\x01\0\0\0\x02\0" in exif


def _apply(transform: Any, pixels: Pixels, mode: str) -> Pixels:
    from PIL import Image, ImageCms

    height, width = pixels.shape[:2]
    image = Image.frombuffer(mode, (width, height), np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    return np.asarray(ImageCms.applyTransform(image, transform), np.uint8)


def kind_of_pixels(header: Header, decoded: npt.NDArray) -> str:
    """What the decoded image holds: RGB, grey (in three equal channels) or CMYK."""
    if header.channels == 4 and not header.has_alpha:
        return "CMYK"
    if header.channels:
        return "grey" if header.channels <= 2 else "RGB"
    if header.icc is None or header.icc[16:20] != b"GRAY":
        return "RGB"
    blue, green, red = (decoded[..., i] for i in range(3))
    return "grey" if np.array_equal(blue, green) and np.array_equal(green, red) else "RGB"
