"""Generators from wherever a user has them, and what dsmap-polish and dsmap-distill share."""

from pathlib import Path
from typing import TYPE_CHECKING

from dsmap.errors import DsmapError, InputError

if TYPE_CHECKING:
    from dsmap.checkpoint import Checkpoint
    from dsmap.config import TrainConfig
    from dsmap.domains import Domains
    from dsmap.model import DSMAP


def read_generators(given: str) -> "DSMAP":
    """Those of a run (the latest checkpoint's), a checkpoint, a bundle or a bundled model, averaged, in eval mode."""
    from dsmap.checkpoint import find_checkpoint, load_generators, read_checkpoint
    from dsmap.runtime.bundle import MANIFEST, Bundle
    from dsmap.runtime.models import bundled_models, find_model

    if given in bundled_models() or (Path(given) / MANIFEST).is_file():
        from dsmap.export.read_back import generators_of_bundle

        return generators_of_bundle(Bundle.read(find_model(given)))
    return load_generators(read_checkpoint(find_checkpoint(Path(given))))


def check_new(out: Path) -> None:
    """Raises InputError for a folder that holds a training, or anything else that is not ours to write over."""
    from dsmap.folders import check_run_folder

    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is there and not empty", "Choose a new folder with -o.")
    check_run_folder(out)


def pictures_for(data: Path | None, folders: list[tuple[str, Path]], names: tuple[str, str]) -> "Domains":
    """The pictures, in the order of a network's domains."""
    from dsmap.domains import Domains, check_same_domains, find_domains

    if data is None and not folders:
        raise InputError("no pictures are given", "Pass --data FOLDER, or --domain NAME=PATH twice.")
    found = find_domains(data, folders, names=names)
    check_same_domains(found, names)
    return Domains(*sorted(found, key=lambda domain: names.index(domain.name)))


def crop_for(config: "TrainConfig", with_features: bool) -> int:
    """Seven eighths of the picture's side, in whole blocks, but as much as the networks need."""
    from dsmap.features import FEATURES_MINIMUM_SIZE

    block, side = config.model.multiple_of, config.data.shorter_side
    least = max(config.model.style_minimum_size, FEATURES_MINIMUM_SIZE if with_features else 0)
    crop = max(side * 7 // 8 // block * block, -(-least // block) * block)
    if crop > side:
        raise InputError(
            f"the training's pictures have a shorter side of {side}, expected {crop} or more", "Use a larger training."
        )
    return crop


def save_generators(checkpoint: "Checkpoint", model: "DSMAP") -> None:
    """A checkpoint that has nothing but generators, then the run's configuration."""
    from dsmap.checkpoint import save_checkpoint
    from dsmap.run_log import write_config

    run = checkpoint.path.parent.parent
    try:
        save_checkpoint(checkpoint, {"generators": model, "ema": model}, {})
        write_config(run, checkpoint.config)
    except DsmapError as error:
        raise DsmapError(error.fact, "Free disk space, then run again into a new folder.") from error
