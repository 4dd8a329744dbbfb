"""A video beside its translations: read together, checked, measured; as a table, as JSON and as a plot."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dsmap.common.atomic import atomic_write
from dsmap.common.output_files import check_outputs
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.stabilization.flicker import Pair, Steadiness, SteadinessMeter
from dsmap.runtime.stabilization.flow import Pixels
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.tools.shared.progress import progress

_MOST_LINES = 360  # above, flow takes long and the numbers tell little more
_ASPECT = 0.03  # of difference allowed: odd sides grow by a pixel when encoded
_PLOTS = (".png", ".svg", ".pdf")


Keep = Callable[[int, Sequence[Pixels]], None]
"""Takes the number of a frame and its images: the input's, then each translation's; uint8 RGB of one size."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured of two files."""

    source: Path
    output: Path
    name: str
    """What the output is called beside others."""
    width: int
    """Of the frames that were measured, in pixels."""
    height: int
    seconds: tuple[float, ...]
    """When each frame is shown, from the first."""
    steadiness: Steadiness


def parse_outputs(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """(name, file) of each FILE or NAME=FILE; a file that exists is never taken apart. InputError for equal names."""
    found: list[tuple[str, Path]] = []
    for text in texts:
        name, separator, file = text.partition("=")
        named = separator and name and file and not Path(text).exists()
        found.append((name, Path(file)) if named else (Path(text).stem, Path(text)))
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two translations are called {twice}", "Name them: ours=FILE theirs=OTHER/FILE.")
    return found


def check_results(
    source: Path,
    outputs: Sequence[Path],
    *,
    report: Path | None = None,
    plot: Path | None = None,
    page: Path | None = None,
    others: Sequence[tuple[Path, str]] = (),
    overwrite: bool,
) -> None:
    """All that can be wrong with the names, before any work. Raises InputError, DsmapError without matplotlib.

    `others`: what else is read, with what to call it.
    """
    inputs = [(source, "the input itself"), *((output, "OUT itself") for output in outputs), *others]
    check_outputs({"--report": report, "--plot": plot, "--page": page}, inputs, overwrite=overwrite)
    if plot is None:
        return
    if plot.suffix.lower() not in _PLOTS:
        raise InputError(f"cannot draw into {plot.name}", f"Use a name that ends with {', '.join(_PLOTS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DsmapError(
            f"--plot needs matplotlib, which cannot be imported ({error})",
            "Run pip install 'dsmap[eval]'; without --plot everything else works.",
        ) from error


def measure(
    source: Path,
    outputs: Sequence[tuple[str, Path]],
    *,
    height: int | None,
    frames: int | None,
    keep: Keep | None = None,
) -> list[Comparison]:
    """Reads all videos together and measures each of `outputs`, (name, file), against `source`.

    `keep` is given every frame that is measured. Raises InputError unless each output can be a translation of `source`.
    """
    in_size = _size(source)
    lows = [in_size[1]]
    for _, output in outputs:
        _check_shape(in_size, out_size := _size(output), source, output)
        lows.append(out_size[1])
    lines = height or min(_MOST_LINES, *lows)
    meters, seconds = [SteadinessMeter() for _ in outputs], []
    with contextlib.ExitStack() as stack:
        ins, *outs = [
            stack.enter_context(VideoReader(path, height=lines)) for path in (source, *(path for _, path in outputs))
        ]
        update = stack.enter_context(progress(frames or ins.expected_frames))
        for number, (one, *others) in enumerate(_together([ins, *outs], frames)):
            images = [one[1]]
            for reader, other, meter in zip(outs, others, meters, strict=True):
                _check_time(number, one[0], other[0], ins, reader)
                same = other[1].shape == one[1].shape
                images.append(other[1] if same else _resized(other[1], ins.width, ins.height))
                meter.add(one[1], images[-1])
            if keep is not None:
                keep(number, images)
            seconds.append(one[0])
            update(number + 1)
    return [
        Comparison(
            source=source,
            output=output,
            name=name,
            width=ins.width,
            height=ins.height,
            seconds=tuple(seconds),
            steadiness=meter.result(),
        )
        for (name, output), meter in zip(outputs, meters, strict=True)
    ]


def _size(path: Path) -> tuple[int, int]:
    with VideoReader(path) as reader:
        return reader.width, reader.height


def _check_time(number: int, own: float, other: float, ins: VideoReader, outs: VideoReader) -> None:
    if abs(own - other) > float(1 / ins.rate) / 2:
        raise InputError(
            f"frame {number} is shown after {own:.3f} s in {ins.path} and after {other:.3f} s in {outs.path}",
            "Pass a translation of this very video, with its timestamps kept.",
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
Row = tuple[str, str, str, str]
"""Of the table: what, the input's number, the output's, and how to read it."""


def _frames(reader: VideoReader) -> Iterator[_Timed]:
    """(seconds from the first frame, pixels) of every frame."""
    first: int | None = None
    for item in reader:
        if isinstance(item, Frame):
            first = item.pts if first is None else first
            yield float((item.pts - first) * reader.time_base), item.rgb


def _together(readers: Sequence[VideoReader], most: int | None) -> Iterator[tuple[_Timed, ...]]:
    for number, shown in enumerate(itertools.islice(itertools.zip_longest(*map(_frames, readers)), most)):
        if None in shown:
            ended = readers[shown.index(None)]
            longer = next(reader for reader, one in zip(readers, shown, strict=True) if one is not None)
            raise InputError(
                f"{ended.path} has {number} frames and {longer.path} has more",
                f"Pass a translation of all frames, or measure the first ones with --frames {max(2, number)}.",
            )
        yield shown


def _resized(rgb: Any, width: int, height: int) -> Any:
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def table(comparison: Comparison, more: Sequence[Row] = ()) -> str:
    """The numbers for people; `more` rows below those of steadiness."""
    found = comparison.steadiness
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


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Everything for JSON: the clip's means, and each pair of frames."""
    found = comparison.steadiness
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


_Line = tuple[Any, str, str, str, Sequence[float | None]]
"""Axes, label, colour, style and the value of each pair of frames."""


def draw(comparisons: Sequence[Comparison], plot: Path) -> None:
    """Change and warping error over time, of a single output flicker too. Needs no display."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    first, found = comparisons[0], comparisons[0].steadiness
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


def _lines(comparisons: Sequence[Comparison], above: Any, below: Any) -> Iterator[_Line]:
    pairs = comparisons[0].steadiness.pairs
    yield above, "IN", "tab:grey", "-", [pair.input and pair.input.change for pair in pairs]
    yield below, "IN", "tab:grey", "-", [pair.input and pair.input.warping_error for pair in pairs]
    for number, comparison in enumerate(comparisons):
        found, colour = comparison.steadiness, f"C{number}"
        alone = len(comparisons) == 1
        name = "OUT" if alone else comparison.name
        label = name if alone else f"{name}, mean flicker {found.flicker:+.2f}"
        yield above, label, colour, "-", [pair.output and pair.output.change for pair in found.pairs]
        yield below, name, colour, "-", [pair.output and pair.output.warping_error for pair in found.pairs]
        if alone:
            yield above, f"flicker (mean {found.flicker:+.2f})", "tab:red", "--", [pair.flicker for pair in found.pairs]
