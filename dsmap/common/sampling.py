"""Even samples of sequences."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def even_indices(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spread and increasing."""
    return [i * count // min(count, most) for i in range(min(count, most))]


def pick_evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of `items`, evenly spread, in their order."""
    return [items[i] for i in even_indices(len(items), most)]
