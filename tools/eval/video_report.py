"""The outputs of `dsmap-eval video`: a table for the terminal, JSON and a page."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsmap.common.notify import Notify
from dsmap.common.reports import write_report
from dsmap.common.sampling import even_indices
from dsmap.metrics.catalogue import METRICS
from dsmap.metrics.frames import FrameQuality
from dsmap.metrics.report.grids import shorten, thumbnail, worst_results
from dsmap.metrics.report.html import write_page
from dsmap.metrics.report.table import format_value, table
from dsmap.metrics.report.verdict import of_video
from dsmap.metrics.types import Grid, MetricValue, Report
from dsmap.runtime.stabilization.flicker import FramePair
from dsmap.tools.eval.video import VideoComparison

Row = tuple[str, str, str, str]
"""A row of the table: name, the input's number, the output's, and how to read it."""

_ROWS = 8  # frames side by side on the page
_READING = {
    "edge_structure": "1 keeps every edge of the input",
    "ssim": "of the luma with the input's; 1 is not the goal",
    "feature_similarity": "1 keeps every object in its place",
    "target_score": "share of frames",
}


def write_results(
    comparisons: Sequence[VideoComparison], quality: FrameQuality, json: Path | None, page: Path | None, say: Notify
) -> None:
    """Says the table, and writes the files that were asked for."""
    compared = make_report(comparisons, quality) if page or len(comparisons) > 1 else None
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    if compared is not None and len(comparisons) > 1:
        lines = table(compared, width=width).split("\n")
    else:
        lines = flicker_table(comparisons[0], _quality_rows(quality)).split("\n")
        wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for note in quality.notes if quality.facts else ():  # on flicker alone, docs/flicker.md says enough
            lines += wrapper.wrap(note)
    for line in lines:
        say(line)
    if json is not None:
        trees = [flicker_as_json(one) | {"quality": quality.as_json(place)} for place, one in enumerate(comparisons)]
        write_report(json, trees[0] if len(trees) == 1 else {"outputs": trees})
        say(f"report: {json}")
    if page is not None and compared is not None:
        write_page(page, compared)
        say(f"page: {page}")


def flicker_table(comparison: VideoComparison, more: Sequence[Row] = ()) -> str:
    """The numbers for the terminal; `more` rows follow those of flicker."""
    found = comparison.flicker
    one, other = found.input, found.output
    rows: list[Row] = [
        ("change per frame", f"{one.change:.2f}", f"{other.change:.2f}", "grey levels (0-255) along the motion"),
        ("flicker", "", f"{found.flicker:+.2f}", "what the translation adds to it"),
        ("warping error", f"{one.warping_error:.6f}", f"{other.warping_error:.6f}", "squared, of values 0-1"),
        ("brightness change", f"{one.brightness_change:.2f}", f"{other.brightness_change:.2f}", "of whole frames"),
        ("sharpness", f"{found.input_sharpness:.2f}", f"{found.output_sharpness:.2f}", "a blur lowers flicker too"),
        *more,
    ]
    labels = max(18, *(len(name) + 2 for name, *_ in rows))
    cuts = f", cuts at {', '.join(map(str, found.cuts[:8]))}{' ...' if len(found.cuts) > 8 else ''}"
    lines = [
        f"{comparison.output}: {found.frames} frames measured at {comparison.width}x{comparison.height},"
        f" {found.followed:.0%} of the pixels followed{cuts if found.cuts else ''}",
        f"{'':<{labels}}{'IN':>10}{'OUT':>10}",
        *(f"{name:<{labels}}{first:>10}{second:>10}  {unit}" for name, first, second, unit in rows),
    ]
    return "\n".join(lines)


def flicker_as_json(comparison: VideoComparison) -> dict[str, Any]:
    """The clip's means and the numbers of every pair of frames, as JSON values."""
    found = comparison.flicker
    return {
        "source": str(comparison.source),
        "output": str(comparison.output),
        "name": comparison.name,
        "width": comparison.width,
        "height": comparison.height,
        "frames": found.frames,
        "seconds": round(comparison.seconds[-1], 6),
        "cuts": list(found.cuts),
        "followed": round(found.followed, 4),
        "flicker": round(found.flicker, 4),
        "in": _rounded(found.input._asdict()) | {"sharpness": round(found.input_sharpness, 4)},
        "out": _rounded(found.output._asdict()) | {"sharpness": round(found.output_sharpness, 4)},
        "series": [
            _of_pair(number, comparison.seconds[number], pair) for number, pair in enumerate(found.pairs, start=1)
        ],
    }


def _of_pair(number: int, seconds: float, pair: FramePair) -> dict[str, Any]:
    return {
        "frame": number,
        "seconds": round(seconds, 6),
        "followed": round(pair.followed, 4),
        "flicker": None if pair.flicker is None else round(pair.flicker, 4),
        "in": None if pair.input is None else _rounded(pair.input._asdict()),
        "out": None if pair.output is None else _rounded(pair.output._asdict()),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 7 if name == "warping_error" else 4) for name, value in values.items()}


def _quality_rows(quality: FrameQuality) -> list[Row]:
    """Rows on the image quality of a single translation."""
    of_input = {measured.metric.key: measured for measured in quality.baseline.measured}
    found = []
    for measured in quality.evaluations[0].system.measured:
        metric, own = measured.metric, of_input.get(measured.metric.key)
        reading = f"of {measured.count} frames: {_READING.get(metric.key, 'from the reference; lower is better')}"
        found.append(
            (
                metric.title,
                "" if own is None else format_value(own.value, metric),
                format_value(measured.value, metric),
                reading,
            )
        )
    return found


def make_report(comparisons: Sequence[VideoComparison], quality: FrameQuality) -> Report:
    """The report on all translations and the input: flicker, image quality, frames, and the worst frames of each."""
    first = comparisons[0]
    found = first.flicker
    size = f"{first.width}x{first.height}"
    systems = [
        replace(one.system, measured=(*_flicker_values(comparison), *one.system.measured))
        for comparison, one in zip(comparisons, quality.evaluations, strict=True)
    ]
    baseline = replace(quality.baseline, measured=(*_of_input(first), *quality.baseline.measured))
    cuts = {"cuts": "at frames " + ", ".join(map(str, found.cuts))} if found.cuts else {}
    several = len(comparisons) > 1
    labels = [f"frame {number}, {first.seconds[number]:.2f} s" for number in quality.frames]
    return Report(
        title=f"{first.source.name}: translations compared" if several else f"{first.source.name} and {first.name}",
        facts={
            "input": f"{first.source}, {found.frames} frames, {first.seconds[-1]:.1f} s",
            "translations" if several else "translation": ", ".join(f"{one.name}: {one.output}" for one in comparisons),
            "flicker": f"every frame at {size}, {found.followed:.0%} of the pixels followed",
            **cuts,
            "image quality": f"{len(quality.frames)} frames, evenly spread, at {size}",
            **quality.facts,
        },
        systems=(*systems, baseline),
        grids=(
            _side_by_side(comparisons, quality, labels),
            *(grid for one in quality.evaluations for grid in worst_results(one, quality.contents, labels)),
        ),
        verdict=of_video([(one.name, one.flicker.flicker) for one in comparisons]),
        notes=quality.notes,
    )


def _flicker_values(comparison: VideoComparison) -> Iterator[MetricValue]:
    found = comparison.flicker
    pairs = found.frames - 1 - len(found.cuts)
    yield _measured("flicker", found.flicker, pairs)
    yield _measured("warping_error", found.output.warping_error, pairs)
    yield _measured("brightness_change", found.output.brightness_change, pairs)
    yield _measured("sharpness", found.output_sharpness, found.frames)


def _of_input(comparison: VideoComparison) -> Iterator[MetricValue]:
    """The input's own numbers. It has no flicker, which is what a translation adds."""
    found = comparison.flicker
    pairs = found.frames - 1 - len(found.cuts)
    yield _measured("warping_error", found.input.warping_error, pairs)
    yield _measured("brightness_change", found.input.brightness_change, pairs)
    yield _measured("sharpness", found.input_sharpness, found.frames)


def _measured(key: str, value: float, count: int) -> MetricValue:
    return MetricValue(metric=METRICS[key], value=value, count=count)


def _side_by_side(comparisons: Sequence[VideoComparison], quality: FrameQuality, labels: Sequence[str]) -> Grid:
    chosen = even_indices(len(quality.frames), _ROWS)
    return Grid(
        title="Side by side",
        rows=tuple(labels[i] for i in chosen),
        columns=("input", *(shorten(comparison.name) for comparison in comparisons)),
        cells=tuple(
            (
                thumbnail(quality.contents[i]),
                *(thumbnail(evaluation.results[i].path) for evaluation in quality.evaluations),
            )
            for i in chosen
        ),
        text="Frames evenly spread over the clip.",
    )
