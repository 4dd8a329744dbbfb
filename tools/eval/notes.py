"""What a reader must know of the numbers of an evaluation, a sentence each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb
from dsmap.common.sampling import pick_evenly
from dsmap.metrics.evaluate import Judged, Means
from dsmap.metrics.findings import Image, System
from dsmap.metrics.preservation import like_content
from dsmap.metrics.protocol import Protocol
from dsmap.tools.eval.styles import Direction

FEW_RESULTS, FEW_REFERENCES = 50, 100  # distances of fewer images say little
_SIZED = 9  # images of a folder whose size is looked at
_SMALLER = 0.8  # of the reference's shorter side
_NEARLY_ALL, _ASPECT = 0.8, np.log(1.05)
_ALIKE, _UNCHANGED = 0.9, 5  # SSIM from which on a result is looked at, and grey levels: what a JPEG of the input keeps


def few(results: int, references: int) -> list[str]:
    """A caution where distances are of few images."""
    if results >= FEW_RESULTS and references >= FEW_REFERENCES:
        return []
    return [
        f"Distances are of few images ({results} results, {references} of the reference): {FEW_RESULTS} and"
        f" {FEW_REFERENCES} or more make them mean something."
    ]


def unequal(systems: Sequence[System]) -> list[str]:
    """A caution where distances are of different numbers of images."""
    counts = {
        system.name: next((m.count for m in system.measured if m.metric.key.startswith("frechet")), 0)
        for system in systems
    }
    if len(set(counts.values())) < 2:
        return []
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"Frechet distances of different numbers of images cannot be compared. Images: {told}."]


def missing(means: Means, systems: Sequence[System]) -> list[str]:
    """What is not measured, and what it needs."""
    measured = {m.metric.key.partition("/")[0] for system in systems for m in system.measured}
    told = []
    if "edge_structure" not in measured:
        told.append("What is kept of the contents and diversity are not measured: they need --content.")
    elif "diversity" not in measured and means.pair_distance is not None:
        told.append("Diversity is not measured: no content has two results.")
    if means.squeezenet is not None and "target_score" not in measured:
        told.append("No classifier was fitted: it needs --source, training images of the contents' domain.")
    if means.squeezenet is None:
        told.append(
            "Feature similarity, a classifier, and diversity without --lpips need a SqueezeNet .npz among --features."
        )
    return told


def doubts(judged: Sequence[Judged], contents: Sequence[Path], reference: Sequence[Path]) -> list[str]:
    """What looks as if the folders held something else than they should."""
    told = []
    of_reference = float(np.median([min(shape) for shape in _shapes(reference)]))
    for one in judged:
        name, paths = one.system.name, [result.path for result in one.results]
        if float(np.median([min(shape) for shape in _shapes(paths)])) < _SMALLER * of_reference:
            told.append(f"{name}: its results are smaller than the reference, which is sharper for that alone.")
        same = _unchanged(one, contents)
        if same:
            told.append(
                f"{name}: {len(same)} of {len(paths)} results are their contents unchanged, the first {same[0].name}."
                f" If inputs lie among the results, pass the others by a pattern: {name}='FOLDER/*_fake_B.png'."
            )
        odd = _odd_ones(paths) if one.results[0].content is None else []
        if odd:
            told.append(
                f"{name}: {len(odd)} of {len(paths)} images have another shape than the rest, the first {odd[0].name}"
                ": are they results?"
            )
    return told


def shortcomings(direction: Direction, protocol: Protocol) -> Iterator[str]:
    """What the images lack for the protocol."""
    if len(direction.contents) < protocol.contents:
        yield f"{len(direction.contents)} contents are translated, not {protocol.contents}: there are no more."
    if protocol.repeats > 1 and len(direction.styles) <= protocol.styles:
        yield f"Every repeat has the styles of the same {len(direction.styles)} images: there are no more."
    for domain, what in ((direction.source, "contents"), (direction.target, "styles")):
        if not domain.test:
            yield f"There are no test images of {domain.name}: the model may have been trained on these {what}."


def of_repeats(repeats: Sequence[Judged]) -> Iterator[str]:
    """What the numbers are of when there are several."""
    if len(repeats) < 2:
        return
    yield (
        f"Numbers of the styles of images are means over {len(repeats)} repeats, each with other images' styles."
        " Their intervals are means of the repeats' own: how far other contents and another reference would move them."
    )
    spreads = []
    for measured in repeats[0].system.measured:
        spread = float(np.std([value_of(one, measured.metric.key) for one in repeats], ddof=1))
        spreads.append(f"{measured.metric.title} {spread:.{measured.metric.digits}f}")
    yield f"Standard deviations between the repeats: {', '.join(spreads)}."


def value_of(judged: Judged, key: str) -> float:
    """The value of a metric that was measured."""
    return next(measured.value for measured in judged.system.measured if measured.metric.key == key)


def usual_size(paths: Sequence[Path]) -> str:
    """The usual size of the images, in words."""
    (height, width), count = Counter(_shapes(paths)).most_common(1)[0]
    return f"{width}x{height}" + ("" if count == min(len(paths), _SIZED) else " and other sizes")


def _shapes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """(height, width) of some of the images."""
    images = (read_rgb(path) for path in pick_evenly(paths, _SIZED))
    return [(image.shape[0], image.shape[1]) for image in images]


def _unchanged(judged: Judged, contents: Sequence[Path]) -> list[Path]:
    """Results that are images of the contents themselves, apart from their encoding."""
    found = []
    for result, alike in zip(judged.results, judged.scores.get("ssim", ()), strict=False):
        if result.content is not None and alike > _ALIKE:
            content = read_rgb(contents[result.content])
            if _difference(content, like_content(content, read_rgb(result.path))) < _UNCHANGED:
                found.append(result.path)
    return found


def _difference(one: Image, other: Image) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _odd_ones(paths: Sequence[Path]) -> list[Path]:
    """Images of another shape than nearly all of them, such as grids."""
    sizes = [read_rgb(path).shape[:2] for path in paths]
    (height, width), count = Counter(sizes).most_common(1)[0]
    if count <= _NEARLY_ALL * len(paths):
        return []
    return [path for path, (h, w) in zip(paths, sizes, strict=True) if abs(np.log(w * height / (h * width))) > _ASPECT]
