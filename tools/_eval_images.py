"""Folders of results, of one system or several, as one report; and what that shares with the report of a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsmap.data import resize_shorter_side
from dsmap.errors import InputError
from dsmap.images import read_picture_rgb
from dsmap.metrics.catalogue import METRICS
from dsmap.metrics.evaluate import Evaluator, Judged, Means
from dsmap.metrics.extractors import LpipsNet, PairDistance, SqueezeNet, SqueezeNetDistance, load_extractor, load_lpips
from dsmap.metrics.findings import Grid, Picture, Report
from dsmap.metrics.results import Result, ResultFolder, comparable, find_pictures, read_results

Say = Callable[[str], None]

SHOWN = 256  # shorter side of a picture on the page
_ROWS, _COLUMNS, WORST = 8, 6, 10
_LPIPS = ("alex", "vgg", "squeeze")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the pictures of an evaluation of folders are."""

    systems: tuple[tuple[str, Path], ...]
    """(name, folder of results)."""
    reference: Path
    content: Path | None = None
    training: Path | None = None
    """Training pictures of the domain that the contents are of, for the classifier."""


def load_means(features: Sequence[Path], lpips: str | None, *, pairs: int, seed: int) -> Means:
    """What to measure with. Raises InputError without a feature network, for a file that is none, for two of a kind."""
    if not features:
        raise InputError(
            "no feature network was passed",
            "Pass --features with an .npz of SqueezeNet v1.0 or the TorchScript file inception-2015-12-05.pt.",
        )
    if lpips is not None and lpips not in _LPIPS:
        raise InputError(f"no LPIPS network named {lpips!r}", f"Known ones: {', '.join(_LPIPS)}.")
    extractors = tuple(load_extractor(path) for path in features)
    if len({e.key for e in extractors}) < len(extractors):
        raise InputError("two feature networks of one kind were passed", "Pass one SqueezeNet, one Inception, or both.")
    squeezenet = next((e for e in extractors if isinstance(e, SqueezeNet)), None)
    distance: PairDistance | None = None
    if pairs and lpips is not None:
        net: LpipsNet = "alex" if lpips == "alex" else "vgg" if lpips == "vgg" else "squeeze"
        distance = load_lpips(net)
    elif pairs and squeezenet is not None:
        distance = SqueezeNetDistance(squeezenet)
    return Means(extractors=extractors, pair_distance=distance, pairs=pairs, seed=seed)


def parse_system(text: str) -> tuple[str, Path]:
    """(name, folder) of FOLDER or NAME=FOLDER; a folder that exists is never taken apart."""
    name, separator, folder = text.partition("=")
    if separator and name and folder and not Path(text).is_dir():
        return name, Path(folder)
    return Path(text).resolve().name, Path(text)


def check_systems(systems: Sequence[tuple[str, Path]]) -> None:
    """Raises InputError for two systems of one name: tables could not tell them apart."""
    names = [name for name, _ in systems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two systems are called {twice}", "Name them: munit=FOLDER ours=OTHER/FOLDER.")


def evaluate(source: Source, means: Means, say: Say) -> Report:
    """Measures every system of `source`. Raises InputError for folders and pictures that cannot be used."""
    check_systems(source.systems)
    reference = find_pictures(source.reference, "the reference folder")
    contents = [] if source.content is None else find_pictures(source.content, "the content folder")
    training = [] if source.training is None else find_pictures(source.training, "the source folder")
    folders = [read_results(name, folder, contents) for name, folder in source.systems]
    folders, left_out = comparable(folders, len(contents))
    evaluator = Evaluator(reference, means, contents=contents, source=training, say=say)
    judged = [evaluator.judge(folder) for folder in folders]
    shown = _shared_contents(folders)
    baselines = []
    if shown:
        untranslated = [contents[i] for i in sorted(shown)]
        baselines.append(evaluator.baseline("untranslated", untranslated, "The contents as they are."))
    return Report(
        title="Results compared" if len(judged) > 1 else f"Results of {judged[0].system.name}",
        facts={
            "systems": ", ".join(f"{name}: {folder}" for name, folder in source.systems),
            "reference": f"{source.reference}, {len(reference)} pictures",
            "contents": f"{source.content}, {len(shown)} of {len(contents)} compared" if contents else "not given",
            **facts(means),
        },
        systems=(*baselines, *(one.system for one in judged)),
        grids=(*_side_by_side(judged, contents), *(worst(one, contents) for one in judged)),
        notes=(*notes(means, evaluator), *left_out, *_missing(means, contents, training)),
        raw={"results": {one.system.name: single_scores(one) for one in judged}},
    )


def facts(means: Means) -> dict[str, str]:
    """What a reader must know to repeat the numbers."""
    told = {"features": "; ".join(extractor.name for extractor in means.extractors)}
    if means.pair_distance is not None:
        told["diversity"] = f"{means.pair_distance.name}, {means.pairs} pairs of each content"
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


def single_scores(judged: Judged) -> list[dict[str, object]]:
    """Every result with its scores, for JSON."""
    return [
        {"path": str(result.path), "style": result.style}
        | {key: None if np.isnan(score[i]) else round(float(score[i]), 4) for key, score in judged.scores.items()}
        for i, result in enumerate(judged.results)
    ]


def worst(judged: Judged, contents: Sequence[Path], count: int = WORST) -> Grid:
    """The worst results beside their contents, the worst first."""
    chosen = judged.worst(count)
    rows, cells, captions = [], [], []
    for i in chosen:
        result = judged.results[i]
        scores = (
            f"{METRICS[key].title} {score[i]:.2f}" for key, score in judged.scores.items() if not np.isnan(score[i])
        )
        rows.append(result.path.stem)
        cells.append((None if result.content is None else shown(contents[result.content]), shown(result.path)))
        captions.append(("", ", ".join(scores)))
    return Grid(
        title=f"{judged.system.name}: the worst {len(chosen)}",
        rows=tuple(rows),
        columns=("content", "result"),
        cells=tuple(cells),
        captions=tuple(captions),
        text="By the mean rank of their scores, the worst first." if chosen else "No result has scores of its own.",
    )


def shown(picture: Path | Picture) -> Picture:
    """A picture at the size of the page."""
    rgb = read_picture_rgb(picture, at_least=SHOWN) if isinstance(picture, Path) else picture
    return resize_shorter_side(rgb, SHOWN) if min(rgb.shape[:2]) > SHOWN else rgb


def evenly(count: int, most: int) -> list[int]:
    """At most `most` numbers out of `count`, evenly spread."""
    return [i * count // min(count, most) for i in range(min(count, most))]


def _shared_contents(folders: Sequence[ResultFolder]) -> list[int]:
    return sorted({r.content for r in folders[0].results if r.content is not None})


def _side_by_side(judged: Sequence[Judged], contents: Sequence[Path]) -> list[Grid]:
    """The same contents with the results of every system; of a single system in several styles, in these."""
    by_content = [ResultFolder(name=one.system.name, results=one.results).of_content() for one in judged]
    if not by_content[0]:
        return [_first_pictures(judged)]
    chosen = [list(by_content[0])[i] for i in evenly(len(by_content[0]), _ROWS)]
    if len(judged) == 1:
        found = by_content[0]
        columns = max(len(found[content]) for content in chosen)
        picked = evenly(columns, _COLUMNS)
        labels = ["content", *(str(i + 1) for i in picked)]
        rows: list[list[Result | None]] = [
            [found[content][i] if i < len(found[content]) else None for i in picked] for content in chosen
        ]
        title, text = f"{judged[0].system.name}: contents and their results", ""
    else:
        labels = ["content", *(one.system.name for one in judged)]
        rows = [[found[content][0] for found in by_content] for content in chosen]
        title, text = "Side by side", "Of every system the first result of the content."
    cells = [
        (shown(contents[content]), *(None if result is None else shown(result.path) for result in row))
        for content, row in zip(chosen, rows, strict=True)
    ]
    names = tuple(contents[content].stem for content in chosen)
    return [Grid(title=title, rows=names, columns=tuple(labels), cells=tuple(cells), text=text)]


def _first_pictures(judged: Sequence[Judged]) -> Grid:
    """Some results of every system, where no contents are known."""
    count = min(_COLUMNS, *(len(one.results) for one in judged)) if len(judged) > 1 else _COLUMNS
    cells = []
    for one in judged:
        pictures = [shown(one.results[i].path) for i in evenly(len(one.results), count)]
        cells.append(tuple(pictures + [None] * (count - len(pictures))))
    names = tuple(one.system.name for one in judged)
    return Grid(title="Results", rows=names, columns=tuple(str(i + 1) for i in range(count)), cells=tuple(cells))


def _missing(means: Means, contents: Sequence[Path], training: Sequence[Path]) -> list[str]:
    told = []
    if not contents:
        told.append("What is kept of the contents and diversity are not measured: they need --content.")
    if not training:
        told.append("No classifier was fitted: it needs --source, training pictures of the contents' domain.")
    if means.squeezenet is None:
        told.append("Feature similarity, and a classifier, need a SqueezeNet .npz among --features.")
    return told
