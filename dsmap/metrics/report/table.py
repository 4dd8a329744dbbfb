"""Reports as tables for the terminal and as JSON values."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dsmap import __version__
from dsmap.common.text import printable
from dsmap.metrics.types import Metric, MetricValue, Report, System

READING = {"lower": "lower is better", "higher": "higher is better", "neither": ""}
MISSING = "-"

# In columns of the terminal: widths to try for row labels, the second if it saves a table; the minimum for a title.
_LABEL_WIDTHS, _MIN_TITLE = (40, 24), 16
_BETWEEN = 2


class Cell(NamedTuple):
    """A value and its interval as text; "" if there is none."""

    value: str
    interval: str = ""


def table(report: Report, *, width: int = 100) -> str:
    """The numbers for people, in lines of at most `width` columns if names allow it.

    What they say comes first, then one row per system, baselines last; or one per metric if that fits better; or
    several tables if neither fits. Notes follow.
    """
    metrics, systems = all_metrics(report), sorted_systems(report)
    as_lines = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    lines = [printable(report.title), *([as_lines.fill(printable(report.verdict))] if report.verdict else []), ""]
    if metrics and systems:
        lines += [_numbers_table(metrics, systems, width), ""]
    else:
        lines += ["Nothing was measured.", ""]
    if any(measured.interval for system in systems for measured in system.measured):
        lines.append("In brackets: 95 % confidence intervals.")
    notes = [printable(note) for note in report.notes]
    notes += [f"{printable(system.name)}: {printable(note)}" for system in systems for note in system.notes]
    lines += [as_lines.fill(note) for note in notes]
    return "\n".join(lines).rstrip()


def numbers(report: Report) -> dict[str, Any]:
    """The whole report as JSON values. Numbers are not rounded; those that are not finite are null.

    dsmap         the version that measured
    title         text
    verdict       text: what the numbers say ("" if they do not decide anything)
    facts         label -> text: what was compared
    notes         texts: what a reader must know about all numbers
    systems       a list, in the order of the report:
      name, baseline (true: not a system but images to compare with), notes
      metrics     key -> value, low and high (of the 95 % interval; null without one), count (number of images or
                  pairs), better ("lower", "higher" or "neither"). Metrics that were not measured are missing.
    definitions   key -> title, better, definition
    raw           what the measuring command adds, such as the scores of single images
    """
    return {
        "dsmap": __version__,
        "title": report.title,
        "verdict": report.verdict,
        "facts": dict(report.facts),
        "notes": list(report.notes),
        "systems": [
            {
                "name": system.json_name,
                "baseline": system.baseline,
                "notes": list(system.notes),
                "metrics": {measured.metric.key: _as_numbers(measured) for measured in system.measured},
            }
            for system in report.systems
        ],
        "definitions": {
            metric.key: {"title": metric.title, "better": metric.better, "definition": metric.definition}
            for metric in all_metrics(report)
        },
        "raw": _json_value(report.raw),
    }


def all_metrics(report: Report) -> list[Metric]:
    """The metrics of all systems, one per key, in order of first occurrence."""
    found: dict[str, Metric] = {}
    for system in report.systems:
        for measured in system.measured:
            found.setdefault(measured.metric.key, measured.metric)
    return list(found.values())


def sorted_systems(report: Report) -> list[System]:
    """The systems, then the baselines."""
    return sorted(report.systems, key=lambda system: system.baseline)


def find_value(system: System, metric: Metric) -> MetricValue | None:
    """The value of `metric` for `system`; None if it was not measured."""
    return next((measured for measured in system.measured if measured.metric.key == metric.key), None)


def format_value(number: float, metric: Metric) -> str:
    """`number` with the metric's digits, never "-0.00"."""
    return f"{round(number, metric.digits) + 0.0:.{metric.digits}f}"


def cell(measured: MetricValue | None) -> Cell:
    """The text of a table cell for `measured`."""
    if measured is None:
        return Cell(MISSING)
    value = format_value(measured.value, measured.metric)
    if measured.interval is None:
        return Cell(value)
    low, high = (format_value(end, measured.metric) for end in measured.interval)
    return Cell(value, f"[{low}, {high}]")


def metrics_as_rows(metrics: Sequence[Metric], systems: Sequence[System]) -> bool:
    """Whether a table is easier to read with metrics in rows."""
    return len(metrics) > len(systems)


def best(metric: Metric, systems: Sequence[System]) -> set[int]:
    """Places in `systems` of the best value as it is shown; none where there are not two values to choose from."""
    found = {
        place: measured
        for place, system in enumerate(systems)
        if (measured := find_value(system, metric)) and not system.baseline and math.isfinite(measured.value)
    }
    values = {place: round(measured.value, metric.digits) for place, measured in found.items()}
    if metric.better == "neither" or len(set(values.values())) < 2:
        return set()
    if metric.falls_with_count and len({measured.count for measured in found.values()}) > 1:
        return set()
    top = min(values.values()) if metric.better == "lower" else max(values.values())
    return {place for place, value in values.items() if value == top}


def overlaps(metric: Metric, systems: Sequence[System], top: set[int]) -> bool:
    """Whether the interval of a system among `top` overlaps that of another system."""
    intervals = {
        place: measured.interval
        for place, system in enumerate(systems)
        if (measured := find_value(system, metric)) and measured.interval and not system.baseline
    }
    return any(
        first != other and interval.low <= intervals[first].high and intervals[first].low <= interval.high
        for first in top & intervals.keys()
        for other, interval in intervals.items()
    )


def _as_numbers(measured: MetricValue) -> dict[str, Any]:
    low, high = measured.interval or (None, None)
    return {
        "value": _json_value(measured.value),
        "low": _json_value(low),
        "high": _json_value(high),
        "count": int(measured.count),
        "better": measured.metric.better,
    }


def _json_value(value: Any) -> Any:
    """`value` with NumPy's numbers as Python's, and None for what JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return _json_value(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers_table(metrics: list[Metric], systems: list[System], width: int) -> str:
    """The table without notes, turned so that it fits `width`."""
    names = [printable(system.name) + (" (baseline)" if system.baseline else "") for system in systems]
    titles = [list(filter(None, (printable(metric.title), READING[metric.better]))) for metric in metrics]
    cells = [[cell(find_value(system, metric)) for metric in metrics] for system in systems]
    apart = sum(not system.baseline for system in systems)
    turned_cells = [list(column) for column in zip(*cells, strict=True)]
    upright = _fewest(list(map("\n".join, titles)), names, cells, width, apart)
    turned = _fewest(names, list(map(", ".join, titles)), turned_cells, width)
    choices = [turned, upright] if metrics_as_rows(metrics, systems) else [upright, turned]
    return "\n\n".join(next((tables for tables in choices if len(tables) == 1), upright))


def _fewest(columns: list[str], rows: list[str], cells: list[list[Cell]], width: int, apart: int = 0) -> list[str]:
    """The table, split between columns if it is too wide; a line before the row `apart`."""
    choices = (_tables(columns, [_wrapped(row, most) for row in rows], cells, width, apart) for most in _LABEL_WIDTHS)
    return min(choices, key=len)


def _tables(columns: list[str], labels: list[str], cells: list[list[Cell]], width: int, apart: int) -> list[str]:
    texts = [_aligned(column) for column in zip(*cells, strict=True)]
    headers = [
        _wrapped(header, max(_MIN_TITLE, _widest(column))) for header, column in zip(columns, texts, strict=True)
    ]
    widths = [_widest([header, *column]) for header, column in zip(headers, texts, strict=True)]
    blocks: list[list[int]] = []
    room = 0
    for number, own in enumerate(widths):
        room -= own + _BETWEEN
        if not blocks or room < 0:
            blocks.append([])
            room = width - _widest(labels) - own - _BETWEEN
        blocks[-1].append(number)
    return [_drawn(labels, [headers[n] for n in block], [texts[n] for n in block], apart) for block in blocks]


def _drawn(labels: list[str], headers: list[str], texts: list[list[str]], apart: int) -> str:
    """One table. rich knows how wide the characters of all scripts are."""
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    line = "    \n"
    box = Box(line + line + " -- \n" + line + " -- \n" + line * 3, ascii=True)  # lines below the header and a section
    drawn = Table(box=box, show_edge=False, pad_edge=False, padding=(0, _BETWEEN - 1, 0, 0))
    for header in ("", *headers):
        drawn.add_column(Text(header), no_wrap=True, vertical="top")
    for number, (label, row) in enumerate(zip(labels, zip(*texts, strict=True), strict=True), start=1):
        drawn.add_row(Text(label), *(Text(text) for text in row), end_section=number == apart)
    console = Console(width=10_000, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(text.rstrip() for text in capture.get().rstrip().splitlines())


def _aligned(column: Sequence[Cell]) -> list[str]:
    """Aligned texts: values end, and intervals begin, in the same column."""
    most = max(len(cell.value) for cell in column)
    return [f"{cell.value:>{most}} {cell.interval}".rstrip() for cell in column]


def _wrapped(text: str, width: int) -> str:
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""])


def _widest(texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for text in texts for line in text.split("\n"))
