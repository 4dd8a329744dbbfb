"""Folders of results, of one system or several, as one report; and what that shares with the report of a model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsmap.common.cache_folder import user_cache_folder
from dsmap.common.notify import Notify
from dsmap.errors import InputError
from dsmap.metrics.evaluate import Evaluator, Judged, Means
from dsmap.metrics.extractors import LpipsNet, PairDistance, SqueezeNet, SqueezeNetDistance, load_extractor, load_lpips
from dsmap.metrics.feature_cache import FeatureCache
from dsmap.metrics.findings import Report
from dsmap.metrics.report.grids import side_by_side, worst
from dsmap.metrics.results import Result, ResultFolder, comparable, look_through, read_results
from dsmap.tools.eval.notes import doubts, few, missing, unequal, usual_size
from dsmap.tools.shared.progress import progress

_LPIPS = ("alex", "vgg", "squeeze")
_NO_NETWORK = (
    "no feature network was passed",
    "Pass --features with an .npz of SqueezeNet v1.0 or the TorchScript file inception-2015-12-05.pt.",
)


class Given(NamedTuple):
    """A system as it is passed."""

    name: str
    folder: Path
    pattern: str | None = None
    """Of the names of its results; None: all images are."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images of an evaluation of folders are."""

    systems: tuple[Given, ...]
    reference: Path
    content: Path | None = None
    training: Path | None = None
    """Training images of the domain that the contents are of, for the classifier."""


def load_means(features: Sequence[Path], lpips: str | None, *, pairs: int, seed: int, run_code: bool = False) -> Means:
    """What to measure with. Raises InputError without a feature network, for a file that is none, for two of a kind.

    `run_code` allows TorchScript programs other than NVIDIA's Inception.
    """
    if not features:
        raise InputError(*_NO_NETWORK)
    if lpips is not None and lpips not in _LPIPS:
        raise InputError(f"no LPIPS network named {lpips!r}", f"Known ones: {', '.join(_LPIPS)}.")
    if lpips is not None and not pairs:
        raise InputError("--lpips measures pairs of results, and --pairs is 0", "Leave out one of them.")
    extractors = tuple(load_extractor(path, run_code=run_code) for path in features)
    if len({e.key for e in extractors}) < len(extractors):
        raise InputError("two feature networks of one kind were passed", "Pass one SqueezeNet, one Inception, or both.")
    squeezenet = next((e for e in extractors if isinstance(e, SqueezeNet)), None)
    distance: PairDistance | None = None
    if lpips is not None:
        net: LpipsNet = "alex" if lpips == "alex" else "vgg" if lpips == "vgg" else "squeeze"
        distance = load_lpips(net)
    elif pairs and squeezenet is not None:
        distance = SqueezeNetDistance(squeezenet)
    return Means(extractors=extractors, pair_distance=distance, pairs=pairs, seed=seed)


def parse_system(text: str) -> Given:
    """FOLDER or NAME=FOLDER, where FOLDER may end with a pattern; a folder that exists is never taken apart."""
    name, separator, rest = text.partition("=")
    if not separator or not name or not rest or Path(text).is_dir():
        name, rest = "", text
    folder, pattern = Path(rest), None
    if not folder.is_dir() and any(char in folder.name for char in "*?["):
        folder, pattern = folder.parent, folder.name
    return Given(name or Path(os.path.abspath(folder)).name or "results", folder, pattern)


def check_systems(systems: Sequence[Given]) -> None:
    """Raises InputError for two systems of one name: tables could not tell them apart. And for a file."""
    file = next((system.folder for system in systems if system.folder.is_file()), None)
    if file is not None:
        raise InputError(f"{file} is a file", "Pass folders of results, or a pattern in quotes: 'out/*_fake_B.png'.")
    names = [system.name for system in systems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two systems are called {twice}", "Name them: munit=FOLDER ours=OTHER/FOLDER.")


def evaluate(source: Source, means: Means, say: Notify) -> Report:
    """Measures every system of `source`. Raises InputError for folders and images that cannot be used."""
    seen: list[str] = []
    reference = look_through(source.reference, "the reference folder", seen)
    contents = [] if source.content is None else look_through(source.content, "the content folder", seen)
    training = [] if source.training is None else look_through(source.training, "the source folder", seen)
    found = [read_results(system.name, system.folder, contents, system.pattern) for system in source.systems]
    seen += [line for one in found for line in one.left_out]
    for line in seen:
        say(line)
    folders, left_out = comparable(found, len(contents))
    _check_counts(folders, reference)
    evaluator = make_evaluator(reference, means, contents, training, say)
    judged = [
        evaluator.judge(folder, _left_out(folder, all_of_it)) for folder, all_of_it in zip(folders, found, strict=True)
    ]
    used = sorted({r.content for folder in folders for r in folder.results if r.content is not None})
    systems = [one.system for one in judged]
    if used:
        untranslated = [contents[i] for i in used]
        systems.append(evaluator.baseline("untranslated", untranslated, "The contents as they are."))
    names = [path.stem for path in contents]
    return Report(
        title="Results compared" if len(judged) > 1 else f"Results of {judged[0].system.name}",
        facts={
            "systems": "; ".join(_fact(system, folder) for system, folder in zip(source.systems, folders, strict=True)),
            "reference": f"{source.reference}: {len(reference)} images of {usual_size(reference)}",
            "contents": f"{source.content}: {len(used)} of {len(contents)}" if used else "not given",
            **facts(means),
        },
        systems=tuple(systems),
        grids=(
            *side_by_side(judged, contents, names),
            *(grid for one in judged for grid in worst(one, contents, names)),
        ),
        notes=(
            *notes(means, evaluator),
            *few(min(len(folder.results) for folder in folders), len(reference)),
            *unequal(systems),
            *left_out,
            *doubts(judged, contents, reference),
            *missing(means, systems),
            *(f"{line}." for line in dict.fromkeys(seen)),
        ),
        raw={"results": {one.system.name: single_scores(one, names) for one in judged}},
    )


def make_evaluator(
    reference: Sequence[Path],
    means: Means,
    contents: Sequence[Path],
    source: Sequence[Path],
    say: Notify,
    side: int | None = None,
) -> Evaluator:
    """An evaluator that shows how far it is, and keeps the features of whole folders for the next time."""
    cache = FeatureCache(user_cache_folder() / "features")
    evaluator = Evaluator(
        reference, means, contents=contents, source=source, say=say, side=side, progress=progress, cache=cache
    )
    if cache.problem:
        say(f"features cannot be kept for the next evaluation: {cache.problem}")
    return evaluator


def facts(means: Means) -> dict[str, str]:
    """What a reader must know to repeat the numbers."""
    told = {"features": "; ".join(extractor.name for extractor in means.extractors)}
    if means.pair_distance is not None:
        told["diversity"] = f"{means.pair_distance.name}, {means.pairs} pairs of results of each content"
    return told | {"seed": str(means.seed)}


def notes(means: Means, evaluator: Evaluator) -> list[str]:
    """What holds for every number."""
    told = [
        f"Distances on {extractor.name} are NOT comparable with published FID and KID: compare the systems here alone."
        for extractor in means.extractors
        if not extractor.published
    ]
    if evaluator.classifier is not None:
        told.append(evaluator.classifier.reliability)
    return told


def single_scores(judged: Judged, names: Sequence[str], folder: Path | None = None) -> list[dict[str, object]]:
    """Every result with its scores, for JSON. `names`: of the contents; `folder`: paths are told relative to it."""
    return [
        {
            "path": (result.path if folder is None else result.path.relative_to(folder)).as_posix(),
            "content": None if result.content is None else names[result.content],
            "style": result.style,
        }
        | {key: None if np.isnan(score[i]) else round(float(score[i]), 4) for key, score in judged.scores.items()}
        for i, result in enumerate(judged.results)
    ]


def _check_counts(folders: Sequence[ResultFolder], reference: Sequence[Path]) -> None:
    """Told before the features of thousands of images are computed."""
    for what, count in (("reference images", len(reference)), ("results", min(len(f.results) for f in folders))):
        if count < 2:
            raise InputError(
                f"a distance between sets of images needs two {what} or more, got {count}",
                "Pass a folder with more images; a few hundred make the distance mean something.",
            )
    for folder in folders:
        known = {result.content for result in folder.results}
        if len(known) == 1 and None not in known:
            raise InputError(
                f"all results of {folder.name} that can be compared are of one content",
                "Pass results of two contents or more, and more of the other systems.",
            )


def _left_out(folder: ResultFolder, whole: ResultFolder) -> list[Result]:
    """Results of the same contents in more styles than every system has: they say how diverse this one is."""
    compared = {result.path for result in folder.results}
    contents = {result.content for result in folder.results} - {None}
    return [result for result in whole.results if result.content in contents and result.path not in compared]


def _fact(system: Given, folder: ResultFolder) -> str:
    where = system.folder if system.pattern is None else system.folder / system.pattern
    paths = [result.path for result in folder.results]
    return f"{system.name}: {where}, {len(paths)} results of {usual_size(paths)}"
