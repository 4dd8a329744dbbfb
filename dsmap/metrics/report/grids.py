"""Grids of images for a report: results side by side, and the worst results of a system."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb, resize_shorter_side
from dsmap.common.sampling import even_indices
from dsmap.metrics.catalogue import METRICS
from dsmap.metrics.evaluator import Evaluation
from dsmap.metrics.result_folders import ResultFolder, ResultImage
from dsmap.metrics.types import Grid, Image

THUMBNAIL_SIDE = 256  # pixels of the shorter side
_ROWS, _COLUMNS, _WORST, _WORST_COLUMNS = 8, 6, 10, 5
_MAX_NAME = 24  # characters of a label
_OF_ONE = {"target_score": "probability of the target"}
"""Titles of metrics for a single image, where the usual title names a share of images."""


def thumbnail(image: Path | Image) -> Image:
    """`image`, shrunk to a shorter side of at most `THUMBNAIL_SIDE`."""
    rgb = read_rgb(image, at_least=THUMBNAIL_SIDE) if isinstance(image, Path) else image
    return resize_shorter_side(rgb, THUMBNAIL_SIDE) if min(rgb.shape[:2]) > THUMBNAIL_SIDE else rgb


def shorten(name: str) -> str:
    """`name`, with an ellipsis in place of its middle where it is long."""
    if len(name) <= _MAX_NAME:
        return name
    end = _MAX_NAME // 3
    return f"{name[: _MAX_NAME - end - 1]}…{name[-end:]}"


def worst_results(evaluation: Evaluation, contents: Sequence[Path], names: Sequence[str]) -> list[Grid]:
    """The worst results below their contents, the worst first; none where single results have no scores.

    `names` are those of the contents.
    """
    chosen = evaluation.worst(_WORST)
    if not chosen:
        return []
    columns = len(chosen) if len(chosen) <= _WORST_COLUMNS else (len(chosen) + 1) // 2
    rows: list[str] = []
    cells: list[tuple[Image | None, ...]] = []
    captions: list[tuple[str, ...]] = []
    for start in range(0, len(chosen), columns):
        places = chosen[start : start + columns]
        results = [evaluation.results[i] for i in places]
        gap = (None,) * (columns - len(places))
        known = [None if result.content is None else result.content for result in results]
        if any(number is not None for number in known):
            rows.append("content")
            cells.append((*(None if n is None else thumbnail(contents[n]) for n in known), *gap))
            captions.append((*("" if n is None else shorten(names[n]) for n in known), *("" for _ in gap)))
        rows.append("result")
        cells.append((*(thumbnail(result.path) for result in results), *gap))
        captions.append((*(_caption(evaluation, i) for i in places), *("" for _ in gap)))
    grid = Grid(
        title=f"{evaluation.system.name}: the worst {len(chosen)}",
        rows=tuple(rows),
        columns=("",) * columns,
        cells=tuple(cells),
        captions=tuple(captions),
        text="By the mean rank of their scores except SSIM, worst first.",
    )
    return [grid]


def side_by_side(evaluations: Sequence[Evaluation], contents: Sequence[Path], names: Sequence[str]) -> list[Grid]:
    """The same contents with the results of every system, or with several styles of a single system.

    Systems whose contents are not known show some results in a grid of their own.
    """
    known = [one for one in evaluations if any(result.content is not None for result in one.results)]
    unknown = [one for one in evaluations if one not in known]
    grids = [_of_contents(known, contents, names)] if known else []
    return [*grids, _first_images(unknown)] if unknown else grids


def _of_contents(evaluations: Sequence[Evaluation], contents: Sequence[Path], names: Sequence[str]) -> Grid:
    by_content = [ResultFolder(name=one.system.name, results=one.results).of_content() for one in evaluations]
    found = by_content[0]
    chosen = [list(found)[i] for i in even_indices(len(found), _ROWS)]
    rows: list[list[ResultImage | None]]
    if len(evaluations) == 1:
        picked = even_indices(max(len(found[content]) for content in chosen), _COLUMNS)
        rows = [[found[content][i] if i < len(found[content]) else None for i in picked] for content in chosen]
        columns = [[result for result in column if result is not None] for column in zip(*rows, strict=True)]
        labels = ["content", *(_label_of(column, place) for place, column in zip(picked, columns, strict=True))]
        title, text = "Contents and their results", ""
    else:
        rows = [[of_system[content][0] for of_system in by_content] for content in chosen]
        labels = ["content", *(shorten(one.system.name) for one in evaluations)]
        title, text = "Side by side", "The first result of each system for the content."
    cells = [
        (thumbnail(contents[content]), *(None if result is None else thumbnail(result.path) for result in row))
        for content, row in zip(chosen, rows, strict=True)
    ]
    row_labels = tuple(shorten(names[content]) for content in chosen)
    return Grid(title=title, rows=row_labels, columns=tuple(labels), cells=tuple(cells), text=text)


def _label_of(column: Sequence[ResultImage], place: int) -> str:
    """The style of a column's results where they share one, else its number."""
    styles = {result.style for result in column}
    return shorten(styles.pop()) if len(styles) == 1 and "" not in styles else f"result {place + 1}"


def _first_images(evaluations: Sequence[Evaluation]) -> Grid:
    """Some results of every system."""
    count = min(_COLUMNS, *(len(one.results) for one in evaluations))
    cells = [
        tuple(thumbnail(one.results[i].path) for i in even_indices(len(one.results), count)) for one in evaluations
    ]
    names = tuple(shorten(one.system.name) for one in evaluations)
    return Grid(
        title="Results",
        rows=names,
        columns=("",) * count,
        cells=tuple(cells),
        text="Some results of each system, evenly spread; their names do not say which content they are of.",
    )


def _caption(evaluation: Evaluation, number: int) -> str:
    result = evaluation.results[number]
    name = shorten(result.path.stem) if result.content is None else result.style and f"style {shorten(result.style)}"
    scores = [
        f"{_OF_ONE.get(key, METRICS[key].title)} {score[number]:.2f}"
        for key, score in evaluation.scores.items()
        if not np.isnan(score[number])
    ]
    return ", ".join([name, *scores] if name else scores)
