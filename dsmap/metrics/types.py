"""Types of evaluation reports: metrics, values with intervals, systems and image grids. Imports no torch."""

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
    """A quantity: its name, direction and definition."""

    key: str
    """Its name in JSON, such as kernel_distance."""
    title: str
    """Its name in tables, such as "kernel distance"."""
    better: Literal["lower", "higher", "neither"]
    definition: str
    """A sentence or two: what is computed, on what, in which unit."""
    digits: int = 3
    """Digits after the point in tables."""

    @property
    def is_distance(self) -> bool:
        """Whether it compares two sets of images, and is not a mean over images."""
        return self.key.startswith(("kernel_distance/", "frechet_distance/"))

    @property
    def falls_with_count(self) -> bool:
        """Whether more images alone lower it."""
        return self.key.startswith("frechet_distance/")


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """The value of a metric."""

    metric: Metric
    value: float
    interval: Interval | None = None
    count: int
    """Number of images (for diversity: of pairs) it was computed on."""


@dataclass(frozen=True, kw_only=True)
class System:
    """The measurements of a system: a model, a folder of results, or a baseline."""

    name: str
    measured: tuple[MetricValue, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know about these numbers, a sentence each."""
    baseline: bool = False
    """Not a system but images to compare with: the untranslated contents, real images of the target domain."""
    key: str = ""
    """Its name in JSON where that differs from `name`: names shown to people may change, keys may not."""

    @property
    def json_name(self) -> str:
        """Its name in JSON."""
        return self.key or self.name


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Images in rows and columns; a cell may be missing."""

    title: str
    rows: tuple[str, ...]
    """Labels, one per row; "" for none."""
    columns: tuple[str, ...]
    """Labels, one per column."""
    cells: tuple[tuple[Image | None, ...], ...]
    captions: tuple[tuple[str, ...], ...] | None = None
    """A line below each cell, such as its scores."""
    text: str = ""
    """A sentence that explains the grid."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report: several systems on the same images."""

    title: str
    facts: dict[str, str]
    """What was compared (data, reference, features, protocol, seed), label to text."""
    systems: tuple[System, ...]
    grids: tuple[Grid, ...] = ()
    verdict: str = ""
    """What the numbers say, in a line of words."""
    notes: tuple[str, ...] = ()
    """What a reader must know about all numbers, such as that they cannot be compared with published FID."""
    raw: dict[str, object] = field(default_factory=dict)
    """More for the JSON file, such as the scores of single images. JSON values only."""
