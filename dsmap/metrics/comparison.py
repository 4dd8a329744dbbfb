"""Comparison of folders of results, of one system or several, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dsmap.common.notify import Notify
from dsmap.errors import InputError
from dsmap.metrics.evaluator import Evaluation, Evaluator
from dsmap.metrics.report.grids import side_by_side, worst_results
from dsmap.metrics.report.notes import (
    few_images,
    missing_metrics,
    suite_notes,
    suspicious_folders,
    unequal_counts,
    usual_size,
)
from dsmap.metrics.report.verdict import of_folders
from dsmap.metrics.result_folders import ResultFolder, ResultImage, comparable, read_results, scan_images
from dsmap.metrics.suite import MetricSuite
from dsmap.metrics.types import Report


class SystemFolder(NamedTuple):
    """The results of one system: its name, and where they are."""

    name: str
    folder: Path
    pattern: str | None = None
    """Pattern of the results' file names; None: all images are results."""


@dataclass(frozen=True, kw_only=True)
class FolderComparison:
    """The folders of a comparison. Raises InputError for two systems of one name and for a file instead of a folder."""

    systems: tuple[SystemFolder, ...]
    reference: Path
    """Real images of the target domain."""
    content: Path | None = None
    """The images that were translated."""
    training: Path | None = None
    """Training images of the contents' domain, for the classifier."""

    def __post_init__(self) -> None:
        file = next((system.folder for system in self.systems if system.folder.is_file()), None)
        if file is not None:
            raise InputError(
                f"{file} is a file", "Pass folders of results, or a pattern in quotes: 'out/*_fake_B.png'."
            )
        names = [system.name for system in self.systems]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"two systems are called {twice}", "Name them: munit=FOLDER ours=OTHER/FOLDER.")


class _Images(NamedTuple):
    """The images of a comparison that can be used, and a line for everything that was left out."""

    reference: list[Path]
    contents: list[Path]
    training: list[Path]
    results: list[ResultFolder]
    left_out: list[str]


class EvaluatorFactory(Protocol):
    """Makes the evaluator of a comparison, for example one that shows its progress and keeps features."""

    def __call__(
        self, reference: Sequence[Path], suite: MetricSuite, *, contents: Sequence[Path], source: Sequence[Path]
    ) -> Evaluator: ...


def compare_folders(
    request: FolderComparison, suite: MetricSuite, *, say: Notify, make_evaluator: EvaluatorFactory = Evaluator
) -> Report:
    """Measures every system of `request`. Raises InputError for folders and images that cannot be used."""
    images = _find_images(request)
    for line in images.left_out:
        say(line)
    folders, excluded = comparable(images.results, len(images.contents))
    _check_counts(folders, images.reference)
    evaluator = make_evaluator(images.reference, suite, contents=images.contents, source=images.training)
    evaluations = [
        evaluator.evaluate(folder, _further_results(folder, whole))
        for folder, whole in zip(folders, images.results, strict=True)
    ]
    used = sorted({r.content for folder in folders for r in folder.results if r.content is not None})
    systems, before = [one.system for one in evaluations], None
    if used:
        untranslated = [images.contents[i] for i in used]
        before = evaluator.baseline("untranslated", untranslated, "The contents as they are.")
    said = of_folders(systems, untranslated=before, references=len(images.reference))
    systems += [] if before is None else [before]
    names = [path.stem for path in images.contents]
    return Report(
        title="Results compared" if len(evaluations) > 1 else f"Results of {evaluations[0].system.name}",
        facts=_facts(request, images, folders, len(used)) | suite.facts(),
        systems=tuple(systems),
        grids=(
            *side_by_side(evaluations, images.contents, names),
            *(grid for one in evaluations for grid in worst_results(one, images.contents, names)),
        ),
        verdict=said,
        notes=(
            *suite_notes(suite, evaluator),
            *few_images(min(len(folder.results) for folder in folders), len(images.reference)),
            *unequal_counts(systems),
            *excluded,
            *suspicious_folders(evaluations, images.contents, images.reference),
            *missing_metrics(suite, systems),
            *(f"{line}." for line in dict.fromkeys(images.left_out)),
        ),
        raw={"results": {one.system.json_name: result_scores(one, names) for one in evaluations}},
    )


def result_scores(evaluation: Evaluation, names: Sequence[str], folder: Path | None = None) -> list[dict[str, object]]:
    """Every result with its scores, for JSON. `names`: of the contents; `folder`: paths become relative to it."""
    return [
        {
            "path": (result.path if folder is None else result.path.relative_to(folder)).as_posix(),
            "content": None if result.content is None else names[result.content],
            "style": result.style,
        }
        | {key: None if np.isnan(score[i]) else round(float(score[i]), 4) for key, score in evaluation.scores.items()}
        for i, result in enumerate(evaluation.results)
    ]


def _find_images(request: FolderComparison) -> _Images:
    left_out: list[str] = []
    reference = scan_images(request.reference, "the reference folder", left_out)
    contents = [] if request.content is None else scan_images(request.content, "the content folder", left_out)
    training = [] if request.training is None else scan_images(request.training, "the source folder", left_out)
    results = [read_results(system.name, system.folder, contents, system.pattern) for system in request.systems]
    left_out += [line for one in results for line in one.left_out]
    return _Images(reference, contents, training, results, left_out)


def _check_counts(folders: Sequence[ResultFolder], reference: Sequence[Path]) -> None:
    """Raises InputError for too few images, before the features of thousands of them are computed."""
    for what, count in (("reference images", len(reference)), ("results", min(len(f.results) for f in folders))):
        if count < 2:
            raise InputError(
                f"a distance between sets of images needs two {what} or more, got {count}",
                "Pass a folder with more images; a few hundred make the distance meaningful.",
            )
    for folder in folders:
        known = {result.content for result in folder.results}
        if len(known) == 1 and None not in known:
            raise InputError(
                f"all results of {folder.name} that can be compared are of one content",
                "Pass results of two contents or more, and more of the other systems.",
            )


def _further_results(folder: ResultFolder, whole: ResultFolder) -> list[ResultImage]:
    """Results of the same contents in more styles than every system has, which count for diversity."""
    compared = {result.path for result in folder.results}
    contents = {result.content for result in folder.results} - {None}
    return [result for result in whole.results if result.content in contents and result.path not in compared]


def _facts(
    request: FolderComparison, images: _Images, folders: Sequence[ResultFolder], used_contents: int
) -> dict[str, str]:
    reference, contents = images.reference, images.contents
    return {
        "systems": "; ".join(_describe(*pair) for pair in zip(request.systems, folders, strict=True)),
        "reference": f"{request.reference}: {len(reference)} images of {usual_size(reference)}",
        "contents": f"{request.content}: {used_contents} of {len(contents)}" if used_contents else "not given",
    }


def _describe(system: SystemFolder, folder: ResultFolder) -> str:
    where = system.folder if system.pattern is None else system.folder / system.pattern
    paths = [result.path for result in folder.results]
    return f"{system.name}: {where}, {len(paths)} results of {usual_size(paths)}"
