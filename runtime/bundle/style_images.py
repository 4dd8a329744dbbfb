"""Preparation of style images for the style encoder of a bundle, for the export and the runtime alike."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.bundle.bundle import Sizes

Image = npt.NDArray[Any]

# Style images are cropped to this aspect ratio: a panorama would need gigabytes of memory for eight numbers.
_MAX_STYLE_ASPECT = 3.0


def fit_style_image(image_rgb: Image, sizes: Sizes) -> Image:
    """Scales and centre-crops a style image to a size that the style encoder takes, at most that of training.

    uint8 RGB (H, W, 3) -> the same, of another size. A smaller image is enlarged only to the encoder's minimum:
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


def is_fitted(image_rgb: Image, sizes: Sizes) -> bool:
    """Whether `fit_style_image` may have made an image (H, W, 3). Fitting that again could crop a few pixels more."""
    shorter, longer = sorted(image_rgb.shape[:2])
    largest = max(sizes.trained_at, sizes.style_minimum)
    return (
        shorter % sizes.multiple_of == longer % sizes.multiple_of == 0
        and sizes.style_minimum // sizes.multiple_of * sizes.multiple_of <= shorter <= largest
        and longer <= _MAX_STYLE_ASPECT * (shorter + sizes.multiple_of - 1)
    )


def _centre(image_rgb: Image, height: int, width: int) -> Image:
    top, left = (image_rgb.shape[0] - height) // 2, (image_rgb.shape[1] - width) // 2
    return image_rgb[top : top + height, left : left + width]
