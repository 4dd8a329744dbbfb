"""What translates frames."""

import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Frames


def check_frames(frames_rgb: Frames, dims: tuple[int, ...]) -> None:
    """Raises InputError unless it is a non-empty uint8 array of RGB with one of the numbers of dimensions."""
    array = np.asarray(frames_rgb)
    if array.dtype != np.uint8 or array.ndim not in dims or array.shape[-1] != 3 or 0 in array.shape:
        wanted = " or ".join({3: "(H, W, 3)", 4: "(N, H, W, 3)"}[n] for n in dims)
        raise InputError(f"got {array.dtype} {array.shape}, expected uint8 {wanted}", "Pass RGB frames, not empty.")
