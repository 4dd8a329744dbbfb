"""Display orientation: the rotation and mirroring that a file asks for."""

from dataclasses import dataclass

import cv2  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How to turn stored pixels upright: swap rows and columns first, then mirror."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, rgb: npt.NDArray) -> npt.NDArray:
        """Turn (H, W, 3) pixels upright; (W, H, 3) when the sides swap."""
        if self.swap:
            rgb = np.asarray(cv2.transpose(rgb))
        if self.mirror_x or self.mirror_y:
            code = -1 if self.mirror_x and self.mirror_y else int(self.mirror_x)
            rgb = np.asarray(cv2.flip(rgb, code))
        return rgb

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after turning; its own inverse."""
        return (height, width) if self.swap else (width, height)


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation that `frame`'s display matrix asks for; other angles are rounded to a quarter turn."""
    try:
        # Missing from PyAV's type of side_data: every kind but motion vectors.
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)  # type: ignore[typeddict-item]
    except KeyError:
        return Orientation()
    a, b, _, c, d = (int(value) for value in matrix[:5])  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Orientation(mirror_x=a < 0, mirror_y=d < 0)
