"""Evaluation protocols: how many images are translated in which styles."""

from dataclasses import dataclass

import numpy as np

from dsmap.common.sampling import even_indices
from dsmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The number of translations of an evaluation.

    `paper` is the protocol of the paper's tables: distances over 100 contents in the styles of 10 images each,
    diversity over 15 pairs of styles for each content, both repeated 10 times with other images' styles.
    """

    contents: int = 100
    """Images to translate, or all if there are fewer."""
    styles: int = 1
    """Images of the target domain in whose styles each content is translated."""
    repeats: int = 1
    """Repeats with the styles of other images; numbers are means over them."""
    pairs: int = 4
    """Pairs of styles per content that are compared for diversity; 0: diversity is not measured."""
    pair_contents: int = 20
    """Contents for diversity."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (("contents", 2), ("styles", 1), ("repeats", 1), ("pairs", 0), ("pair_contents", 1)):
            value = getattr(self, name)
            if value < minimum:
                raise InputError(f"{name} is {value}, expected {minimum} or more", "Use a larger number.")


PROTOCOLS = {
    "quick": Protocol(),
    "paper": Protocol(styles=10, repeats=10, pairs=15, pair_contents=100),
}


def pick_contents(protocol: Protocol, available: int, count: int | None = None) -> list[int]:
    """Indices of the contents among `available`, evenly spread and so the same in every evaluation."""
    return even_indices(available, protocol.contents if count is None else count)


def draw_styles(protocol: Protocol, repeat: int, contents: int, available: int, count: int) -> list[list[int]]:
    """For each of `contents` the indices of `count` different style images among `available`, or of all.

    They depend on the seed and the repeat only.
    """
    rng = np.random.default_rng((protocol.seed, repeat))
    return [rng.permutation(available)[:count].tolist() for _ in range(contents)]
