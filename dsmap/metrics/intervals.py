"""95 % confidence intervals by the bootstrap (Efron 1979).

An interval is the value +- 1.96 standard deviations of the resampled values. Quantiles of the resampled values would be
wrong for distances: a resampling, in which images repeat, lies further away than the set it comes from.

CONTENTS are drawn, with replacement: all results of one content are in or out together, since ten styles of one content
are not ten independent images. For distances the reference's images are drawn too. Intervals of distances near 0 are
two to three times too wide; further away they are about right.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

from dsmap.metrics.distances import ResampledDistance, number_contents
from dsmap.metrics.types import Interval

Counts = npt.NDArray[np.int64]

MEAN_RESAMPLES = 1000
_DEVIATIONS = 1.96
_ANYWHERE = (-np.inf, np.inf)


def bootstrap(
    statistic: Callable[[Counts], float],
    count: int,
    *,
    value: float,
    resamples: int = MEAN_RESAMPLES,
    seed: int = 0,
    limits: tuple[float, float] = _ANYWHERE,
) -> Interval | None:
    """The interval of a `statistic` whose value is `value`; None for fewer than two items to draw from.

    `statistic(counts)` is its value if item i of `count` is drawn counts[i] times; counts add up to `count`. The
    interval is clipped to `limits`. The same seed gives the same interval.
    """
    if count < 2:
        return None
    rng = np.random.default_rng(seed)
    return _around(value, [statistic(_draw(count, rng)) for _ in range(resamples)], limits)


def mean_interval(
    values_n: npt.ArrayLike,
    contents: Sequence[Hashable] | None = None,
    *,
    resamples: int = MEAN_RESAMPLES,
    seed: int = 0,
    limits: tuple[float, float] = _ANYWHERE,
) -> Interval | None:
    """The interval of the mean of `values_n`; `contents` gives the content of each (default: each has its own).

    NaN values (missing scores) are left out, as in `numpy.nanmean`. None for fewer than two contents.
    """
    values = np.asarray(values_n, dtype=np.float64)
    content_n = number_contents(contents, len(values))
    there = ~np.isnan(values)
    if not there.any():
        return None
    content_n = number_contents(content_n[there].tolist(), int(there.sum()))
    sums_c, sizes_c = np.bincount(content_n, weights=values[there]), np.bincount(content_n)
    return bootstrap(
        lambda counts: float(counts @ sums_c / (counts @ sizes_c)),
        len(sizes_c),
        value=float(values[there].mean()),
        resamples=resamples,
        seed=seed,
        limits=limits,
    )


def share_interval(taken_n: npt.ArrayLike, contents: Sequence[Hashable] | None = None) -> Interval | None:
    """The interval of a share that is 0 or 1, by the rule of three: within 3 / contents of it. None for other shares.

    `taken_n` holds 0 and 1. Resampling equal answers always gives the same, although the next one may differ.
    """
    taken = np.asarray(taken_n, dtype=np.float64)
    count = int(number_contents(contents, len(taken)).max()) + 1 if len(taken) else 0
    if count < 2 or (taken != taken[0]).any():
        return None
    reach = min(1.0, 3 / count)
    return Interval(1 - reach, 1.0) if taken[0] else Interval(0.0, reach)


def distance_interval(
    distance: ResampledDistance, *, value: float | None = None, resamples: int | None = None, seed: int = 0
) -> Interval | None:
    """The interval of a distance between sets; None for fewer than two contents or reference images.

    `value`: the distance, if it is known already. `resamples` defaults to a number that takes some seconds: 1000 for
    the kernel distance, 100 for the Frechet distance, whose interval is then accurate to a fourteenth of its width.
    """
    if distance.references < 2:
        return None
    rng = np.random.default_rng((seed, 1))  # another stream than that of the contents
    return bootstrap(
        lambda counts: distance(counts, _draw(distance.references, rng)),
        distance.contents,
        value=distance() if value is None else value,
        resamples=distance.resamples if resamples is None else resamples,
        seed=seed,
        limits=distance.limits,
    )


def _draw(count: int, rng: np.random.Generator) -> Counts:
    """How often each of `count` items is drawn. At least two different ones are: one has no spread."""
    while True:
        counts = np.bincount(rng.integers(count, size=count), minlength=count)
        if np.count_nonzero(counts) > 1:
            return counts


def _around(value: float, resampled: Sequence[float], limits: tuple[float, float]) -> Interval:
    half = _DEVIATIONS * float(np.std(resampled, ddof=1))
    low, high = np.clip((value - half, value + half), *limits)
    return Interval(float(low), float(high))
