"""Measures the difference between two versions of an output over many images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class OutputCheck(NamedTuple):
    """The result for one output of a graph, or of the chain to one domain, over all images."""

    name: str
    max_error: float
    """Largest absolute difference; of frames in grey levels."""
    psnr: float
    """In dB relative to the range (255 for frames, the largest value for features); infinite when equal."""
    worst_psnr: float
    """The lowest of a single image."""
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        """As bundle.json holds it; an infinite PSNR is null."""
        return {
            "max_error": self.max_error,
            "psnr_db": None if np.isinf(self.psnr) else round(self.psnr, 2),
            "worst_psnr_db": None if np.isinf(self.worst_psnr) else round(self.worst_psnr, 2),
        }


class Difference:
    """Accumulates the difference between two versions of one output, batch by batch."""

    def __init__(self) -> None:
        self.max_error = self.largest = 0.0
        self.squares: list[float] = []
        """The mean squared difference of each batch."""
        self.frames = self.broken = False
        """`frames`: the arrays are uint8 images. `broken`: a shape or type differed, or a value was not finite."""

    def add(self, expected: Array, got: Array) -> None:
        """Adds a batch."""
        if expected.shape != got.shape or expected.dtype != got.dtype:
            self.broken, self.max_error = True, float("inf")
            return
        self.frames = expected.dtype == np.uint8
        difference = expected.astype(np.float64) - got
        if not np.isfinite(difference).all():
            self.broken, self.max_error = True, float("inf")
            return
        self.max_error = max(self.max_error, float(np.abs(difference).max()))
        self.largest = max(self.largest, float(np.abs(expected).max()))
        self.squares.append(float(np.mean(difference**2)))

    def check(self, name: str, passes: Callable[["Difference"], bool]) -> OutputCheck:
        """The result under `name`; `passes` decides whether it is good enough. Broken outputs never pass."""
        return OutputCheck(name, self.max_error, self.psnr, self.worst_psnr, not self.broken and passes(self))

    @property
    def psnr(self) -> float:
        """In dB over all images; 0 for a broken output."""
        return 0.0 if self.broken else self._decibels(float(np.mean(self.squares)))

    @property
    def worst_psnr(self) -> float:
        """In dB, of the worst batch; 0 for a broken output."""
        return 0.0 if self.broken else self._decibels(max(self.squares))

    def _decibels(self, square: float) -> float:
        peak = 255.0 if self.frames else max(self.largest, 1e-12)
        return float("inf") if square == 0 else float(10 * np.log10(peak**2 / square))
