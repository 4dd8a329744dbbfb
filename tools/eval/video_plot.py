"""The plot of `dsmap-eval video --plot`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsmap.common.atomic import atomic_write
from dsmap.errors import DsmapError
from dsmap.tools.eval.video import VideoComparison

_Line = tuple[Any, str, str, str, Sequence[float | None]]
"""Axes, label, colour, line style and the value of every pair of frames."""


def draw(comparisons: Sequence[VideoComparison], plot: Path) -> None:
    """Plots change per frame and warping error over time, for a single output its flicker too. Needs no display."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    first, found = comparisons[0], comparisons[0].flicker
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, label, colour, line, values in _lines(comparisons, above, below):
        gaps = [np.nan if number is None else number for number in values]
        marker = "." if len(gaps) < 30 else ""
        axes.plot(first.seconds[1:], gaps, line, color=colour, label=label, linewidth=1.2, marker=marker)
    for axes in (above, below):
        for cut in found.cuts:
            axes.axvline(first.seconds[cut], color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    above.axhline(0, color="black", linewidth=0.6)
    above.set_ylabel("change per frame (grey levels)")
    below.set_ylabel("warping error")
    below.set_ylim(bottom=0)
    below.set_xlabel("seconds" + (" (dotted: cuts)" if found.cuts else ""))
    others = first.output.name if len(comparisons) == 1 else f"{len(comparisons)} translations"
    figure.suptitle(f"{first.source.name} and {others}")
    try:
        with atomic_write(plot) as beside:
            figure.savefig(beside, format=plot.suffix[1:].lower())
    except OSError as error:
        raise DsmapError(f"cannot write {plot}: {error.strerror}", "The numbers are above.") from error


def _lines(comparisons: Sequence[VideoComparison], above: Any, below: Any) -> Iterator[_Line]:
    pairs = comparisons[0].flicker.pairs
    yield above, "IN", "tab:grey", "-", [pair.input and pair.input.change for pair in pairs]
    yield below, "IN", "tab:grey", "-", [pair.input and pair.input.warping_error for pair in pairs]
    for number, comparison in enumerate(comparisons):
        found, colour = comparison.flicker, f"C{number}"
        alone = len(comparisons) == 1
        name = "OUT" if alone else comparison.name
        label = name if alone else f"{name}, mean flicker {found.flicker:+.2f}"
        yield above, label, colour, "-", [pair.output and pair.output.change for pair in found.pairs]
        yield below, name, colour, "-", [pair.output and pair.output.warping_error for pair in found.pairs]
        if alone:
            yield above, f"flicker (mean {found.flicker:+.2f})", "tab:red", "--", [pair.flicker for pair in found.pairs]
