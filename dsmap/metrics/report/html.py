"""Reports as one self-contained HTML page."""

import base64
import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dsmap import __version__
from dsmap.common.reports import write_text
from dsmap.common.text import printable
from dsmap.metrics.report.html_style import STYLE
from dsmap.metrics.report.table import (
    MISSING,
    READING,
    all_metrics,
    best,
    cell,
    find_value,
    metrics_as_rows,
    overlaps,
    sorted_systems,
)
from dsmap.metrics.report.verdict import decides_nothing
from dsmap.metrics.types import Grid, Image, Metric, MetricValue, Report, System

_LONGER_SIDE, _QUALITY = 256, 88
_TICKS = 4
_MARGIN = 0.08  # of a plot's range, on either side

# Nothing is fetched, whatever a name holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(path: Path, *reports: Report) -> None:
    """Writes the page of `reports` to `path`, atomically. Raises DsmapError."""
    write_text(path, page(*reports), "Check that the folder exists, is writable and has space.")


def page(*reports: Report) -> str:
    """One or several reports as an HTML page that needs no other file, no network and no script.

    Images are embedded as JPEGs of at most 256 pixels a side: about 35 KB per photograph, 3 to 3.5 MB for ten rows of
    ten. Raises ValueError if a grid's labels or captions do not match its cells.
    """
    title = " · ".join(_text(report.title) for report in reports)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            _links("Reports", ((f"report-{number}", report.title) for number, report in enumerate(reports, start=1)))
            if len(reports) > 1
            else "",
            *(_article(report, f"report-{number}") for number, report in enumerate(reports, start=1)),
            f"<footer><p>Made by dsmap-eval {_text(__version__)}.</p></footer>\n</body>\n</html>\n",
        ]
    )


def _article(report: Report, place: str) -> str:
    """A report as an article; `place` is its id, and the prefix of its sections' ids."""
    parts = [
        f'<p class="verdict">{_text(report.verdict)}</p>' if report.verdict else "",
        _facts(report),
        _notes(report),
        _contents(report, place),
        *_of_numbers(report, place),
        *(_grid(grid, f"{place}-grid-{number}") for number, grid in enumerate(report.grids, start=1)),
    ]
    return "\n".join([f'<article id="{place}">\n<h1>{_text(report.title)}</h1>', *filter(None, parts), "</article>"])


def _text(text: str) -> str:
    return html.escape(printable(re.sub(r"\s", " ", text)))


def _facts(report: Report) -> str:
    facts = "".join(f"<dt>{_text(label)}</dt><dd>{_text(fact)}</dd>" for label, fact in report.facts.items())
    return f'<dl class="facts">{facts}</dl>' if facts else ""


def _notes(report: Report) -> str:
    return f'<div class="notes" role="note">{_list(map(_text, report.notes))}</div>' if report.notes else ""


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _contents(report: Report, place: str) -> str:
    names = [("numbers", "Numbers"), ("definitions", "Definitions")] if all_metrics(report) else []
    names += [(f"grid-{number}", grid.title) for number, grid in enumerate(report.grids, start=1)]
    return _links("Contents", ((f"{place}-{name}", title) for name, title in names)) if names else ""


def _links(label: str, places: Iterable[tuple[str, str]]) -> str:
    links = " ".join(f'<a href="#{place}">{_text(title)}</a>' for place, title in places)
    return f'<nav aria-label="{label}">{links}</nav>'


def _of_numbers(report: Report, place: str) -> Iterator[str]:
    """Yields the table, the plots and the definitions."""
    metrics, systems = all_metrics(report), sorted_systems(report)
    notes = [f"{_text(system.name)}: {_text(note)}" for system in systems for note in system.notes]
    if not metrics:
        yield f"<p>Nothing was measured.</p>{_list(notes) if notes else ''}"
        return
    yield f'<section id="{place}-numbers"><h2>Numbers</h2>'
    few = decides_nothing(report.verdict)
    top = {metric.key: set() if few else best(metric, systems) for metric in metrics}
    unsure = {metric.key for metric in metrics if overlaps(metric, systems, top[metric.key])}
    yield _table(metrics, systems, top, unsure)
    legend = ["n: number of images, or of pairs, that a value was computed on."]
    if any(measured.interval for system in systems for measured in system.measured):
        legend.append("In brackets: 95 % confidence intervals.")
    if any(top.values()):
        legend.append("Bold: the best system.")
    if unsure:
        legend.append("† Its interval overlaps that of another system: these images may not decide which is better.")
    yield f'<p class="soft">{" ".join(legend)}</p>'
    yield _list(notes) if notes else ""
    plots = "".join(_plot(metric, systems) for metric in metrics)
    yield f'</section>\n<section class="plots" aria-label="Plots">{plots}</section>'
    yield f'<section id="{place}-definitions"><h2>Definitions</h2>{_definitions(metrics)}</section>'


def _definitions(metrics: Sequence[Metric]) -> str:
    items = "".join(
        f"<dt>{_text(metric.title)}<small>{READING[metric.better]}</small></dt>"
        f"<dd>{_text(metric.definition)} <small>In JSON: <code>{_text(metric.key)}</code></small></dd>"
        for metric in metrics
    )
    return f'<dl class="definitions">{items}</dl>'


def _table(metrics: Sequence[Metric], systems: Sequence[System], top: dict[str, set[int]], unsure: set[str]) -> str:
    """Systems in rows and metrics in columns, or transposed if that reads better."""
    rows = [_name(system) for system in systems]
    counts = {metric.key: _count(metric, systems) for metric in metrics}
    columns = [
        f"{_text(metric.title)}<small>{', '.join(filter(None, (READING[metric.better], counts[metric.key])))}</small>"
        for metric in metrics
    ]
    cells = [
        [
            _cell(
                find_value(system, metric),
                is_best=place in top[metric.key],
                unsure=metric.key in unsure,
                counted=not counts[metric.key],
            )
            for metric in metrics
        ]
        for place, system in enumerate(systems)
    ]
    kinds = ["baseline" if system.baseline else "" for system in systems]
    if metrics_as_rows(metrics, systems):
        rows, columns, cells = columns, rows, [list(row) for row in zip(*cells, strict=True)]
        kinds = [""] * len(metrics)
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{label}</th>{"".join(row)}</tr>'
        for label, row, kind in zip(rows, cells, kinds, strict=True)
    )
    table = f'<table class="numbers"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return _box("Numbers", table)


def _name(system: System) -> str:
    return _text(system.name) + ("<small>baseline</small>" if system.baseline else "")


def _count(metric: Metric, systems: Sequence[System]) -> str:
    """The number of images of all values of the metric, as HTML; "" if it differs."""
    counts = {measured.count for system in systems if (measured := find_value(system, metric))}
    return f"n&nbsp;=&nbsp;{counts.pop()}" if len(counts) == 1 else ""


def _cell(measured: MetricValue | None, *, is_best: bool, unsure: bool, counted: bool) -> str:
    if measured is None:
        return f"<td>{MISSING}</td>"
    value, interval = cell(measured)
    strong = f"<b>{value}</b>{' †' if unsure else ''}" if is_best else value
    below = f"<small>{interval}</small>" if interval else ""
    return f"<td>{strong}{below}{f'<small>n&nbsp;=&nbsp;{measured.count}</small>' if counted else ''}</td>"


def _box(label: str, content: str) -> str:
    """A box that scrolls horizontally, also by keyboard."""
    return f'<div class="box" role="region" tabindex="0" aria-label="{_text(label)}">{content}</div>'


def _plot(metric: Metric, systems: Sequence[System]) -> str:
    """A plot of each system's value as a dot with its interval."""
    found = [(system, measured) for system in systems if (measured := find_value(system, metric))]
    numbers = [
        number
        for _, measured in found
        for number in (measured.value, *(measured.interval or ()))
        if math.isfinite(number)
    ]
    if not numbers:
        return ""
    axis = _Axis.of(numbers, metric)
    rows = "".join(_plot_row(system, measured, axis) for system, measured in found)
    labels = "".join(
        f'<text x="{axis.place(tick)}" y="1.1em" text-anchor="middle">{label}</text>' for tick, label in axis.ticks
    )
    reading = f" <small>{READING[metric.better]}</small>" if READING[metric.better] else ""
    return (
        f"<figure><figcaption>{_text(metric.title)}{reading}</figcaption>"
        f'<div class="plot">{rows}<div></div><div class="track"><svg aria-hidden="true">{labels}</svg></div>'
        "<div>&nbsp;</div></div></figure>"
    )


def _plot_row(system: System, measured: MetricValue, axis: "_Axis") -> str:
    drawn = "".join(
        f'<line class="tick" x1="{axis.place(tick)}" x2="{axis.place(tick)}" y1="0" y2="100%"/>'
        for tick, _ in axis.ticks
    )
    if measured.interval and all(map(math.isfinite, measured.interval)):
        low, high = map(axis.place, measured.interval)
        drawn += f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
        drawn += "".join(f'<rect x="{end}" y="50%" width="2" height="10"/>' for end in (low, high))
    if math.isfinite(measured.value):
        drawn += f'<circle cx="{axis.place(measured.value)}" cy="50%" r="4.5"/>'
    value, interval = cell(measured)
    said = _text(f"{system.name}: {value} {interval}".rstrip())
    kind = "baseline" if system.baseline else ""
    return (
        f'<div class="{kind}">{_text(system.name)}</div>'
        f'<div class="track {kind}"><svg role="img" aria-label="{said}">{drawn}</svg></div>'
        f'<div class="{kind}">{value}</div>'
    )


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """A plot's axis from `low` at the left to `high` at the right."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    @classmethod
    def of(cls, numbers: Sequence[float], metric: Metric) -> "_Axis":
        """An axis that shows all `numbers`, which are finite, with round ticks."""
        least, most = min(numbers), max(numbers)
        # Never so narrow that ticks would have equal labels.
        span = max(most - least, _TICKS * 10.0**-metric.digits, 1e-6 * max(abs(least), abs(most)))
        middle, reach = (least + most) / 2, span * (0.5 + _MARGIN)
        low, high = middle - reach, middle + reach
        power = 10.0 ** math.floor(math.log10(span / _TICKS))
        step = next(part * power for part in (1, 2, 5, 10) if part * power >= span / _TICKS * 0.999)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        places = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return cls(
            low=low, high=high, ticks=tuple((place, f"{round(place, digits) + 0.0:.{digits}f}") for place in places)
        )

    def place(self, number: float) -> str:
        """The position of `number`, in percent from the left."""
        return f"{100 * (number - self.low) / (self.high - self.low):.2f}%"


def _grid(grid: Grid, place: str) -> str:
    captions = grid.captions or tuple(("",) * len(row) for row in grid.cells)
    rows = []
    for label, images, below in zip(grid.rows, grid.cells, captions, strict=True):
        cells = (
            _image_cell(image, ", ".join(filter(None, (label, column))), caption)
            for image, column, caption in zip(images, grid.columns, below, strict=True)
        )
        head = f'<th scope="row">{_text(label)}</th>' if any(grid.rows) else ""
        rows.append(f"<tr>{head}{''.join(cells)}</tr>")
    columns = "".join(f'<th scope="col">{_text(column)}</th>' for column in grid.columns)
    corner = "<td></td>" if any(grid.rows) else ""
    head = f"<thead><tr>{corner}{columns}</tr></thead>" if any(grid.columns) else ""
    room = f"--columns: {max(len(grid.columns), 1)}; --beside: {15 if any(grid.rows) else 6}rem"
    table = f'<table class="images" style="{room}">{head}<tbody>{"".join(rows)}</tbody></table>'
    text = f'<p class="text">{_text(grid.text)}</p>' if grid.text else ""
    return f'<section id="{place}"><h2>{_text(grid.title)}</h2>{text}{_box(grid.title, table)}</section>'


def _image_cell(image: Image | None, label: str, caption: str) -> str:
    below = f"<small>{_text(caption)}</small>" if caption else ""
    if image is None:
        return f'<td><span class="none">{MISSING}</span>{below}</td>'
    encoded, width, height = _jpeg(image)
    alt = _text(label or caption or "image")
    source = f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
    return f'<td><img src="{source}" width="{width}" height="{height}" alt="{alt}">{below}</td>'


def _jpeg(image: Image) -> tuple[bytes, int, int]:
    """`image` as a JPEG no larger than a cell, with its width and height."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    height, width = image.shape[:2]
    scale = _LONGER_SIDE / max(height, width)
    image_bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image_bgr = cv2.resize(image_bgr, (width, height), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes(), width, height
