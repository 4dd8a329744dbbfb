"""The types of decoded frames: `Frame`, its pixels, and where their memory comes from."""

from dataclasses import dataclass
from typing import Protocol

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from dsmap.runtime.backends.device_frame import DeviceFrame

Pixels = npt.NDArray[np.uint8]
Residual = npt.NDArray[np.int8]
"""What 8 bits lack of a deeper frame: (H, W, 3), at most half a level up or down, in units of 1 / `LEVEL`."""
LEVEL = 256
"""One 8-bit level on swscale's 16-bit scale, where white is 65280."""


class ArrayPool(Protocol):
    """Arrays to use again."""

    def take(self, shape: tuple[int, ...]) -> Pixels:
        """A contiguous uint8 array of this shape; its contents are arbitrary."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: `rgb` uint8 (H, W, 3); `pts` and `duration` in the reader's `time_base` (duration 0: unknown).

    `pts` is strictly greater than that of the frame before.
    """

    rgb: Pixels
    pts: int
    duration: int
    residual: Residual | None = None
    """What `rgb` lacks of a frame of more than 8 bits, where it was asked for."""
    device: DeviceFrame | None = None
    """The frame where it is in a device's memory, if it was asked for; `rgb` is then empty, (0, 0, 3)."""
    yuv: VideoFrame | None = None
    """The frame as it was decoded, if that was asked for and `can_stay_yuv` says so; `rgb` is then empty as well."""

    @property
    def pixels(self) -> Pixels | VideoFrame:
        """`yuv` where there is one, else `rgb`."""
        return self.rgb if self.yuv is None else self.yuv


NO_PIXELS: Pixels = np.empty((0, 0, 3), np.uint8)
"""`rgb` of frames that are elsewhere."""


def add_residual(rgb: Pixels, residual: Residual) -> npt.NDArray[np.uint16]:
    """`rgb` in 16 bits, `LEVEL` for each of its own levels, plus the residual of a frame of the same size."""
    exact = np.multiply(rgb, LEVEL, dtype=np.int32)
    exact += residual
    return np.clip(exact, 0, 255 * LEVEL, out=exact).astype(np.uint16)
