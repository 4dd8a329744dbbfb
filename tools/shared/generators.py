"""Generators from wherever a user has them, and what dsmap-polish and dsmap-distill share. Light to import."""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from dsmap.errors import DsmapError, InputError
from dsmap.tools.shared.cli import path_given
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.model.dsmap import DSMAP
    from dsmap.training.checkpoint import Checkpoint
    from dsmap.training.data import Broken
    from dsmap.training.datasets import Domains


NewRun = Annotated[
    Path, typer.Option("--output", "-o", parser=path_given, metavar="RUN", help="A new folder for the checkpoint.")
]
FeatureFile = Annotated[
    str | None, typer.Option("--features", help="Feature network: vgg16 (needs torchvision) or a SqueezeNet .npz file.")
]
LearningRate = Annotated[float, typer.Option("--lr", help="Learning rate at the start; it falls to 0.")]


class Step(Protocol):
    """What an iteration tells."""

    @property
    def step(self) -> int: ...


StepT = TypeVar("StepT", bound=Step)


def check_rate(lr: float, usual: str) -> None:
    """Raises InputError for a learning rate that is none; `usual` is one."""
    if not 0 < lr <= 1:
        raise InputError(f"--lr is {lr:g}", f"Pass a number above 0 and up to 1, such as {usual}.")


def weight_of_features(
    option: str, given: float | None, usual: float, features: str | None, below: float = math.inf
) -> float:
    """The weight of the feature network's loss: `usual` unless an option has `given` one. InputError for none."""
    if features is None and given is not None:
        raise InputError(f"{option} needs --features", f"Pass --features FILE.npz, or leave {option} out.")
    weight = usual if given is None else given
    if not 0 < weight < below:
        raise InputError(f"{option} is {weight:g}", "Pass a positive number, or leave out --features.")
    return weight


def follow(progress: Iterable[StepT], steps: int, every: int, numbers: Callable[[StepT], str]) -> None:
    """Goes through all iterations and tells of one in `every`, with its `numbers`, and of the last."""
    began = None
    for now in progress:
        began = began or time.monotonic()
        if now.step % every == 0 or now.step == steps:
            rate = (now.step - 1) / max(time.monotonic() - began, 1e-9)
            say(f"step {now.step}/{steps}  {rate:.2f} it/s  {numbers(now)}")


def tell_broken(broken: "Broken") -> None:
    """One line about an image that cannot be read."""
    say(f"skipped a broken image: {broken.fact}")


def read_generators(given: str) -> "DSMAP":
    """Those of a run (the latest checkpoint's), a checkpoint, a bundle or a bundled model, averaged, in eval mode."""
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import bundled_models, find_model
    from dsmap.runtime.bundle.manifest import MANIFEST
    from dsmap.training.checkpoint import find_checkpoint, load_generators, read_checkpoint

    if given in bundled_models() or (Path(given) / MANIFEST).is_file():
        from dsmap.export.bundle_to_torch import generators_of_bundle

        return generators_of_bundle(Bundle.read(find_model(given)))
    return load_generators(read_checkpoint(find_checkpoint(Path(given))))


def check_new(out: Path) -> None:
    """Raises InputError for a folder that holds a training, or anything else that is not ours to write over."""
    from dsmap.common.output_files import check_run_folder

    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is there and not empty", "Choose a new folder with -o.")
    check_run_folder(out)


def images_for(data: Path | None, folders: list[tuple[str, Path]], names: tuple[str, str]) -> "Domains":
    """The images, in the order of a network's domains."""
    from dsmap.training.datasets import Domains, check_same_domains, find_domains

    if data is None and not folders:
        raise InputError("no images are given", "Pass --data FOLDER, or --domain NAME=PATH twice.")
    found = find_domains(data, folders, names=names)
    check_same_domains(found, names)
    return Domains(*sorted(found, key=lambda domain: names.index(domain.name)))


def save_generators(checkpoint: "Checkpoint", model: "DSMAP") -> None:
    """A checkpoint that has nothing but generators, then the run's configuration."""
    from dsmap.training.checkpoint import save_checkpoint
    from dsmap.training.run_log import write_config

    run = checkpoint.path.parent.parent
    try:
        save_checkpoint(checkpoint, {"generators": model, "ema": model}, {})
        write_config(run, checkpoint.config)
    except DsmapError as error:
        raise DsmapError(error.fact, "Free disk space, then run again into a new folder.") from error
