"""The job of `dsmap-eval video`: reads a video and its translations together and measures their flicker."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dsmap.common.output_files import check_outputs
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.stabilization.flicker import ClipFlicker, FlickerMeter
from dsmap.runtime.stabilization.flow import Pixels
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.tools.shared.progress import progress

_MAX_HEIGHT = 360  # above, optical flow takes long and the numbers hardly change
_ASPECT = 0.03  # relative difference allowed: odd sides grow by a pixel when encoded
_PLOTS = (".png", ".svg", ".pdf")


FrameSink = Callable[[int, Sequence[Pixels]], None]
"""Takes a frame's number and its images: the input's, then each translation's, uint8 RGB of one size."""


@dataclass(frozen=True, kw_only=True)
class VideoComparison:
    """The flicker of a translation, measured against its input."""

    source: Path
    output: Path
    name: str
    """Name of the output in tables."""
    width: int
    """Of the frames that were measured, in pixels."""
    height: int
    seconds: tuple[float, ...]
    """Timestamp of every frame, from the first."""
    flicker: ClipFlicker


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


def check_files(
    source: Path,
    outputs: Sequence[Path],
    *,
    report: Path | None = None,
    plot: Path | None = None,
    page: Path | None = None,
    others: Sequence[tuple[Path, str]] = (),
    overwrite: bool,
) -> None:
    """Checks all file names before any work. Raises InputError, and DsmapError for a plot without matplotlib.

    `others`: what else is read, each with what to call it.
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
    keep: FrameSink | None = None,
) -> list[VideoComparison]:
    """Reads all videos together and measures each of `outputs`, (name, file), against `source`.

    `keep` is given every frame that is measured. Raises InputError unless each output can be a translation of `source`.
    """
    in_size = _size(source)
    lows = [in_size[1]]
    for _, output in outputs:
        _check_shape(in_size, out_size := _size(output), source, output)
        lows.append(out_size[1])
    lines = height or min(_MAX_HEIGHT, *lows)
    meters, seconds = [FlickerMeter() for _ in outputs], []
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
        VideoComparison(
            source=source,
            output=output,
            name=name,
            width=ins.width,
            height=ins.height,
            seconds=tuple(seconds),
            flicker=meter.result(),
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
        raise InputError(f"{sizes}: it looks like a --side-by-side result", "Translate again without --side-by-side.")
    raise InputError(f"{sizes}: not the same shape", "Pass a translation of this very video.")


_Timed = tuple[float, Any]


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
