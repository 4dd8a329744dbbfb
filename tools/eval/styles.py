"""What a model makes of contents in several styles, as grids of a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb
from dsmap.common.sampling import even_indices
from dsmap.metrics.findings import Grid, Image
from dsmap.metrics.report.grids import label, shown
from dsmap.runtime.backends.base import Codes
from dsmap.runtime.translator import Translator
from dsmap.training.datasets import Domain

_ROWS, _EXEMPLARS, _STEPS, _STRIP_ROWS = 6, 4, 7, 3


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One direction of a model, and its images."""

    translator: Translator
    source: Domain
    target: Domain
    contents: tuple[Path, ...]
    """As they are translated, in files of their own."""
    names: tuple[str, ...]
    """What the contents were called."""
    styles: tuple[Path, ...]
    """Images of the target domain that lend their styles."""
    folder: Path


def matrix(direction: Direction, codes: Sequence[Codes]) -> Grid:
    """Contents in rows, styles in columns; the images that lend the styles in the first row."""
    translator = direction.translator
    styles = even_indices(len(codes), _EXEMPLARS)
    named = translator.bundle.manifest.styles[direction.target.name].named
    columns: list[tuple[str, Codes, Image | None]] = [("mean style", translator.find_style(None), None)]
    columns += [(name, np.array(code, np.float32), None) for name, code in named.items()]
    columns += [(label(direction.styles[i].stem), codes[i], shown(direction.styles[i])) for i in styles]
    rows = even_indices(len(direction.contents), _ROWS)
    cells: list[tuple[Image | None, ...]] = [(None, *(lends for _, _, lends in columns))]
    for i in rows:
        frame_rgb = read_rgb(direction.contents[i])
        cells.append((shown(frame_rgb), *(shown(translator.submit(frame_rgb, code)()) for _, code, _ in columns)))
    return Grid(
        title="Contents and styles",
        rows=("style", *(label(direction.names[i]) for i in rows)),
        columns=("content", *(name for name, _, _ in columns)),
        cells=tuple(cells),
        text="Each row a content, each column a style; images in the first row lend theirs.",
    )


def strip(direction: Direction, codes: Sequence[Codes]) -> Grid:
    """A few contents on the way from one style to another: the two images' styles that lie furthest apart."""
    codes_ns = np.stack(codes)
    apart = ((codes_ns[:, None] - codes_ns[None]) ** 2).sum(2)
    start, end = np.unravel_index(apart.argmax(), apart.shape)
    shares = np.linspace(0, 1, _STEPS)
    rows = even_indices(len(direction.contents), _STRIP_ROWS)
    cells = []
    for i in rows:
        frame_rgb = read_rgb(direction.contents[i])
        mixed = [((1 - share) * codes_ns[start] + share * codes_ns[end]).astype(np.float32) for share in shares]
        cells.append(tuple(shown(direction.translator.submit(frame_rgb, code)()) for code in mixed))
    return Grid(
        title="From one style to another",
        rows=tuple(label(direction.names[i]) for i in rows),
        columns=tuple(f"{share:.0%}" for share in shares),
        cells=tuple(cells),
        text=f"Between the styles of {direction.styles[start].stem} and {direction.styles[end].stem}, the two that lie"
        " furthest apart, mixed linearly.",
    )
