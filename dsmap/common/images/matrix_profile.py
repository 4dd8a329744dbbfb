"""ICC matrix profiles, built from primaries, white point and transfer curve as PNG, AVIF, HEIC and Exif state them."""

import struct
from functools import lru_cache

import numpy as np

from dsmap.common.primaries import D65, PRIMARIES, SRGB, Chromaticities

ADOBE_RGB: Chromaticities = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256

_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_PQ, _HLG = 16, 18
_WHITE = 203.0  # cd/m2: the luminance of HDR reference white
_STEPS = 4096
_D50_XYZ = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def is_hdr(transfer: int) -> bool:
    """Whether the transfer characteristics of this H.273 number are PQ or HLG."""
    return transfer in (_PQ, _HLG)


@lru_cache(maxsize=16)
def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of colours by their H.273 numbers; None for sRGB and for unspecified ones.

    The transfers of video (BT.709 and its kin) count as sRGB's, as on every screen. PQ and HLG are clipped at reference
    white: brighter highlights become white.
    """
    chromaticities = PRIMARIES.get(primaries, SRGB)
    gamma = _GAMMAS.get(transfer)
    if chromaticities == SRGB and gamma is None and not is_hdr(transfer):
        return None
    curve = _hdr_curve(transfer) if is_hdr(transfer) else _SRGB_CURVE if gamma is None else _gamma_curve(gamma)
    return _profile(chromaticities, curve)


@lru_cache(maxsize=16)
def gamma_profile(chromaticities: Chromaticities, gamma: float | None) -> bytes:
    """The profile of these chromaticities; values are linear light to the power of 1 / `gamma` (None: sRGB's curve)."""
    return _profile(chromaticities, _SRGB_CURVE if gamma is None else _gamma_curve(gamma))


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """The sRGB profile for results. Its bytes never change, while LittleCMS writes the date into its own."""
    return _profile(SRGB, _SRGB_CURVE, "sRGB")


def _profile(chromaticities: Chromaticities, curve: bytes, name: str = "made from the image's tags") -> bytes:
    """A version 4 display profile."""
    columns = _to_d50(chromaticities)
    tags = [(b"desc", _text(name)), (b"cprt", _text("no copyright, use freely")), (b"wtpt", _xyz(_D50_XYZ))]
    tags += [(tag, _xyz(columns[:, i])) for i, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    at, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags:
        directory += struct.pack(">4sII", tag, at + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28
    return (head + _xyz(_D50_XYZ)[8:]).ljust(128, b"\0") + directory + body


def _to_d50(chromaticities: Chromaticities) -> np.ndarray:
    """Columns: the XYZ of red, green and blue, adapted to D50."""
    white_x, white_y, *rest = chromaticities
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in zip(rest[::2], rest[1::2], strict=True)]).T
    white = np.array([white_x / white_y, 1.0, (1 - white_x - white_y) / white_y])
    columns = xyz * np.linalg.solve(xyz, white)
    cone = (_BRADFORD @ np.array(_D50_XYZ)) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(cone) @ _BRADFORD @ columns)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded


def _xyz(values: "tuple[float, ...] | np.ndarray") -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(float(value) * 65536))


def _gamma_curve(gamma: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(gamma)


_SRGB_CURVE = (
    b"para\0\0\0\0"
    + struct.pack(">HH", 3, 0)
    + b"".join(map(_fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
)


def _hdr_curve(transfer: int) -> bytes:
    """A table from PQ or HLG values to light, where 1 is reference white."""
    value = np.linspace(0, 1, _STEPS)
    if transfer == _PQ:
        root = value ** (32 / 2523)
        light = 10_000 * (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
    else:
        scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        light = 1000 * scene**1.2
    table = np.rint(np.clip(light / _WHITE, 0, 1) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", _STEPS) + table.tobytes()
