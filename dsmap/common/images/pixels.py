"""Converts decoded pixels to upright 8-bit sRGB on white, in bands, to avoid a copy of the whole image."""

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.common.images.colour import ToSrgb

Pixels = npt.NDArray[np.uint8]

_BAND_PIXELS = 1 << 20


def finish_pixels(stored: npt.NDArray, convert: ToSrgb | None, *, bgr: bool = True, multiplied: bool = False) -> Pixels:
    """uint8 or uint16 (H, W, 3 or 4), the fourth channel alpha -> uint8 sRGB (H, W, 3), transparent parts white.

    bgr: the channel order of `stored`; else RGB
    multiplied: colours are already multiplied by their alpha
    """
    rgb = np.empty((*stored.shape[:2], 3), np.uint8)
    rows = max(1, _BAND_PIXELS // stored.shape[1])
    for top in range(0, len(stored), rows):
        band = to_8_bits(stored[top : top + rows])
        colours = np.ascontiguousarray(band[..., 2::-1] if bgr else band[..., :3])
        if band.shape[2] == 4:
            colours = _on_white(colours, band[..., 3:], convert, multiplied)
        elif convert is not None:
            colours = convert(colours)
        rgb[top : top + rows] = colours
    return rgb


def _on_white(rgb: Pixels, alpha_hw1: Pixels, convert: ToSrgb | None, multiplied: bool) -> Pixels:
    """As `on_white`, with colours converted before they are mixed."""
    if convert is not None and multiplied:
        plain = rgb.astype(np.uint16) * 255 // np.maximum(alpha_hw1, 1)
        rgb, multiplied = np.minimum(plain, 255).astype(np.uint8), False
    return on_white(convert(rgb) if convert else rgb, alpha_hw1, multiplied=multiplied)


def on_white(rgb: Pixels, alpha_hw1: Pixels, *, multiplied: bool = False) -> Pixels:
    """uint8 (H, W, 3) blended onto white by alpha (H, W, 1). `multiplied`: colours are already multiplied by it."""
    alpha = alpha_hw1.astype(np.uint16)
    colours = rgb.astype(np.uint16) * np.uint16(255) if multiplied else rgb * alpha
    mixed = colours.astype(np.uint32) + np.uint32(255) * (255 - alpha)
    return np.minimum((mixed + 127) // 255, 255).astype(np.uint8)


def to_8_bits(pixels: npt.NDArray) -> Pixels:
    """uint8 or uint16 to uint8."""
    # 65535 = 255 * 257. uint32: the rounding must not wrap.
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def turn_upright(stored: npt.NDArray, orientation: int) -> npt.NDArray:
    """(H, W, C) turned and mirrored by its Exif orientation (1 to 8)."""
    if orientation == 1:
        return stored
    if orientation >= 5:
        stored = cv2.transpose(stored)
    mirror_x, mirror_y = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    if not (mirror_x or mirror_y):
        return stored
    return np.asarray(cv2.flip(stored, -1 if mirror_x and mirror_y else int(mirror_x)))
