"""Random styles: codes drawn around those of a domain's training images.

    code = mean + spread * sum_i z_i * axis_i

z_i is a standard normal number between -2 and 2. The axes are the principal axes of the training images' style codes,
each as long as their standard deviation along it. So draws resemble styles that the network has learnt. Codes from
N(0, I), as in training, lie far outside the styles of real images and often destroy the image.

The numbers come from SplitMix64 (Steele, Lea, Flood 2014) and the inverse of the normal distribution, so that a seed
means the same style in every version, on every machine, and in a browser.
"""

from collections.abc import Iterator
from itertools import islice
from statistics import NormalDist

import numpy as np

from dsmap.runtime.backends.base import Codes
from dsmap.runtime.bundle.manifest import Style

MAX_DEVIATIONS = 2.0
"""How far a draw may lie from the mean along an axis, in standard deviations, at a spread of 1."""
_64_BITS = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def random_code(style: Style, seed: int, spread: float = 1.0) -> Codes:
    """The style code (S,), float32, of a seed of 0 or more.

    `spread` multiplies the distance from the mean: 0 gives the mean, 2 styles up to four standard deviations away.
    Where a bundle has no axes, the components are drawn independently with `style.std`.
    """
    mean = np.array(style.mean, np.float64)
    axes = np.array(style.axes, np.float64) if style.axes else np.diag(style.std)
    z = np.fromiter(islice(_truncated_normal(seed), len(axes)), np.float64)
    return (mean + spread * z @ axes).astype(np.float32)


def _truncated_normal(seed: int) -> Iterator[float]:
    """Standard normal numbers between -MAX_DEVIATIONS and MAX_DEVIATIONS."""
    normal = NormalDist()
    low, high = normal.cdf(-MAX_DEVIATIONS), normal.cdf(MAX_DEVIATIONS)
    for uniform in _uniform(seed):
        yield normal.inv_cdf(low + uniform * (high - low))


def _uniform(seed: int) -> Iterator[float]:
    """Numbers in [0, 1) with 53 bits. Seeds that differ by a multiple of 2^64 give the same."""
    state = seed & _64_BITS
    while True:
        state = (state + _GOLDEN_GAMMA) & _64_BITS
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _64_BITS
        yield ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)
