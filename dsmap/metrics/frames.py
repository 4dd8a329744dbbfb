"""Quality of a video's translations as images: frames are sampled and compared with the input's and a reference.

torch is imported for a feature network only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsmap.common.images import write_rgb
from dsmap.common.notify import Notify
from dsmap.common.scratch import scratch_folder
from dsmap.errors import InputError
from dsmap.metrics.comparison import EvaluatorFactory
from dsmap.metrics.evaluator import Evaluation, Evaluator
from dsmap.metrics.report.notes import suite_notes
from dsmap.metrics.report.verdict import MIN_REFERENCES
from dsmap.metrics.result_folders import ResultFolder, ResultImage, scan_images
from dsmap.metrics.suite import MetricSuite, load_metric_suite
from dsmap.metrics.types import Image, System

MAX_FRAMES = 60
"""All frames of a clip up to this length are compared, of a longer one 30 to 60."""
_ALIKE = (
    "The frames of one clip resemble each other: intervals over them would say nothing about other clips, so none are "
    "given."
)
_FEW_SCENES = (
    "A clip shows few scenes and the reference many, so its frames stay far from it, however they look: compare the "
    "distances with that of the input."
)


@dataclass(frozen=True, kw_only=True)
class FrameReference:
    """What the frames of a clip are measured with and against."""

    suite: MetricSuite
    """Without a network only edges and structure are measured."""
    reference: Sequence[Path] = ()
    """Images of the target domain."""
    source: Sequence[Path] = ()
    """Images of the clip's own domain, for the classifier."""
    facts: dict[str, str] = field(default_factory=dict)
    """What a reader must know, label to text."""


@dataclass(frozen=True, kw_only=True)
class FrameQuality:
    """The image quality of every translation, on the same frames."""

    frames: tuple[int, ...]
    """Their numbers in the clip, from 0."""
    contents: tuple[Path, ...]
    """The input's frames."""
    baseline: System
    """The distances of the input; empty without a reference."""
    evaluations: tuple[Evaluation, ...]
    """One per translation, with scores in the order of `frames`."""
    facts: dict[str, str]
    notes: tuple[str, ...]

    def as_json(self, place: int) -> dict[str, Any]:
        """The numbers of translation `place`, as JSON values."""
        evaluation = self.evaluations[place]
        return {
            "frames": list(self.frames),
            "facts": self.facts,
            "notes": list(self.notes),
            "in": {measured.metric.key: round(measured.value, 4) for measured in self.baseline.measured},
            "out": {measured.metric.key: round(measured.value, 4) for measured in evaluation.system.measured},
            "each": [
                {"frame": number} | {key: _rounded(score[i]) for key, score in evaluation.scores.items()}
                for i, number in enumerate(self.frames)
            ],
        }


class FrameSampler:
    """Samples frames of several videos of one length, evenly spread, and writes them as PNGs.

    Every frame is kept until there are `MAX_FRAMES`, then every second one, every fourth and so on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: list[int] = []
        self._step = 1

    def add(self, number: int, images_rgb: Sequence[Image]) -> None:
        """Frame `number` of every video, uint8 (H, W, 3) RGB."""
        if number % self._step:
            return
        if len(self.numbers) == MAX_FRAMES:
            self._step *= 2
            for dropped in self.numbers[1::2]:
                for path in self.folder.glob(f"*/{dropped:06d}.png"):
                    path.unlink()
            self.numbers = self.numbers[::2]
            if number % self._step:
                return
        for place, image_rgb in enumerate(images_rgb):
            (self.folder / str(place)).mkdir(exist_ok=True)
            write_rgb(self.folder / str(place) / f"{number:06d}.png", image_rgb, durable=False)
        self.numbers.append(number)

    def of(self, place: int) -> tuple[Path, ...]:
        """The sampled frames of video `place`, in order; 0 is the input."""
        return tuple(self.folder / str(place) / f"{number:06d}.png" for number in self.numbers)


@contextmanager
def frame_sampler() -> Iterator[FrameSampler]:
    """A sampler that writes to a temporary folder, which is removed afterwards."""
    with scratch_folder("eval") as scratch:
        yield FrameSampler(scratch)


def load_frame_reference(
    features: Sequence[Path], reference: Path | None, source: Path | None, say: Notify, *, run_code: bool = False
) -> FrameReference:
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
        return FrameReference(suite=MetricSuite(extractors=()))
    left_out: list[str] = []
    images = [] if reference is None else scan_images(reference, "the reference folder", left_out)
    training = [] if source is None else scan_images(source, "the source folder", left_out)
    for line in left_out:
        say(line)
    if reference is not None and len(images) < 2:
        raise InputError(
            f"a distance to a set of images needs two or more, {reference} has one", "Pass a few hundred images."
        )
    say("loading torch ...")
    suite = load_metric_suite(features, None, pairs=0, seed=0, run_code=run_code)
    facts = {"reference": f"{reference}, {len(images)} images"} if images else {}
    facts |= {"source": f"{source}, {len(training)} images"} if training else {}
    facts |= {"left out": "; ".join(left_out)} if left_out else {}
    return FrameReference(suite=suite, reference=images, source=training, facts=facts | suite.facts())


def evaluate_frames(
    sampler: FrameSampler,
    names: Sequence[str],
    against: FrameReference,
    make_evaluator: EvaluatorFactory = Evaluator,
) -> FrameQuality:
    """Compares the frames of every translation, in the order of `names`, with the input's and with the reference."""
    contents = sampler.of(0)
    # Without a network there are only edges and structure to compare: no long step whose progress could be shown.
    factory = make_evaluator if against.suite.extractors else Evaluator
    evaluator = factory(against.reference, against.suite, contents=contents, source=against.source)
    evaluations = []
    for place, name in enumerate(names, start=1):
        results = tuple(ResultImage(path=path, content=i) for i, path in enumerate(sampler.of(place)))
        one = evaluator.evaluate(ResultFolder(name=name, results=results))
        evaluations.append(one._replace(system=_without_intervals(one.system)))
    baseline = System(name="input", measured=(), baseline=True)
    if against.reference:
        baseline = _without_intervals(evaluator.baseline("input", contents))
    return FrameQuality(
        frames=tuple(sampler.numbers),
        contents=contents,
        baseline=baseline,
        evaluations=tuple(evaluations),
        facts=against.facts,
        notes=(_ALIKE, *_notes(against, evaluator)),
    )


def _without_intervals(system: System) -> System:
    """Intervals would take the frames of a clip for independent images."""
    return replace(system, measured=tuple(replace(measured, interval=None) for measured in system.measured))


def _notes(against: FrameReference, evaluator: Evaluator) -> Iterator[str]:
    if against.reference:
        yield _FEW_SCENES
        yield from suite_notes(against.suite, evaluator)
        if len(against.reference) < MIN_REFERENCES:
            yield f"The reference has few images: {MIN_REFERENCES} or more make distances from it meaningful."
    elif against.suite.extractors:
        yield "Distances are not measured: they need --reference, images of the target domain."
    else:
        yield "Distances and feature similarity are not measured: they need --features, a feature network."
    if against.suite.extractors and against.suite.squeezenet is None:
        yield "Feature similarity, and a classifier, need a SqueezeNet .npz among --features."


def _rounded(score: np.floating[Any]) -> float | None:
    return None if np.isnan(score) else round(float(score), 4)
