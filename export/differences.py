"""How far two forms of one output are apart, over many images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class OutputCheck(NamedTuple):
    """One output of one graph (or of the chain into one domain) over all images."""

    name: str
    max_error: float
    """Largest absolute difference: of frames in grey levels, of features in their own unit."""
    psnr: float
    """In dB against the output's range (frames: 255; features: their largest value); infinite when equal."""
    worst_psnr: float
    """That of the image where it is lowest."""
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        """For bundle.json; an infinite PSNR is written as null."""
        return {
            "max_error": self.max_error,
            "psnr_db": None if np.isinf(self.psnr) else round(self.psnr, 2),
            "worst_psnr_db": None if np.isinf(self.worst_psnr) else round(self.worst_psnr, 2),
        }


class Difference:
    """What is between two forms of one output, image after image."""

    def __init__(self) -> None:
        self.max_error = self.largest = 0.0
        self.squares: list[float] = []
        """The mean squared difference of each batch."""
        self.frames = self.broken = False
        """Whether they are uint8 images; whether a shape or type differed, or a value was no number."""

    def add(self, expected: Array, got: Array) -> None:
        """One more batch."""
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
        """The OutputCheck called `name`; `passes` judges what can be compared."""
        return OutputCheck(name, self.max_error, self.psnr, self.worst_psnr, not self.broken and passes(self))

    @property
    def psnr(self) -> float:
        """In dB over all images; 0 when they cannot be compared."""
        return 0.0 if self.broken else self._decibels(float(np.mean(self.squares)))

    @property
    def worst_psnr(self) -> float:
        """In dB of the worst image."""
        return 0.0 if self.broken else self._decibels(max(self.squares))

    def _decibels(self, square: float) -> float:
        peak = 255.0 if self.frames else max(self.largest, 1e-12)
        return float("inf") if square == 0 else float(10 * np.log10(peak**2 / square))
