"""Diversity: the distances between results of one content in different styles."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dsmap.metrics.types import Image

if TYPE_CHECKING:  # torch
    from dsmap.metrics.extractors import PairDistance

Content = TypeVar("Content", bound=Hashable)


def diversity(
    results: Iterable[tuple[Content, Sequence[Image]]], distance: "PairDistance", *, pairs: int, seed: int = 0
) -> dict[Content, float]:
    """The mean distance between pairs of results, by content.

    `results` gives each content's name with its results in different styles, uint8 (H, W, 3) RGB, and may be a
    generator. Of each content `pairs` pairs are drawn without repetition, or all are taken if there are no more. The
    pairs depend on the seed and the content's place, not on its images. Contents with fewer than two results are left
    out.
    """
    means: dict[Content, float] = {}
    for place, (content, images_rgb) in enumerate(results):
        chosen = _pairs(len(images_rgb), pairs, np.random.default_rng((seed, place)))
        if chosen:
            means[content] = float(distance(images_rgb, chosen).mean())
    return means


def _pairs(count: int, pairs: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    every = list(combinations(range(count), 2))
    if len(every) <= pairs:
        return every
    return [every[i] for i in sorted(rng.choice(len(every), pairs, replace=False))]
