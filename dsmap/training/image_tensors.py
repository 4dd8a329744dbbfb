"""Images as tensors of the networks, (N, 3, H, W) RGB in [-1, 1], and back."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsmap.common.images import read_rgb, resize_shorter_side
from dsmap.errors import InputError


def to_nchw(images_rgb: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (B, H, W, 3) in 0..255 to float32 (B, 3, H, W) in [-1, 1]: v / 127.5 - 1."""
    # In numpy: a second pool of torch threads beside the training's takes ten times as long as one thread.
    x_nchw = np.ascontiguousarray(images_rgb.transpose(0, 3, 1, 2)).astype(np.float32)
    x_nchw /= 127.5
    x_nchw -= 1
    return torch.from_numpy(x_nchw)


def load_image_nchw(path: Path, shorter_side: int, multiple_of: int = 8) -> torch.Tensor:
    """One image for a sample grid or as a style: float32 (1, 3, H, W) RGB in [-1, 1].

    The shorter side is resized to `shorter_side`, then the centre is cut to multiples of `multiple_of`.
    Raises InputError when the image cannot be read or `shorter_side` is below `multiple_of`.
    """
    if shorter_side < multiple_of:
        raise InputError(f"The shorter side is {shorter_side}, expected {multiple_of} or more.", "Use a larger size.")
    image_rgb = resize_shorter_side(read_rgb(path, at_least=shorter_side), shorter_side)
    height, width = (size // multiple_of * multiple_of for size in image_rgb.shape[:2])
    top, left = (image_rgb.shape[0] - height) // 2, (image_rgb.shape[1] - width) // 2
    return to_nchw(image_rgb[None, top : top + height, left : left + width])


def load_readable_nchw(paths: Iterable[Path], shorter_side: int, multiple_of: int = 8) -> Iterator[torch.Tensor]:
    """`load_image_nchw` of each image that can be read."""
    for path in paths:
        try:
            yield load_image_nchw(path, shorter_side, multiple_of)
        except InputError:
            continue


def to_rgb(x_nchw: Tensor) -> npt.NDArray[np.uint8]:
    """Float (N, 3, H, W) in [-1, 1] -> uint8 (N, H, W, 3) RGB, rounded."""
    x_nchw = ((x_nchw.float() + 1) * 127.5).round().clamp(0, 255)
    return x_nchw.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
