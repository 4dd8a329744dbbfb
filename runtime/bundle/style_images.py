"""How an image becomes what a bundle's style encoder takes: the same for who exports a bundle and who runs it."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.bundle.bundle import Sizes

Image = npt.NDArray[Any]

# A style image is cut to at most this aspect ratio: a panorama would need gigabytes for eight numbers.
_MAX_STYLE_ASPECT = 3.0


def fit_style_image(image_rgb: Image, sizes: Sizes) -> Image:
    """A style image as the style encoder saw them in training: not larger, the centre cut to sizes the graphs take.

    uint8 RGB (H, W, 3) -> the same of other sides. A smaller one stays as it is unless the encoder needs it larger:
    enlarging adds no texture to read a style from.
    """
    height, width = image_rgb.shape[:2]
    longest = int(_MAX_STYLE_ASPECT * min(height, width))
    image_rgb = _centre(image_rgb, min(height, longest), min(width, longest))
    height, width = image_rgb.shape[:2]
    shorter = max(min(height, width, sizes.trained_at), sizes.style_minimum)
    factor = shorter / min(height, width)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    size = (max(shorter, round(width * factor)), max(shorter, round(height * factor)))
    resized = cv2.resize(np.ascontiguousarray(image_rgb), size, interpolation=method) if factor != 1 else image_rgb
    cut = [side // sizes.multiple_of * sizes.multiple_of for side in resized.shape[:2]]
    return np.ascontiguousarray(_centre(np.asarray(resized), *cut))


def _centre(image_rgb: Image, height: int, width: int) -> Image:
    top, left = (image_rgb.shape[0] - height) // 2, (image_rgb.shape[1] - width) // 2
    return image_rgb[top : top + height, left : left + width]
