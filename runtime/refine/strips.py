"""Strips of rows that a few threads work on; results do not depend on them.

Strips begin where rows of both sizes do: heights without a common divisor make a single one, which needs more memory
and one core.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import gcd
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.system.cpu import allowed_cores

ROWS = 128
"""Rows of a strip: what lies between two steps stays in the cache. Half as many cost a fifth more."""
_MOST_THREADS = 4
_Item = TypeVar("_Item")


class Strip(NamedTuple):
    """Rows of the full size, and the rows of the small one that they are made of."""

    rows: slice
    small: slice
    before: int
    """How many rows of the enlarged small ones lie before them."""
    lines: int
    """How many rows those are, enlarged."""

    def enlarged(self, values: npt.NDArray, width: int, times: int = 1) -> npt.NDArray:
        """The strip's rows of `values` at the small size, `width` wide; `times` as many as it has."""
        lines = self.lines * times
        kind = cv2.INTER_LINEAR if lines >= self.small.stop - self.small.start else cv2.INTER_AREA
        whole = np.asarray(cv2.resize(values[self.small], (width, lines), interpolation=kind))
        first = self.before * times
        return whole[first : first + (self.rows.stop - self.rows.start) * times]


def strips(height: int, small: int, times: int = 1) -> Iterator[Strip]:
    """Strips that begin and end on rows of the small size, so that they fit together; a row stands for `times` ones."""
    shared = gcd(height, small)
    full_step, small_step = height // shared, small // shared
    steps = max(1, ROWS // (full_step * times))
    for first in range(0, shared, steps):
        last = min(first + steps, shared)
        low, high = max(0, first - 1), min(shared, last + 1)
        yield Strip(
            slice(first * full_step, last * full_step),
            slice(low * small_step, high * small_step),
            (first - low) * full_step,
            (high - low) * full_step,
        )


def in_threads(work: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Call `work` for every item."""
    for _ in _threads().map(work, items):
        pass


@cache
def _threads() -> ThreadPoolExecutor:
    cores = allowed_cores() or os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, _MOST_THREADS), thread_name_prefix="refine")
