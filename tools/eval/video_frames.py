"""Frames of a clip and of its translations, compared as images: what is kept, and how far they are from a reference.

torch is imported for a feature network alone.
"""

import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsmap.common.images import write_rgb
from dsmap.common.notify import Notify
from dsmap.common.reports import write_report
from dsmap.common.sampling import even_indices
from dsmap.errors import InputError
from dsmap.metrics.catalogue import METRICS
from dsmap.metrics.evaluate import Evaluator, Judged, Means
from dsmap.metrics.findings import Grid, Measured, Report, System
from dsmap.metrics.report.grids import label, shown, worst
from dsmap.metrics.report.html import write_page
from dsmap.metrics.report.table import as_text
from dsmap.metrics.report.table import table as table_of
from dsmap.metrics.results import Result, ResultFolder, look_through
from dsmap.runtime.stabilization.flow import Pixels
from dsmap.tools.eval.video import Comparison, Row, table
from dsmap.tools.eval.video import numbers as as_numbers

MOST = 60
"""Of a longer clip 30 to 60 frames are compared, of a shorter one all."""
_ROWS = 8
_ALIKE = (
    "The frames of one clip resemble each other: intervals over them would say nothing about other clips, so none are "
    "given."
)
_FEW_SCENES = (
    "A clip shows few scenes and the reference many, so its frames stay far from it, however they look: compare the "
    "distances with that of the input."
)
_READING = {
    "edge_structure": "1 keeps every edge of the input",
    "ssim": "of the luma with the input's; 1 is no aim",
    "feature_similarity": "1 keeps what is where in the input",
    "target_score": "share of frames",
}


@dataclass(frozen=True, kw_only=True)
class Against:
    """What frames are compared by and with, beside each other."""

    means: Means
    """Without a network: edges and structure alone."""
    reference: Sequence[Path] = ()
    """Images of the target domain."""
    source: Sequence[Path] = ()
    """Images of the domain that the clip is of, for the classifier."""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was found of some frames, the same of every translation."""

    frames: tuple[int, ...]
    """Their numbers in the clip, from 0."""
    contents: tuple[Path, ...]
    """The input's frames."""
    baseline: System
    """The input, by its distances; nothing is measured of it without a reference."""
    judged: tuple[Judged, ...]
    """Of each translation, with scores in the order of `frames`."""
    facts: dict[str, str]
    notes: tuple[str, ...]


class KeptFrames:
    """Writes some frames of several videos as PNGs, evenly spread over clips of any length.

    Every frame is kept until there are `MOST`, then every second one, every fourth and so on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: list[int] = []
        self._step = 1

    def add(self, number: int, images_rgb: Sequence[Pixels]) -> None:
        """Frame `number` of every video, uint8 (H, W, 3) RGB."""
        if number % self._step:
            return
        if len(self.numbers) == MOST:
            self._step *= 2
            for gone in self.numbers[1::2]:
                for path in self.folder.glob(f"*/{gone:06d}.png"):
                    path.unlink()
            self.numbers = self.numbers[::2]
            if number % self._step:
                return
        for place, image_rgb in enumerate(images_rgb):
            (self.folder / str(place)).mkdir(exist_ok=True)
            write_rgb(self.folder / str(place) / f"{number:06d}.png", image_rgb, durable=False)
        self.numbers.append(number)

    def of(self, place: int) -> tuple[Path, ...]:
        """The frames of video `place`, in order; 0 is the input."""
        return tuple(self.folder / str(place) / f"{number:06d}.png" for number in self.numbers)


@contextmanager
def kept_frames() -> Iterator[KeptFrames]:
    """In a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dsmap-eval-") as scratch:
        yield KeptFrames(Path(scratch))


def read_against(
    features: Sequence[Path], reference: Path | None, source: Path | None, say: Notify, *, run_code: bool = False
) -> Against:
    """Finds the images and loads the networks. Raises InputError for options that do not fit together."""
    if source is not None and reference is None:
        raise InputError(
            "--source needs --reference", "A classifier is fitted on images of both domains: pass a folder of each."
        )
    if reference is not None and not features:
        raise InputError(
            "--reference needs a feature network",
            "Pass --features with an .npz of SqueezeNet v1.0 or the TorchScript file inception-2015-12-05.pt.",
        )
    if not features:
        return Against(means=Means(extractors=()))
    left_out: list[str] = []
    images = [] if reference is None else look_through(reference, "the reference folder", left_out)
    training = [] if source is None else look_through(source, "the source folder", left_out)
    for line in left_out:
        say(line)
    if reference is not None and len(images) < 2:
        raise InputError(
            f"a distance to a set of images needs two or more, {reference} has one", "Pass a few hundred images."
        )
    say("loading torch ...")
    from dsmap.tools.eval.images import facts, load_means

    means = load_means(features, None, pairs=0, seed=0, run_code=run_code)
    told = {"reference": f"{reference}, {len(images)} images"} if images else {}
    told |= {"source": f"{source}, {len(training)} images"} if training else {}
    told |= {"left out": "; ".join(left_out)} if left_out else {}
    return Against(means=means, reference=images, source=training, facts=told | facts(means))


def judge(frames: KeptFrames, names: Sequence[str], against: Against, say: Notify) -> Quality:
    """Compares the frames of every translation, in the order of `names`, with the input's and with the reference."""
    contents = frames.of(0)
    evaluator = _evaluator(against, contents, say)
    judged = []
    for place, name in enumerate(names, start=1):
        results = tuple(Result(path=path, content=i) for i, path in enumerate(frames.of(place)))
        one = evaluator.judge(ResultFolder(name=name, results=results))
        judged.append(one._replace(system=_without_intervals(one.system)))
    baseline = System(name="input", measured=(), baseline=True)
    if against.reference:
        baseline = _without_intervals(evaluator.baseline("input", contents))
    return Quality(
        frames=tuple(frames.numbers),
        contents=contents,
        baseline=baseline,
        judged=tuple(judged),
        facts=against.facts,
        notes=(_ALIKE, *_notes(against, evaluator)),
    )


def _evaluator(against: Against, contents: Sequence[Path], say: Notify) -> Evaluator:
    if not against.means.extractors:  # it takes seconds, and there is nothing to tell
        return Evaluator((), against.means, contents=contents)
    from dsmap.tools.eval.images import make_evaluator

    return make_evaluator(against.reference, against.means, contents, against.source, say)


def _without_intervals(system: System) -> System:
    """Drawn anew frame by frame, they would take the frames of a clip for independent images."""
    return replace(system, measured=tuple(replace(measured, interval=None) for measured in system.measured))


def _notes(against: Against, evaluator: Evaluator) -> Iterator[str]:
    if against.reference:
        from dsmap.tools.eval.images import notes
        from dsmap.tools.eval.notes import FEW_REFERENCES

        yield _FEW_SCENES
        yield from notes(against.means, evaluator)
        if len(against.reference) < FEW_REFERENCES:
            yield f"The reference has few images: {FEW_REFERENCES} or more make distances from it mean something."
    elif against.means.extractors:
        yield "Distances are not measured: they need --reference, images of the target domain."
    else:
        yield "Distances and feature similarity are not measured: they need --features, a feature network."
    if against.means.extractors and against.means.squeezenet is None:
        yield "Feature similarity, and a classifier, need a SqueezeNet .npz among --features."


def rows(quality: Quality) -> list[Row]:
    """Of a single translation, for its table."""
    of_input = {measured.metric.key: measured for measured in quality.baseline.measured}
    found = []
    for measured in quality.judged[0].system.measured:
        metric, own = measured.metric, of_input.get(measured.metric.key)
        reading = f"of {measured.count} frames: {_READING.get(metric.key, 'from the reference; lower is better')}"
        found.append(
            (metric.title, "" if own is None else as_text(own.value, metric), as_text(measured.value, metric), reading)
        )
    return found


def numbers(quality: Quality, place: int) -> dict[str, Any]:
    """Everything of one translation for JSON."""
    judged = quality.judged[place]
    return {
        "frames": list(quality.frames),
        "facts": quality.facts,
        "notes": list(quality.notes),
        "in": {measured.metric.key: round(measured.value, 4) for measured in quality.baseline.measured},
        "out": {measured.metric.key: round(measured.value, 4) for measured in judged.system.measured},
        "each": [
            {"frame": number}
            | {key: None if np.isnan(score[i]) else round(float(score[i]), 4) for key, score in judged.scores.items()}
            for i, number in enumerate(quality.frames)
        ],
    }


def tell(
    comparisons: Sequence[Comparison], quality: Quality, json: Path | None, page: Path | None, say: Notify
) -> None:
    """The table, and the files that were asked for."""
    compared = report(comparisons, quality) if page or len(comparisons) > 1 else None
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    if compared is not None and len(comparisons) > 1:
        lines = table_of(compared, width=width).split("\n")
    else:
        lines = table(comparisons[0], rows(quality)).split("\n")
        wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for note in quality.notes if quality.facts else ():  # of steadiness, docs/steadiness.md says what to know
            lines += wrapper.wrap(note)
    for line in lines:
        say(line)
    if json is not None:
        trees = [as_numbers(one) | {"quality": numbers(quality, place)} for place, one in enumerate(comparisons)]
        write_report(json, trees[0] if len(trees) == 1 else {"outputs": trees})
        say(f"report: {json}")
    if page is not None and compared is not None:
        write_page(page, compared)
        say(f"page: {page}")


def report(comparisons: Sequence[Comparison], quality: Quality) -> Report:
    """All translations beside the input: steadiness and image quality, frames, and the worst frames of each."""
    first = comparisons[0]
    found = first.steadiness
    size = f"{first.width}x{first.height}"
    systems = [
        replace(one.system, measured=(*_steadiness(comparison), *one.system.measured))
        for comparison, one in zip(comparisons, quality.judged, strict=True)
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
            "steadiness": f"every frame at {size}, {found.followed:.0%} of the pixels followed",
            **cuts,
            "pictures": f"{len(quality.frames)} frames, evenly spread, at {size}",
            **quality.facts,
        },
        systems=(*systems, baseline),
        grids=(
            _side_by_side(comparisons, quality, labels),
            *(grid for one in quality.judged for grid in worst(one, quality.contents, labels)),
        ),
        notes=quality.notes,
    )


def _steadiness(comparison: Comparison) -> Iterator[Measured]:
    found = comparison.steadiness
    pairs = found.frames - 1 - len(found.cuts)
    yield _measured("flicker", found.flicker, pairs)
    yield _measured("warping_error", found.output.warping_error, pairs)
    yield _measured("brightness_change", found.output.brightness_change, pairs)
    yield _measured("sharpness", found.output_sharpness, found.frames)


def _of_input(comparison: Comparison) -> Iterator[Measured]:
    """Not flicker: it is what a translation adds."""
    found = comparison.steadiness
    pairs = found.frames - 1 - len(found.cuts)
    yield _measured("warping_error", found.input.warping_error, pairs)
    yield _measured("brightness_change", found.input.brightness_change, pairs)
    yield _measured("sharpness", found.input_sharpness, found.frames)


def _measured(key: str, value: float, count: int) -> Measured:
    return Measured(metric=METRICS[key], value=value, count=count)


def _side_by_side(comparisons: Sequence[Comparison], quality: Quality, labels: Sequence[str]) -> Grid:
    chosen = even_indices(len(quality.frames), _ROWS)
    return Grid(
        title="Side by side",
        rows=tuple(labels[i] for i in chosen),
        columns=("input", *(label(comparison.name) for comparison in comparisons)),
        cells=tuple(
            (shown(quality.contents[i]), *(shown(judged.results[i].path) for judged in quality.judged)) for i in chosen
        ),
        text="Frames evenly spread over the clip.",
    )
