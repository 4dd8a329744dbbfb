"""Measurements of several systems on the same images by the same networks. Without a network no torch is imported."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from dsmap.common.images import read_rgb, resize_shorter_side
from dsmap.common.notify import Notify
from dsmap.errors import InputError
from dsmap.metrics import catalogue
from dsmap.metrics.distances import FrechetDistance, KernelDistance, KernelReference
from dsmap.metrics.diversity import diversity
from dsmap.metrics.intervals import distance_interval, mean_interval, share_interval
from dsmap.metrics.preservation import at_smaller_size, edge_structure, like_content, same_shape, ssim
from dsmap.metrics.result_folders import ResultFolder, ResultImage
from dsmap.metrics.suite import MetricSuite
from dsmap.metrics.types import Image, Interval, Metric, MetricValue, System

if TYPE_CHECKING:  # these import torch
    from dsmap.metrics.classifier import Classifier
    from dsmap.metrics.extractors import Extractor
    from dsmap.metrics.feature_cache import FeatureCache

Array = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Opens a step of so many images and gives the function that reports how many of them are done."""

_Groups = Sequence[Hashable]
T = TypeVar("T")
_MAX_BATCH = 16


class Evaluation(NamedTuple):
    """The measurements of a system, and the scores of each of its results."""

    system: System
    results: tuple[ResultImage, ...]
    scores: dict[str, Array]
    """By the key of a metric: (N,), NaN where a result has no score."""

    def worst(self, count: int) -> list[int]:
        """Indices of the `count` worst results, by the mean of their ranks in every score where higher is better."""
        scores = [
            score
            for key, score in self.scores.items()
            if catalogue.METRICS[key].better == "higher" and not np.isnan(score).all()
        ]
        if not scores:
            return []
        ranks = np.mean([np.argsort(np.argsort(np.nan_to_num(score, nan=np.inf))) for score in scores], 0)
        return [int(i) for i in np.argsort(ranks, kind="stable")[:count]]


class _PerResult(NamedTuple):
    """The features and scores of single results."""

    features: dict[str, Features]
    """By the key of an extractor: (N, D)."""
    kept: dict[str, Array]
    """By the key of a metric of content preservation: (N,), NaN without a content."""
    other_shape: int
    """How many results have another shape than their content."""


class Evaluator:
    """Measures systems against images of the target domain.

    reference: images of the target domain; none: no distances
    contents: the images that were translated; none: they are not known
    source: training images of the contents' domain, for the classifier; none, or no reference: no classifier
    side: reference, source and baselines are resized to this shorter side, as the contents were; None: they are not
    progress: follows long steps
    cache: keeps features of reference and source; None: they are computed

    Raises InputError for images that cannot be read.
    """

    def __init__(
        self,
        reference: Sequence[Path],
        suite: MetricSuite,
        *,
        contents: Sequence[Path] = (),
        source: Sequence[Path] = (),
        say: Notify = lambda _line: None,
        side: int | None = None,
        progress: Progress = lambda _count: nullcontext(lambda _done: None),
        cache: "FeatureCache | None" = None,
    ) -> None:
        self.suite, self.contents, self.say, self.side = suite, contents, say, side
        self._progress, self._cache = progress, cache
        self._reference: dict[str, Features] = {}
        self._kernels: dict[str, KernelReference] = {}
        if reference:
            say(f"computing features of {len(reference)} reference images ...")
            self._reference = {e.key: self._pooled(e, reference) for e in suite.extractors}
        self.classifier: Classifier | None = None
        network = suite.squeezenet
        if network is not None and source and reference:
            from dsmap.metrics.classifier import fit_classifier

            say(f"fitting a classifier on {len(source)} source and {len(reference)} target images ...")
            features = self._pooled(network, source)
            self.classifier = fit_classifier(features, self._reference[network.key], seed=suite.seed)

    def baseline(self, name: str, images: Sequence[Path], note: str = "") -> System:
        """Measures the distances of images to compare systems with, such as the untranslated contents."""
        self.say(f"measuring {name}: {len(images)} images ...")
        features = {e.key: self._pooled(e, images) for e in self.suite.extractors}
        measured = [*self._distances(features, None), *self._classified(features, None)]
        return System(name=name, measured=tuple(measured), notes=(note,) if note else (), baseline=True)

    def evaluate(self, folder: ResultFolder, more: Sequence[ResultImage] = ()) -> Evaluation:
        """Measures the results of one system. For results without a content only distances are measured.

        `more` are further results in other styles, used for diversity only.
        """
        self.say(f"measuring {folder.name}: {len(folder.results)} results ...")
        results = sorted(folder.results, key=lambda result: (_number(result), str(result.path)))
        each = self._each(results)
        groups = [(_number(result), i if result.content is None else 0) for i, result in enumerate(results)]
        scores = {key: score for key, score in each.kept.items() if not np.isnan(score).all()}
        seed = self.suite.seed
        measured = [
            *self._distances(each.features, groups),
            *(_mean(catalogue.METRICS[key], score, groups, seed) for key, score in scores.items()),
            *self._classified(each.features, groups),
            *self._diversity([*results, *more]),
        ]
        notes = []
        if each.other_shape:
            notes.append(f"{each.other_shape} of {len(results)} results have another shape than their contents.")
        system = System(name=folder.name, measured=tuple(measured), notes=tuple(notes))
        return Evaluation(system, tuple(results), scores | self._probabilities(each.features))

    def _pooled(self, extractor: "Extractor", images: Sequence[Path]) -> Features:
        def make() -> Features:
            with self._progress(len(images)) as update:
                return extractor.pooled(map(self._read, _counted(images, update)))

        return make() if self._cache is None else self._cache.get(extractor, images, make, self.side)

    def _read(self, path: Path) -> Image:
        """Reads an image at the size of the evaluation, so that distances do not depend on image sizes."""
        if self.side is None:
            return read_rgb(path)
        return resize_shorter_side(read_rgb(path, at_least=self.side), self.side)

    def _each(self, results: Sequence[ResultImage]) -> "_PerResult":
        """The features and scores of every result; each image is read once."""
        features: dict[str, list[Features]] = {e.key: [] for e in self.suite.extractors}
        kept = {key: np.full(len(results), np.nan) for key in catalogue.PRESERVED}
        other_shape = 0
        with self._progress(len(results)) as update:
            for numbers, group in _of_one_content(results):
                images = [read_rgb(result.path) for result in group]
                for extractor in self.suite.extractors:
                    features[extractor.key].append(extractor.pooled(images))
                update(numbers[-1])
                if group[0].content is None:
                    continue
                content = read_rgb(self.contents[group[0].content])
                other_shape += sum(not same_shape(content, image) for image in images)
                try:
                    found = self._kept(content, images)
                except InputError as error:
                    raise InputError(f"{group[0].path}: {error.fact}", error.advice) from error
                for key, scores in found.items():
                    kept[key][numbers] = scores
        return _PerResult({key: np.concatenate(parts) for key, parts in features.items()}, kept, other_shape)

    def _distances(self, features: dict[str, Features], groups: _Groups | None) -> Iterator[MetricValue]:
        for extractor in self.suite.extractors if self._reference else ():
            x, y = features[extractor.key], self._reference[extractor.key]
            if extractor.key not in self._kernels:  # of thousands of images it takes as long as the features
                self._kernels[extractor.key] = KernelReference(y, standardise=extractor.standardised)
            kernel = KernelDistance(x, self._kernels[extractor.key], contents=groups)
            for metric, distance, factor in (
                (_kernel_metric(extractor), kernel, 1000.0),
                (_frechet_metric(extractor), FrechetDistance(x, y, contents=groups), 1.0),
            ):
                value = distance()
                interval = distance_interval(distance, value=value, seed=self.suite.seed)
                scaled = None if interval is None else Interval(*(factor * bound for bound in interval))
                yield MetricValue(metric=metric, value=factor * value, interval=scaled, count=len(x))

    def _kept(self, content: Image, results: Sequence[Image]) -> dict[str, Array]:
        """Scores of how much of the content each result preserves."""
        pairs = [at_smaller_size(content, result) for result in results]
        scores = {
            "edge_structure": np.array([edge_structure(*pair) for pair in pairs]),
            "ssim": np.array([ssim(*pair) for pair in pairs]),
        }
        if self.suite.squeezenet is not None:
            from dsmap.metrics.extractors import cosine_per_image

            alike = [like_content(content, result) for result in results]
            of_content, of_results = (self.suite.squeezenet.taps(images)[1] for images in ([content], alike))
            scores["feature_similarity"] = cosine_per_image(of_content.expand_as(of_results), of_results)
        return scores

    def _probabilities(self, features: dict[str, Features]) -> dict[str, Array]:
        network = self.suite.squeezenet
        if self.classifier is None or network is None:
            return {}
        return {"target_score": self.classifier.probability(features[network.key])}

    def _classified(self, features: dict[str, Features], groups: _Groups | None) -> Iterator[MetricValue]:
        for key, probability in self._probabilities(features).items():
            taken = (probability > 0.5).astype(np.float64)  # the share, which a few sure mistakes do not move
            measured = _mean(catalogue.METRICS[key], taken, groups, self.suite.seed)
            yield replace(measured, interval=share_interval(taken, groups) or measured.interval)

    def _diversity(self, results: Sequence[ResultImage]) -> Iterator[MetricValue]:
        distance = self.suite.pair_distance
        if distance is None:
            return
        known = sorted((result for result in results if result.content is not None), key=_number)
        found = [list(group) for _, group in groupby(known, key=_number)]
        several = [group for group in found if len(group) > 1]
        if not several:
            return
        with self._progress(len(several)) as update:
            by_content = ((str(group[0].content), _of_one_size(group)) for group in _counted(several, update))
            means = diversity(by_content, distance, pairs=self.suite.pairs, seed=self.suite.seed)
        if means:
            values = np.array(list(means.values()))
            measured = _mean(catalogue.diversity(distance.key, distance.name), values, None, self.suite.seed)
            pairs = sum(min(self.suite.pairs, len(group) * (len(group) - 1) // 2) for group in several)
            yield replace(measured, count=pairs)


def average(evaluated: Sequence[Evaluation]) -> Evaluation:
    """The mean of several repeats: of their values and of their intervals, with the results and scores of all."""
    first = evaluated[0]
    if len(evaluated) == 1:
        return first
    measured = []
    for own in first.system.measured:
        found = [m for one in evaluated for m in one.system.measured if m.metric.key == own.metric.key]
        intervals = [m.interval for m in found if m.interval is not None]
        interval = Interval(*np.mean(intervals, 0).tolist()) if intervals else None
        value = float(np.mean([m.value for m in found]))
        # A distance stays one of a single repeat's results, however many repeats are averaged.
        count = own.count if own.metric.is_distance else sum(m.count for m in found)
        measured.append(replace(own, value=value, interval=interval, count=count))
    scores = {key: np.concatenate([one.scores[key] for one in evaluated]) for key in first.scores}
    system = replace(first.system, measured=tuple(measured))
    return Evaluation(system, tuple(result for one in evaluated for result in one.results), scores)


def _kernel_metric(e: "Extractor") -> Metric:
    return catalogue.kernel(e.key, e.name, published=e.published, standardised=e.standardised)


def _frechet_metric(e: "Extractor") -> Metric:
    return catalogue.frechet(e.key, e.name, published=e.published)


def _of_one_content(results: Sequence[ResultImage]) -> Iterator[tuple[list[int], list[ResultImage]]]:
    """Numbers and results in groups of at most `_MAX_BATCH` of one content, or of none."""
    for _, found in groupby(enumerate(results), key=lambda pair: _number(pair[1])):
        group = list(found)
        for start in range(0, len(group), _MAX_BATCH):
            numbers, some = zip(*group[start : start + _MAX_BATCH], strict=True)
            yield list(numbers), list(some)


def _of_one_size(results: Sequence[ResultImage]) -> list[Image]:
    """The images, resized to the size of the first: LPIPS needs equal sizes."""
    first, *others = (read_rgb(result.path) for result in results)
    return [first, *(like_content(first, other) for other in others)]


def _counted(items: Iterable[T], update: Callable[[int], None]) -> Iterator[T]:
    for done, item in enumerate(items):
        update(done)
        yield item


def _number(result: ResultImage) -> int:
    return -1 if result.content is None else result.content


def _mean(metric: Metric, values_n: Array, groups: _Groups | None, seed: int) -> MetricValue:
    there = values_n[~np.isnan(values_n)]
    interval = mean_interval(values_n, groups, seed=seed, limits=catalogue.LIMITS.get(metric.key, catalogue.ANY))
    return MetricValue(metric=metric, value=float(there.mean()), interval=interval, count=len(there))
