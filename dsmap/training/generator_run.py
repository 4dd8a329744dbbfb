"""Parts of runs that train generators without discriminators: their images, progress and checkpoint."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from dsmap.common.notify import Notify
from dsmap.common.text import duration
from dsmap.errors import DsmapError, InputError
from dsmap.model.dsmap import DSMAP
from dsmap.training.checkpoint import Checkpoint, save_checkpoint
from dsmap.training.data import Broken
from dsmap.training.datasets import Domains, check_same_domains, find_domains
from dsmap.training.requests import GeneratorRunRequest
from dsmap.training.run_log import write_config

_SILENCE = 10.0  # seconds


class HasStep(Protocol):
    """Progress of an iteration; steps count from 1."""

    @property
    def step(self) -> int: ...


ProgressT = TypeVar("ProgressT", bound=HasStep)


def find_images(request: GeneratorRunRequest, names: tuple[str, str]) -> Domains:
    """The images of `request` in the order of a network's domains `names`. Raises InputError if there are none."""
    if request.data is None and not request.domain_folders:
        raise InputError("no images were passed", "Pass --data FOLDER, or --domain NAME=PATH twice.")
    found = find_domains(request.data, request.domain_folders, names=names)
    check_same_domains(found, names)
    return Domains(*sorted(found, key=lambda domain: names.index(domain.name)))


def report_progress(
    progress: Iterable[ProgressT], steps: int, every: int, losses: Callable[[ProgressT], str], say: Notify
) -> None:
    """Runs all iterations; reports one in `every`, those after a long silence, and the last."""
    began = told = None
    for now in progress:
        at = time.monotonic()
        began, told = began or at, told or at
        if now.step % every == 0 or now.step == steps or at - told > _SILENCE:
            told = at
            rate = (now.step - 1) / max(at - began, 1e-9)
            left = f", {duration((steps - now.step) / rate)} left" if rate and now.step < steps else ""
            say(f"step {now.step}/{steps}  {rate:.2f} it/s{left}  {losses(now)}")


def report_images(paths: Sequence[Path], say: Notify) -> Iterator[Path]:
    """`paths`, one after the other; after each long silence, how many of them are done."""
    began = told = time.monotonic()
    for done, path in enumerate(paths):
        at = time.monotonic()
        if done and at - told > _SILENCE:
            told, rate = at, done / max(at - began, 1e-9)
            say(f"image {done}/{len(paths)}  {rate:.2f} images/s, {duration((len(paths) - done) / rate)} left")
        yield path


def report_broken(say: Notify) -> Callable[[Broken], None]:
    """Makes the callback that reports an image that cannot be read."""
    return lambda broken: say(f"skipped a broken image: {broken.fact}")


def save_generators(checkpoint: Checkpoint, model: DSMAP) -> None:
    """Writes a checkpoint that holds only generators, then the run's configuration. Raises DsmapError on failure."""
    run = checkpoint.path.parent.parent
    try:
        save_checkpoint(checkpoint, {"generators": model, "ema": model}, {})
        write_config(run, checkpoint.config)
    except DsmapError as error:
        raise DsmapError(error.fact, "Free disk space, then run again into a new folder.") from error
