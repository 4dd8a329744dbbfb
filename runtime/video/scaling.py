"""Sizes of frames, and scaling to them."""

from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.video.frame import ArrayPool


def size_at_height(width: int, height: int, wanted_height: int | None) -> tuple[int, int]:
    """(width, height) scaled to `wanted_height`, the aspect kept and the width even; unchanged for None."""
    if wanted_height is None or wanted_height == height:
        return width, height
    return max(2, round(width * wanted_height / height / 2) * 2), wanted_height


def fitted_size(target: tuple[int, int], wider: Fraction) -> tuple[int, int]:
    """(width, height) in `target` of a frame whose aspect ratio is `wider` times the target's."""
    width, height = target
    if wider >= 1:
        return width, max(1, round(height / wider))
    return max(1, round(width * wider)), height


def scaled(pixels: npt.NDArray, size: tuple[int, int], pool: ArrayPool | None = None) -> npt.NDArray:
    """(H, W) or (H, W, 3) at `size` (width, height): area-averaged when shrinking, cubic when enlarging.

    With a `pool`, a uint8 result uses one of its arrays, unless it is `pixels` itself.
    """
    height, width = pixels.shape[:2]
    if size == (width, height):
        return pixels
    kind = cv2.INTER_AREA if size[1] < height else cv2.INTER_CUBIC
    target = pool.take((size[1], size[0], *pixels.shape[2:])) if pool else None
    return np.asarray(cv2.resize(pixels, size, target, interpolation=kind))
