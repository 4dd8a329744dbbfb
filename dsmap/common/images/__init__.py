"""Reads and writes images as RGB arrays, and lists folders of them."""

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.common.images.folder_listing import FolderListing, left_out_line, list_folder, list_images, list_stills
from dsmap.common.images.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kind_of
from dsmap.common.images.reading import Image, read_image, read_rgb
from dsmap.common.images.size import image_size, size_fault
from dsmap.common.images.writing import WRITTEN_SUFFIXES, write_image, write_rgb

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "FolderListing",
    "Image",
    "image_size",
    "kind_of",
    "left_out_line",
    "list_folder",
    "list_images",
    "list_stills",
    "read_image",
    "read_rgb",
    "resize_shorter_side",
    "size_fault",
    "write_image",
    "write_rgb",
]


def resize_shorter_side(image_rgb: npt.NDArray[np.uint8], shorter_side: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) resized so that min(H, W) == shorter_side, the aspect ratio kept."""
    height, width = image_rgb.shape[:2]
    shorter = min(height, width)
    if shorter == shorter_side:
        return image_rgb
    new_hw = [max(shorter_side, round(size * shorter_side / shorter)) for size in (height, width)]
    # Area averages every source pixel (no aliasing); only enlarging needs an interpolating kernel.
    method = cv2.INTER_AREA if shorter_side < shorter else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image_rgb, (new_hw[1], new_hw[0]), interpolation=method), np.uint8)
