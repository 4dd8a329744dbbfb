"""Reference translations: what a browser's first result is compared with."""

from dataclasses import dataclass

import numpy as np

from dsmap.runtime.backends.base import Frames
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.translator import Translator

LEAST_PSNR_DB = {"fp32": 50.0, "fp16": 40.0}
"""What a precision has to reach against float32 on the CPU: the same as when a bundle is exported."""
_SIDE = 64
_CELLS = 5


@dataclass(frozen=True)
class Reference:
    """One frame and its translation in the default style, uint8 RGB (H, W, 3), computed in float32 on the CPU."""

    frame_rgb: Frames
    output_rgb: Frames


def make_reference(bundle: Bundle, target: str) -> Reference:
    """A reference for the direction to `target`. Raises DsmapError where the CPU backend does not run."""
    frame_rgb = reference_frame(bundle.manifest.sizes.multiple_of, bundle.manifest.sizes.minimum)
    translator = Translator.load(bundle, domain=target, backend="cpu", precision="fp32")
    try:
        return Reference(frame_rgb, translator(frame_rgb))
    finally:
        translator.close()


def reference_frame(multiple_of: int, minimum: int) -> Frames:
    """A small generated image with flat and steep places in all colours; the same on every machine.

    Only whole numbers are used. Its side is the first that the graphs take from 64 on.
    """
    side = -(-max(_SIDE, minimum) // multiple_of) * multiple_of
    y, x = np.mgrid[:side, :side]
    slope = np.stack([x * 255 // (side - 1), y * 255 // (side - 1), (x + 2 * y) * 255 // (3 * (side - 1))], axis=-1)
    cell = (y * _CELLS // side) * _CELLS + x * _CELLS // side
    colour = np.stack([cell * 37 % 256, cell * 91 % 256, cell * 151 % 256], axis=-1)
    return np.ascontiguousarray(np.where((cell % 2)[..., None] == 0, slope, colour).astype(np.uint8))
