"""Dividing jobs into units of work."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dsmap.runtime.cluster.units import FolderUnit, JobsUnit, Unit, VideoUnit
from dsmap.runtime.jobs.batch import CheckedJob
from dsmap.runtime.jobs.images import prepare_folder
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.stored import is_stored

_Image = TypeVar("_Image")
_MOST_IMAGES = 32  # in a unit
_ROUNDS = 8  # units for each worker: so many that the last ones end at about the same time


def plan_units(todo: Sequence[CheckedJob], request: VideoRequest, *, workers: int, seconds: float) -> list[Unit]:
    """The units of the jobs whose inputs are good, long videos first: none begins when all others are nearly done.

    `seconds`: the length of segments. Makes the folders for results of image folders.
    """
    good = [(number, one) for number, one in enumerate(todo) if one.error is None]
    videos = sorted((one for one in good if one[1].job.kind == "video"), key=lambda one: -_weight(one[1]))
    images = [one for one in good if one[1].job.kind in ("image", "frame")]
    folders = [one for one in good if one[1].job.kind == "folder"]
    units: list[Unit] = [
        VideoUnit(number, one, seconds) if _is_file(one.job.source) else JobsUnit(((number, one),))
        for number, one in videos
    ]
    for number, one in folders:
        units += _folder_units(number, one, request, workers)
    units += [JobsUnit(tuple(some)) for some in _batches(images, workers)]
    return units


def _is_file(source: Path | str) -> bool:
    """Whether it is a file, here or in a store: neither a stream nor a sequence of images."""
    return isinstance(source, Path) or is_stored(source)


def _folder_units(number: int, one: CheckedJob, request: VideoRequest, workers: int) -> Iterator[FolderUnit]:
    names = prepare_folder(Path(one.job.source), one.job.output, resume=request.options.resume)
    for part, some in enumerate(_batches(list(names.items()), workers)):
        yield FolderUnit(number, part, one, dict(some))


def _batches(images: Sequence[_Image], workers: int) -> Iterator[Sequence[_Image]]:
    size = max(1, min(_MOST_IMAGES, len(images) // (max(1, workers) * _ROUNDS)))
    return (images[start : start + size] for start in range(0, len(images), size))


def _weight(one: CheckedJob) -> float:
    """How much work a video is: its pixels. A stream without a length is the most."""
    facts = one.facts
    if facts is None or facts.frames is None:
        return float("inf")
    return float(facts.frames * facts.width * facts.height)
