"""Images of an evaluation in rows and columns: results side by side, and the worst of a system."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb, resize_shorter_side
from dsmap.common.sampling import even_indices
from dsmap.metrics.catalogue import METRICS
from dsmap.metrics.evaluate import Judged
from dsmap.metrics.findings import Grid, Image
from dsmap.metrics.results import Result, ResultFolder

SHOWN = 256  # shorter side of an image on the page
_ROWS, _COLUMNS, _WORST, _WORST_COLUMNS = 8, 6, 10, 5
_LONGEST = 24  # characters of a label
_OF_ONE = {"target_score": "probability of the target"}
"""What a metric is called for one image, where its title is that of a share."""


def shown(image: Path | Image) -> Image:
    """An image at the size of the page."""
    rgb = read_rgb(image, at_least=SHOWN) if isinstance(image, Path) else image
    return resize_shorter_side(rgb, SHOWN) if min(rgb.shape[:2]) > SHOWN else rgb


def label(name: str) -> str:
    """`name`, without its middle where it is long."""
    if len(name) <= _LONGEST:
        return name
    end = _LONGEST // 3
    return f"{name[: _LONGEST - end - 1]}…{name[-end:]}"


def worst(judged: Judged, contents: Sequence[Path], names: Sequence[str]) -> list[Grid]:
    """The worst results below their contents, the worst first; `names` are those of the contents. No grid where the
    results have no scores of their own.
    """
    chosen = judged.worst(_WORST)
    if not chosen:
        return []
    columns = len(chosen) if len(chosen) <= _WORST_COLUMNS else (len(chosen) + 1) // 2
    rows: list[str] = []
    cells: list[tuple[Image | None, ...]] = []
    captions: list[tuple[str, ...]] = []
    for start in range(0, len(chosen), columns):
        places = chosen[start : start + columns]
        results = [judged.results[i] for i in places]
        gap = (None,) * (columns - len(places))
        known = [None if result.content is None else result.content for result in results]
        if any(number is not None for number in known):
            rows.append("content")
            cells.append((*(None if n is None else shown(contents[n]) for n in known), *gap))
            captions.append((*("" if n is None else label(names[n]) for n in known), *("" for _ in gap)))
        rows.append("result")
        cells.append((*(shown(result.path) for result in results), *gap))
        captions.append((*(_caption(judged, i) for i in places), *("" for _ in gap)))
    grid = Grid(
        title=f"{judged.system.name}: the worst {len(chosen)}",
        rows=tuple(rows),
        columns=("",) * columns,
        cells=tuple(cells),
        captions=tuple(captions),
        text="By the mean rank of their scores, SSIM left out; the worst first.",
    )
    return [grid]


def side_by_side(judged: Sequence[Judged], contents: Sequence[Path], names: Sequence[str]) -> list[Grid]:
    """The same contents with the results of every system; of a single system in several styles, in these. Some results
    of the systems whose contents are not known.
    """
    known = [one for one in judged if any(result.content is not None for result in one.results)]
    unknown = [one for one in judged if one not in known]
    grids = [_of_contents(known, contents, names)] if known else []
    return [*grids, _first_images(unknown)] if unknown else grids


def _of_contents(judged: Sequence[Judged], contents: Sequence[Path], names: Sequence[str]) -> Grid:
    by_content = [ResultFolder(name=one.system.name, results=one.results).of_content() for one in judged]
    found = by_content[0]
    chosen = [list(found)[i] for i in even_indices(len(found), _ROWS)]
    rows: list[list[Result | None]]
    if len(judged) == 1:
        picked = even_indices(max(len(found[content]) for content in chosen), _COLUMNS)
        rows = [[found[content][i] if i < len(found[content]) else None for i in picked] for content in chosen]
        columns = [[result for result in column if result is not None] for column in zip(*rows, strict=True)]
        labels = ["content", *(_label_of(column, place) for place, column in zip(picked, columns, strict=True))]
        title, text = "Contents and their results", ""
    else:
        rows = [[of_system[content][0] for of_system in by_content] for content in chosen]
        labels = ["content", *(label(one.system.name) for one in judged)]
        title, text = "Side by side", "Of every system the first result of the content."
    cells = [
        (shown(contents[content]), *(None if result is None else shown(result.path) for result in row))
        for content, row in zip(chosen, rows, strict=True)
    ]
    row_labels = tuple(label(names[content]) for content in chosen)
    return Grid(title=title, rows=row_labels, columns=tuple(labels), cells=tuple(cells), text=text)


def _label_of(column: Sequence[Result], place: int) -> str:
    """The style of all its results, where it is one."""
    styles = {result.style for result in column}
    return label(styles.pop()) if len(styles) == 1 and "" not in styles else f"result {place + 1}"


def _first_images(judged: Sequence[Judged]) -> Grid:
    """Some results of every system."""
    count = min(_COLUMNS, *(len(one.results) for one in judged))
    cells = [tuple(shown(one.results[i].path) for i in even_indices(len(one.results), count)) for one in judged]
    names = tuple(label(one.system.name) for one in judged)
    return Grid(
        title="Results",
        rows=names,
        columns=("",) * count,
        cells=tuple(cells),
        text="Some of each system, evenly spread: no name says which content they are of.",
    )


def _caption(judged: Judged, number: int) -> str:
    result = judged.results[number]
    name = label(result.path.stem) if result.content is None else result.style and f"style {label(result.style)}"
    scores = [
        f"{_OF_ONE.get(key, METRICS[key].title)} {score[number]:.2f}"
        for key, score in judged.scores.items()
        if not np.isnan(score[number])
    ]
    return ", ".join([name, *scores] if name else scores)
