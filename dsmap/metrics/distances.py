"""Distances between two sets of images in a feature space: Frechet distance and kernel distance.

On Inception features they are FID (Heusel et al., NIPS 2017) and KID (Binkowski et al., ICLR 2018); on other features
they are not, and the numbers cannot be compared with published ones.

Both can be resampled cheaply: the costly parts are computed once, and `distance(counts, reference_counts)` is the
distance where the results of content c are drawn `counts[c]` times and the reference's image m
`reference_counts[m]` times.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dsmap.errors import InputError

Array = npt.NDArray[np.float64]

# Two images are the same if their features differ by less than this part of their length: another batch size changes
# features by about 1e-6, another JPEG quality by about 1e-2.
_SAME = 1e-5
_MIN_SPREAD = 1e-6


class ResampledDistance(Protocol):
    """A distance between results and a reference, on all images or on a resampling of them."""

    contents: int
    """Number of contents of the results."""
    references: int
    """Number of images of the reference."""
    resamples: int
    """Number of resamplings that take some seconds."""
    limits: tuple[float, float]
    """The range of values that the distance can take."""

    def __call__(self, counts: npt.ArrayLike | None = None, reference_counts: npt.ArrayLike | None = None) -> float:
        """The distance; `counts` (contents,) and `reference_counts` (references,) default to ones."""


def frechet_distance(x_nd: npt.ArrayLike, reference_md: npt.ArrayLike) -> float:
    """The squared Frechet distance between normal distributions fitted to features (N, D) and (M, D), 0 or more.

    |mean difference|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2)), with the unbiased covariances. Equal sets give 0.
    It grows as N and M shrink, so only distances of equally many images can be compared.
    Raises InputError for fewer than two images.
    """
    return FrechetDistance(x_nd, reference_md)()


def kernel_distance(x_nd: npt.ArrayLike, reference_md: npt.ArrayLike, *, standardise: bool = True) -> float:
    """Unbiased squared MMD between features (N, D) and (M, D), with the cubic kernel (x . y / D + 1)^3.

    Near 0, of either sign, for two samples of one distribution. `standardise`: each feature is first shifted and
    scaled by the reference's mean and standard deviation; KID does not.

    An image in both sets is not compared with itself: like the pairs (i, i) within a set, such a pair says nothing
    about the distance of independent images. So a set has distance 0, up to rounding, to itself, where the usual
    estimator gives less. Without common images this is the usual estimator.
    Raises InputError for fewer than two images.
    """
    return KernelDistance(x_nd, KernelReference(reference_md, standardise=standardise))()


class KernelReference:
    """A reference of kernel distances: its features (M, D), and the kernel between all of them.

    `standardise` as in `kernel_distance`. Raises InputError for fewer than two images.
    """

    def __init__(self, reference_md: npt.ArrayLike, *, standardise: bool) -> None:
        self.given_md = _features(reference_md, "reference images")
        self._mean: Array | float = 0.0
        self._spread: Array | float = 1.0
        self._used = np.ones(self.given_md.shape[1], dtype=bool)
        if standardise:
            mean, spread = self.given_md.mean(0), self.given_md.std(0, ddof=1)
            self._used = spread > _MIN_SPREAD  # a feature that is the same in all of the reference has no scale
            self._mean, self._spread = mean[self._used], spread[self._used]
        self.md = self.scaled(self.given_md)
        self.kernel_mm = _cubic(self.md, self.md)
        np.fill_diagonal(self.kernel_mm, 0)

    def scaled(self, x_nd: Array) -> Array:
        """Features (N, D), standardised by the reference if it was made so."""
        return np.asarray((x_nd[:, self._used] - self._mean) / self._spread)


class KernelDistance:
    """`kernel_distance` with resampling, for results of which several may share a content.

    `contents` gives the content of each of the N results (default: each has its own). Only results of different
    contents are compared with each other: those of one content resemble each other, and more styles would raise the
    distance. Features are standardised by the whole reference, also in a resampling. Raises InputError for
    fewer than two contents.
    """

    resamples = 1000
    limits = (-np.inf, np.inf)

    def __init__(
        self,
        x_nd: npt.ArrayLike,
        reference: KernelReference,
        *,
        contents: Sequence[Hashable] | None = None,
    ) -> None:
        x = _features(x_nd, "results", like=reference.given_md)
        different_nm = _different_images(x, reference.given_md)
        x, y = reference.scaled(x), reference.md
        content_n = number_contents(contents, len(x))
        self.contents, self.references = int(content_n.max()) + 1, len(y)
        if self.contents < 2:
            raise InputError("all results are of one content", "Pass results of two contents or more.")
        self._sizes_c = np.bincount(content_n).astype(np.float64)

        self._within_cc = _sum_rows(_sum_rows(_cubic(x, x), content_n).T, content_n)
        np.fill_diagonal(self._within_cc, 0)
        self._reference_mm = reference.kernel_mm
        self._across_cm = _sum_rows(_cubic(x, y) * different_nm, content_n)
        self._across_pairs_cm = _sum_rows(different_nm, content_n)

    def __call__(self, counts: npt.ArrayLike | None = None, reference_counts: npt.ArrayLike | None = None) -> float:
        """The distance. An image drawn twice is never compared with itself."""
        u_c, v_m = _counts(counts, self.contents), _counts(reference_counts, self.references)
        drawn_c = u_c * self._sizes_c
        within = u_c @ self._within_cc @ u_c / (drawn_c.sum() ** 2 - (drawn_c**2).sum())
        reference = v_m @ self._reference_mm @ v_m / (v_m.sum() ** 2 - (v_m**2).sum())
        across = (u_c @ self._across_cm @ v_m) / (u_c @ self._across_pairs_cm @ v_m)
        return float(within + reference - 2 * across)


class FrechetDistance:
    """`frechet_distance` with resampling.

    `contents` gives the content of each of the N results (default: each has its own). Resampled distances lie above the
    distance itself: only their spread is meaningful.
    """

    resamples = 100
    limits = (0.0, np.inf)

    def __init__(
        self, x_nd: npt.ArrayLike, reference_md: npt.ArrayLike, *, contents: Sequence[Hashable] | None = None
    ) -> None:
        self._y_md = _features(reference_md, "reference images")
        self._x_nd = _features(x_nd, "results", like=self._y_md)
        self._content_n = number_contents(contents, len(self._x_nd))
        self.contents, self.references = int(self._content_n.max()) + 1, len(self._y_md)

    def __call__(self, counts: npt.ArrayLike | None = None, reference_counts: npt.ArrayLike | None = None) -> float:
        """The distance."""
        u_n = _counts(counts, self.contents)[self._content_n]
        x_mean, x_rows = _mean_and_root(self._x_nd, u_n)
        y_mean, y_rows = _mean_and_root(self._y_md, _counts(reference_counts, self.references))
        # With S_x = A'A and S_y = B'B, tr((S_x S_y)^(1/2)) is the sum of the singular values of AB'. No square root of
        # a D x D matrix is needed, and too few images for a covariance of full rank are no problem.
        common = np.linalg.svd(x_rows @ y_rows.T, compute_uv=False).sum()
        distance = ((x_mean - y_mean) ** 2).sum() + (x_rows**2).sum() + (y_rows**2).sum() - 2 * common
        return max(0.0, float(distance))


def number_contents(contents: Sequence[Hashable] | None, count: int) -> npt.NDArray[np.int64]:
    """The contents of `count` results as numbers 0 .. C - 1, in order of first occurrence."""
    if contents is None:
        return np.arange(count)
    if len(contents) != count:
        raise ValueError(f"{len(contents)} contents for {count} results")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(content, len(numbers)) for content in contents], dtype=np.int64)


def _features(x_nd: npt.ArrayLike, what: str, like: Array | None = None) -> Array:
    """(N, D) in double precision, D equal to that of `like`. Raises InputError for fewer than two of `what`."""
    x = np.asarray(x_nd, dtype=np.float64)
    if x.ndim != 2 or (like is not None and x.shape[1] != like.shape[1]):
        expected = "(N, D)" if like is None else f"(N, {like.shape[1]})"
        raise ValueError(f"features of {what} are {x.shape}, expected {expected}")
    if len(x) < 2:
        raise InputError(
            f"a distance between sets of images needs two {what} or more, got {len(x)}",
            "Pass a folder with more images; a few hundred make the distance meaningful.",
        )
    return x


def _counts(counts: npt.ArrayLike | None, length: int) -> Array:
    return np.ones(length) if counts is None else np.asarray(counts, dtype=np.float64)


def _different_images(x: Array, y: Array) -> Array:
    """(N, M): 0 where image n of one set is image m of the other, else 1.

    Each image is matched at most once: of an image that is twice in both sets, two pairs out of four.
    """
    lengths = (x**2).sum(1)[:, None] + (y**2).sum(1)
    same = lengths - 2 * (x @ y.T) <= _SAME**2 * lengths
    different = np.ones(same.shape)
    for n in np.flatnonzero(same.any(1)):
        (found,) = np.nonzero(same[n])
        if len(found):
            different[n, found[0]] = 0
            same[:, found[0]] = False
    return different


def _cubic(x: Array, y: Array) -> Array:
    return np.asarray((x @ y.T / max(1, x.shape[1]) + 1) ** 3)


def _sum_rows(rows: Array, content_n: npt.NDArray[np.int64]) -> Array:
    """(N, ...) -> (C, ...): the sum of the rows of each content."""
    order = np.argsort(content_n, kind="stable")
    starts = np.flatnonzero(np.diff(content_n[order], prepend=-1))
    return np.add.reduceat(rows[order], starts, axis=0)


def _mean_and_root(x: Array, weight_n: Array) -> tuple[Array, Array]:
    """Weighted mean (D,) and a matrix A of at most D rows with A'A = the weighted covariance."""
    x, weight_n = x[weight_n > 0], weight_n[weight_n > 0]
    total = weight_n.sum()
    mean = weight_n @ x / total
    rows = (x - mean) * np.sqrt(weight_n / (total - 1))[:, None]
    return mean, np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows
