"""A small frame of noise, which every device has to translate as the CPU does."""

import numpy as np

from dsmap.runtime.backends.base import Frames
from dsmap.runtime.backends.device_result import noise
from dsmap.runtime.bundle.manifest import Sizes

REPORT = "Use --backend cpu, and please report what this line says."
"""What to do where a device's frames are wrong."""
_SIDE = 64
_RIGHT_DB = 35.0
"""A device that computes in half precision is at 45 dB and more; one that gets an operator wrong, below 25."""


def noise_frame(sizes: Sizes) -> Frames:
    """(1, H, W, 3) of a size that the bundle takes."""
    side = sizes.side_from(_SIDE)
    return noise(side, side)


def difference(here: Frames, by_cpu: Frames) -> str | None:
    """How far a device's frame is from the CPU's: the end of a sentence; None where it is right."""
    psnr = _psnr(here, by_cpu)
    if psnr >= _RIGHT_DB:
        return None
    return f"{psnr:.1f} dB from the CPU's, and {_RIGHT_DB:.0f} dB are needed"


def _psnr(a: Frames, b: Frames) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2) if a.shape == b.shape else 255.0**2
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
