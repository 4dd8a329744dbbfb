"""Notes of a report: what a reader must know about its numbers, a sentence each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb
from dsmap.common.sampling import pick_evenly
from dsmap.metrics.evaluator import Evaluation, Evaluator
from dsmap.metrics.preservation import like_content
from dsmap.metrics.protocol import Protocol
from dsmap.metrics.report.verdict import MIN_REFERENCES, MIN_RESULTS
from dsmap.metrics.suite import MetricSuite
from dsmap.metrics.types import Image, System
from dsmap.training.datasets import Domain

_MAX_SIZED = 9  # images of a folder whose size is read
_SMALLER = 0.8  # times the reference's shorter side
_NEARLY_ALL, _ASPECT = 0.8, np.log(1.05)
# From this SSIM on a result is compared with its content; the mean difference in grey levels that a JPEG of it has.
_ALIKE, _UNCHANGED = 0.9, 5


def suite_notes(suite: MetricSuite, evaluator: Evaluator) -> list[str]:
    """Notes on all numbers: whether they compare with published ones, and how reliable the classifier is."""
    notes = [
        f"Distances on {extractor.name} are NOT comparable with published FID and KID: compare the systems here only."
        for extractor in suite.extractors
        if not extractor.published
    ]
    return notes if evaluator.classifier is None else [*notes, evaluator.classifier.reliability]


def few_images(results: int, references: int) -> list[str]:
    """A warning where distances are of few images."""
    if results >= MIN_RESULTS and references >= MIN_REFERENCES:
        return []
    return [
        f"Distances are of few images ({results} results, {references} of the reference): {MIN_RESULTS} and"
        f" {MIN_REFERENCES} or more make them meaningful."
    ]


def unequal_counts(systems: Sequence[System]) -> list[str]:
    """A warning where distances are of different numbers of images."""
    counts = {
        system.name: next((m.count for m in system.measured if m.metric.key.startswith("frechet")), 0)
        for system in systems
    }
    if len(set(counts.values())) < 2:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"Frechet distances of different numbers of images cannot be compared. Images: {listed}."]


def missing_metrics(suite: MetricSuite, systems: Sequence[System]) -> list[str]:
    """Metrics that were not measured, and what each needs."""
    measured = {m.metric.key.partition("/")[0] for system in systems for m in system.measured}
    notes = []
    if "edge_structure" not in measured:
        notes.append("Content preservation and diversity are not measured: they need --content.")
    elif "diversity" not in measured and suite.pair_distance is not None:
        notes.append("Diversity is not measured: no content has two results.")
    if suite.squeezenet is not None and "target_score" not in measured:
        notes.append("No classifier was fitted: it needs --source, training images of the contents' domain.")
    if suite.squeezenet is None:
        notes.append(
            "Feature similarity, the classifier, and diversity without --lpips need a SqueezeNet .npz among --features."
        )
    return notes


def suspicious_folders(
    evaluations: Sequence[Evaluation], contents: Sequence[Path], reference: Sequence[Path]
) -> list[str]:
    """Warnings where folders seem to hold something other than results."""
    notes = []
    of_reference = float(np.median([min(shape) for shape in _shapes(reference)]))
    for one in evaluations:
        name, paths = one.system.name, [result.path for result in one.results]
        if float(np.median([min(shape) for shape in _shapes(paths)])) < _SMALLER * of_reference:
            notes.append(f"{name}: its results are smaller than the reference, which is sharper for that reason alone.")
        same = _unchanged(one, contents)
        if same:
            notes.append(
                f"{name}: {len(same)} of {len(paths)} results are their contents unchanged, the first {same[0].name}."
                f" If inputs lie among the results, pass the others by a pattern: {name}='FOLDER/*_fake_B.png'."
            )
        odd = _odd_shapes(paths) if one.results[0].content is None else []
        if odd:
            notes.append(
                f"{name}: {len(odd)} of {len(paths)} images have another shape than the rest, the first {odd[0].name}"
                ": are they results?"
            )
    return notes


def protocol_notes(
    protocol: Protocol, *, source: Domain, target: Domain, contents: int, styles: int | None
) -> Iterator[str]:
    """What the images lack for the protocol; `contents` and `styles` say how many there are (None: no styles)."""
    if contents < protocol.contents:
        yield f"{contents} contents are translated, not {protocol.contents}: there are no more."
    if styles is not None and protocol.repeats > 1 and styles <= protocol.styles:
        yield f"Every repeat has the styles of the same {styles} images: there are no more."
    for domain, what in ((source, "contents"), (target, "styles"))[: 1 if styles is None else 2]:
        if not domain.test:
            yield f"There are no test images of {domain.name}: the model may have been trained on these {what}."


def repeat_notes(repeats: Sequence[Evaluation]) -> Iterator[str]:
    """How the numbers of several repeats were averaged, and how far they spread."""
    if len(repeats) < 2:
        return
    yield (
        f"Numbers of the styles of images are means over {len(repeats)} repeats, each with other images' styles."
        " So are their intervals: how much other contents and another reference would change the numbers."
    )
    spreads = []
    for measured in repeats[0].system.measured:
        spread = float(np.std([value_of(one, measured.metric.key) for one in repeats], ddof=1))
        spreads.append(f"{measured.metric.title} {spread:.{measured.metric.digits}f}")
    yield f"Standard deviations between the repeats: {', '.join(spreads)}."


def value_of(evaluated: Evaluation, key: str) -> float:
    """The value of a metric that was measured, by its key."""
    return next(measured.value for measured in evaluated.system.measured if measured.metric.key == key)


def usual_size(paths: Sequence[Path]) -> str:
    """The most frequent size of the images, such as "256x256 and other sizes"."""
    (height, width), count = Counter(_shapes(paths)).most_common(1)[0]
    return f"{width}x{height}" + ("" if count == min(len(paths), _MAX_SIZED) else " and other sizes")


def _shapes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """(height, width) of some of the images, evenly spread."""
    images = (read_rgb(path) for path in pick_evenly(paths, _MAX_SIZED))
    return [(image.shape[0], image.shape[1]) for image in images]


def _unchanged(evaluated: Evaluation, contents: Sequence[Path]) -> list[Path]:
    """Results that are their contents, up to the encoding."""
    found = []
    for result, alike in zip(evaluated.results, evaluated.scores.get("ssim", ()), strict=False):
        if result.content is not None and alike > _ALIKE:
            content = read_rgb(contents[result.content])
            if _difference(content, like_content(content, read_rgb(result.path))) < _UNCHANGED:
                found.append(result.path)
    return found


def _difference(one: Image, other: Image) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _odd_shapes(paths: Sequence[Path]) -> list[Path]:
    """Images whose shape differs from that of nearly all others, such as grids."""
    sizes = [read_rgb(path).shape[:2] for path in paths]
    (height, width), count = Counter(sizes).most_common(1)[0]
    if count <= _NEARLY_ALL * len(paths):
        return []
    return [path for path, (h, w) in zip(paths, sizes, strict=True) if abs(np.log(w * height / (h * width))) > _ASPECT]
