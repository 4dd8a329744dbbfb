"""A video beside its translation: read together, checked, measured; as a table, as JSON and as a plot."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.output_files import check_output_file, identity
from dsmap.runtime.steadiness import Pair, Steadiness, SteadinessMeter
from dsmap.runtime.video_reader import Frame, VideoReader

_MOST_LINES = 360  # above, flow takes long and the numbers tell little more
_ASPECT = 0.03  # of difference allowed: odd sides grow by a pixel when encoded
_PLOTS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured of two files."""

    source: Path
    output: Path
    width: int
    """Of the frames that were measured, in pixels."""
    height: int
    seconds: tuple[float, ...]
    """When each frame is shown, from the first."""
    steadiness: Steadiness


def check_results(source: Path, output: Path, report: Path | None, plot: Path | None, *, overwrite: bool) -> None:
    """All that can be wrong with the names, before any work. Raises InputError, DsmapError without matplotlib."""
    for path, option in ((report, "--report"), (plot, "--plot")):
        if path is None:
            continue
        if identity(path) == identity(output):
            raise InputError(f"{option} {path} is OUT itself", f"Choose another name with {option}.")
        check_output_file(path, source, overwrite=overwrite, option=option)
    if report and plot and identity(report) == identity(plot):
        raise InputError("--report and --plot name the same file", "Give one of them another name.")
    if plot is None:
        return
    if plot.suffix.lower() not in _PLOTS:
        raise InputError(f"cannot draw into {plot.name}", f"Use a name that ends with {', '.join(_PLOTS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DsmapError(
            f"--plot needs matplotlib, which cannot be imported ({error})",
            "In dsmap's source folder: pip install '.[eval]'. Without --plot everything else works.",
        ) from error


def measure(source: Path, output: Path, *, height: int | None, frames: int | None) -> Comparison:
    """Reads both videos and measures. Raises InputError unless `output` can be a translation of `source`."""
    with VideoReader(source) as first:
        in_size = first.width, first.height
    with VideoReader(output) as first:
        out_size = first.width, first.height
    _check_shape(in_size, out_size, source, output)
    lines = height or min(_MOST_LINES, in_size[1], out_size[1])
    meter, seconds = SteadinessMeter(), []
    with VideoReader(source, height=lines) as ins, VideoReader(output, height=lines) as outs:
        half_frame = float(1 / ins.rate) / 2
        with _progress(frames or ins.expected_frames) as update:
            for number, (one, other) in enumerate(_together(ins, outs, frames)):
                if abs(one[0] - other[0]) > half_frame:
                    raise InputError(
                        f"frame {number} is shown after {one[0]:.3f} s in {source} and after {other[0]:.3f} s in"
                        f" {output}",
                        "Pass a translation of this very video, with its timestamps kept.",
                    )
                translated = other[1] if other[1].shape == one[1].shape else _resized(other[1], ins.width, ins.height)
                meter.add(one[1], translated)
                seconds.append(one[0])
                update(number + 1)
        size = ins.width, ins.height
    return Comparison(
        source=source,
        output=output,
        width=size[0],
        height=size[1],
        seconds=tuple(seconds),
        steadiness=meter.result(),
    )


def _check_shape(own: tuple[int, int], other: tuple[int, int], source: Path, output: Path) -> None:
    ratio = other[0] / other[1] / (own[0] / own[1])
    if abs(ratio - 1) <= _ASPECT or all(abs(a - b) <= 1 for a, b in zip(own, other, strict=True)):
        return
    sizes = f"{source} is {own[0]}x{own[1]} and {output} {other[0]}x{other[1]}"
    if abs(ratio / 2 - 1) <= _ASPECT:
        raise InputError(f"{sizes}: it looks made with --side-by-side", "Translate again without --side-by-side.")
    raise InputError(f"{sizes}: not the same shape", "Pass a translation of this very video.")


_Timed = tuple[float, Any]


def _frames(reader: VideoReader) -> Iterator[_Timed]:
    """(seconds from the first frame, pixels) of every frame."""
    first: int | None = None
    for item in reader:
        if isinstance(item, Frame):
            first = item.pts if first is None else first
            yield float((item.pts - first) * reader.time_base), item.rgb


def _together(ins: VideoReader, outs: VideoReader, most: int | None) -> Iterator[tuple[_Timed, _Timed]]:
    pairs = itertools.zip_longest(_frames(ins), _frames(outs))
    for number, (one, other) in enumerate(itertools.islice(pairs, most)):
        if one is None or other is None:
            ended, longer = (ins, outs) if one is None else (outs, ins)
            raise InputError(
                f"{ended.path} has {number} frames and {longer.path} has more",
                f"Pass a translation of all frames, or measure the first ones with --frames {max(2, number)}.",
            )
        yield one, other


def _resized(rgb: Any, width: int, height: int) -> Any:
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def table(comparison: Comparison) -> str:
    """The numbers for people."""
    found = comparison.steadiness
    one, other = found.input, found.output
    rows = [
        ("change per frame", f"{one.change:.2f}", f"{other.change:.2f}", "grey levels (0-255) along the motion"),
        ("flicker", "", f"{found.flicker:+.2f}", "what the translation adds to it"),
        ("warping error", f"{one.warping_error:.6f}", f"{other.warping_error:.6f}", "squared, of values 0-1"),
        ("brightness change", f"{one.brightness_change:.2f}", f"{other.brightness_change:.2f}", "of whole frames"),
        ("sharpness", f"{found.input_sharpness:.2f}", f"{found.output_sharpness:.2f}", "a blur lowers flicker too"),
    ]
    cuts = f", cuts at {', '.join(map(str, found.cuts[:8]))}{' ...' if len(found.cuts) > 8 else ''}"
    lines = [
        f"{comparison.output}: {found.frames} frames measured at {comparison.width}x{comparison.height},"
        f" {found.followed:.0%} of the pixels followed{cuts if found.cuts else ''}",
        f"{'':<18}{'IN':>10}{'OUT':>10}",
        *(f"{name:<18}{first:>10}{second:>10}  {unit}" for name, first, second, unit in rows),
    ]
    return "\n".join(lines)


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Everything for JSON: the clip's means, and each pair of frames."""
    found = comparison.steadiness
    return {
        "source": str(comparison.source),
        "output": str(comparison.output),
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


def _of_pair(number: int, seconds: float, pair: Pair) -> dict[str, Any]:
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


def draw(comparison: Comparison, plot: Path) -> None:
    """Change, flicker and warping error over time. Needs no display."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    found = comparison.steadiness
    seconds = comparison.seconds[1:]
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    series: list[tuple[Any, str, str, str, Callable[[Pair], float | None]]] = [
        (above, "IN", "tab:grey", "-", lambda pair: pair.input and pair.input.change),
        (above, "OUT", "tab:blue", "-", lambda pair: pair.output and pair.output.change),
        (above, f"flicker (mean {found.flicker:+.2f})", "tab:red", "--", lambda pair: pair.flicker),
        (below, "IN", "tab:grey", "-", lambda pair: pair.input and pair.input.warping_error),
        (below, "OUT", "tab:blue", "-", lambda pair: pair.output and pair.output.warping_error),
    ]
    for axes, label, colour, line, value in series:
        values = [value(pair) for pair in found.pairs]
        gaps = [np.nan if number is None else number for number in values]
        axes.plot(seconds, gaps, line, color=colour, label=label, linewidth=1.2, marker="." if len(gaps) < 30 else "")
    for axes in (above, below):
        for cut in found.cuts:
            axes.axvline(comparison.seconds[cut], color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    above.axhline(0, color="black", linewidth=0.6)
    above.set_ylabel("change per frame (grey levels)")
    below.set_ylabel("warping error")
    below.set_ylim(bottom=0)
    below.set_xlabel("seconds" + (" (dotted: cuts)" if found.cuts else ""))
    figure.suptitle(f"{comparison.source.name} and {comparison.output.name}")
    part = plot.with_name(f"{plot.stem}.part{plot.suffix}")
    try:
        figure.savefig(part, format=plot.suffix[1:].lower())
        part.replace(plot)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DsmapError(f"cannot write {plot}: {error.strerror}", "The numbers are above.") from error


@contextlib.contextmanager
def _progress(expected: int | None) -> Iterator[Callable[[int], None]]:
    """A bar; nothing when the output is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console()
    if not console.is_terminal:
        yield lambda done: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=expected)
        yield lambda done: bar.update(task, completed=done)
