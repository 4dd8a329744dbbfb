"""Which images are translated in which styles: the paper's protocol, and a quick one."""

from dataclasses import dataclass

import numpy as np

from dsmap.common.sampling import even_indices
from dsmap.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How many translations an evaluation makes, and of what.

    `paper` is that of the paper's tables: distances over 100 contents in the styles of 10 images each, diversity over
    15 pairs of styles for each content, both repeated 10 times with other images' styles.
    """

    contents: int = 100
    """Images that are translated; fewer where there are fewer."""
    styles: int = 1
    """Images of the target domain in whose styles each content is translated."""
    repeats: int = 1
    """How often, with styles of other images; numbers are means over the repeats."""
    pairs: int = 4
    """Pairs of styles of each content whose results are compared for diversity; 0: diversity is not measured."""
    pair_contents: int = 20
    """Contents for diversity."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("contents", 2), ("styles", 1), ("repeats", 1), ("pairs", 0), ("pair_contents", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name} is {value}, expected {least} or more", "Use a larger number.")


PROTOCOLS = {
    "quick": Protocol(),
    "paper": Protocol(styles=10, repeats=10, pairs=15, pair_contents=100),
}


def pick_contents(protocol: Protocol, available: int, count: int | None = None) -> list[int]:
    """Numbers of the contents out of `available`, evenly spread and so the same in every evaluation."""
    return even_indices(available, protocol.contents if count is None else count)


def draw_styles(protocol: Protocol, repeat: int, contents: int, available: int, count: int) -> list[list[int]]:
    """For each of `contents` the numbers of `count` style images out of `available`, all different.

    They depend on the seed and the repeat alone. Fewer than `count` where there are fewer images.
    """
    rng = np.random.default_rng((protocol.seed, repeat))
    return [rng.permutation(available)[:count].tolist() for _ in range(contents)]
