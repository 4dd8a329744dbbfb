"""Grids of a model's translations: contents against styles, and the way from one style to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsmap.common.images import read_rgb
from dsmap.common.sampling import even_indices
from dsmap.metrics.report.grids import shorten, thumbnail
from dsmap.metrics.types import Grid, Image
from dsmap.runtime.backends.base import Codes
from dsmap.runtime.translator import Translator
from dsmap.training.datasets import Domain

_ROWS, _EXEMPLARS, _STEPS, _STRIP_ROWS = 6, 4, 7, 3


@dataclass(frozen=True, kw_only=True)
class ModelDirection:
    """One direction of a model, and the images that it is evaluated on."""

    translator: Translator
    source: Domain
    target: Domain
    contents: tuple[Path, ...]
    """The images that are translated, copied at the size of the evaluation."""
    names: tuple[str, ...]
    """The original names of the contents."""
    styles: tuple[Path, ...]
    """Images of the target domain whose styles are used."""
    folder: Path
    """Where translations are written."""


def style_grid(direction: ModelDirection, codes: Sequence[Codes]) -> Grid:
    """Contents in rows, styles in columns; the first row shows the images whose styles these are."""
    translator = direction.translator
    styles = even_indices(len(codes), _EXEMPLARS)
    named = translator.bundle.manifest.styles[direction.target.name].named
    first = "mean style" if translator.bundle.manifest.has_styles else "translation"
    columns: list[tuple[str, Codes, Image | None]] = [(first, translator.find_style(None), None)]
    columns += [(name, np.array(code, np.float32), None) for name, code in named.items()]
    columns += [(shorten(direction.styles[i].stem), codes[i], thumbnail(direction.styles[i])) for i in styles]
    rows = even_indices(len(direction.contents), _ROWS)
    cells: list[tuple[Image | None, ...]] = [(None, *(lends for _, _, lends in columns))]
    for i in rows:
        frame_rgb = read_rgb(direction.contents[i])
        cells.append(
            (thumbnail(frame_rgb), *(thumbnail(translator.submit(frame_rgb, code)()) for _, code, _ in columns))
        )
    return Grid(
        title="Contents and styles",
        rows=("style", *(shorten(direction.names[i]) for i in rows)),
        columns=("content", *(name for name, _, _ in columns)),
        cells=tuple(cells),
        text="Each row is a content, each column a style; the first row shows the images whose styles these are.",
    )


def interpolation_grid(direction: ModelDirection, codes: Sequence[Codes]) -> Grid:
    """A few contents in styles mixed linearly between the two that lie furthest apart."""
    codes_ns = np.stack(codes)
    apart = ((codes_ns[:, None] - codes_ns[None]) ** 2).sum(2)
    start, end = np.unravel_index(apart.argmax(), apart.shape)
    shares = np.linspace(0, 1, _STEPS)
    rows = even_indices(len(direction.contents), _STRIP_ROWS)
    cells = []
    for i in rows:
        frame_rgb = read_rgb(direction.contents[i])
        mixed = [((1 - share) * codes_ns[start] + share * codes_ns[end]).astype(np.float32) for share in shares]
        cells.append(tuple(thumbnail(direction.translator.submit(frame_rgb, code)()) for code in mixed))
    return Grid(
        title="From one style to another",
        rows=tuple(shorten(direction.names[i]) for i in rows),
        columns=tuple(f"{share:.0%}" for share in shares),
        cells=tuple(cells),
        text=f"Mixed linearly from the style of {direction.styles[start].stem} to that of {direction.styles[end].stem},"
        " the two that lie furthest apart.",
    )
