"""What an evaluation found: numbers with their intervals, and the images that belong to them. No torch in here."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""uint8 (H, W, 3) RGB."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One quantity: what it is called and how it is read."""

    key: str
    """Its name in JSON, such as kernel_distance."""
    title: str
    """Its name in tables, such as "kernel distance"."""
    better: Literal["lower", "higher", "neither"]
    definition: str
    """A sentence or two: what is computed, of what, in which unit."""
    digits: int = 3
    """Digits after the point in tables."""

    @property
    def is_distance(self) -> bool:
        """Whether it is of two sets of images, not a mean over images."""
        return self.key.startswith(("kernel_distance/", "frechet_distance/"))

    @property
    def falls_with_count(self) -> bool:
        """Whether it is lower for more images alone."""
        return self.key.startswith("frechet_distance/")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The value of a metric."""

    metric: Metric
    value: float
    interval: Interval | None = None
    count: int
    """How many images (pairs, for diversity) it is of."""


@dataclass(frozen=True, kw_only=True)
class System:
    """What was measured of one system: a model, a folder of results, or the untranslated images to compare with."""

    name: str
    measured: tuple[Measured, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know of these numbers, a sentence each."""
    baseline: bool = False
    """Not a system but something to compare with: the untranslated images, real images of the target."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Images in rows and columns; a cell may be missing."""

    title: str
    rows: tuple[str, ...]
    """Labels, one for each row; "" for none."""
    columns: tuple[str, ...]
    """Labels, one for each column."""
    cells: tuple[tuple[Image | None, ...], ...]
    captions: tuple[tuple[str, ...], ...] | None = None
    """A line below each cell, such as its scores."""
    text: str = ""
    """A sentence that says what is seen."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page: systems side by side on the same images."""

    title: str
    facts: dict[str, str]
    """What was compared: data, reference, features, protocol, seed, command; label to text."""
    systems: tuple[System, ...]
    grids: tuple[Grid, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know of all numbers, such as that they are not comparable with published FID."""
    raw: dict[str, object] = field(default_factory=dict)
    """More for the JSON file: the scores of single images, settings. JSON values only."""
