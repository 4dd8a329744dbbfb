"""Conditions for starting a training or resuming it from a checkpoint, and changed settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dsmap.config import NOT_SHAPING, TrainConfig
from dsmap.errors import InputError
from dsmap.training.checkpoint import Checkpoint, read_checkpoint
from dsmap.training.checkpoint_folders import check_free_names, check_holds_no_training, list_checkpoints
from dsmap.training.datasets import Domains, Fingerprint, fingerprint


def check_startable(
    config: TrainConfig, domains: Domains, run: Path, resume: Path | None, allow_new_data: bool = False
) -> None:
    """Raises InputError unless a training can start in `run`, or resume there from the checkpoint `resume`."""
    for domain in domains:
        if len(domain.train) < 2:  # not only at the first checkpoint
            raise InputError(f"domain {domain.name!r} has one image, expected two or more", "Add images of it.")
    if resume is not None:
        data = None if allow_new_data else {domain.name: fingerprint(domain) for domain in domains}
        check_resumable(read_checkpoint(resume), config, run, data)
    else:
        check_holds_no_training(run)
    first = 0 if resume is None else read_checkpoint(resume).step + 1
    check_free_names(run / "checkpoints", first, config.steps)


def check_resumable(
    checkpoint: Checkpoint, config: TrainConfig, run: Path, data: Mapping[str, Fingerprint] | None = None
) -> None:
    """Raises InputError if `config` has another architecture or fewer steps, or `run` holds later checkpoints.

    Also if `data`, the fingerprints of the present images, differ from those of the checkpoint; None skips this check.
    """
    writers = {"dsmap-polish": checkpoint.polished, "dsmap-distill": checkpoint.distilled}
    writer = next((name for name, what in writers.items() if what is not None), None)
    if writer is not None:
        raise InputError(
            f"{checkpoint.path} was written by {writer} and cannot be resumed",
            f"Start a new training from it: --start-from {checkpoint.path}",
        )
    for key, (then, now) in changed_settings(checkpoint.config, config).items():
        if key.startswith(("model.", "discriminator.")) and key not in NOT_SHAPING:
            raise InputError(
                f"the checkpoint {checkpoint.path} is of another architecture: {key} got {now}, expected {then}",
                f"Resume with the settings in {run / 'config.yaml'}, or start a new run with another -o.",
            )
    if checkpoint.step > config.steps:
        raise InputError(
            f"the checkpoint {checkpoint.path} is at step {checkpoint.step}, beyond the {config.steps} requested",
            "Pass larger --steps, or export that checkpoint as it is.",
        )
    later = [path for path in list_checkpoints(run / "checkpoints") if int(path.name) > checkpoint.step]
    if later:  # a later --resume auto would continue from those
        raise InputError(
            f"{run} holds {len(later)} checkpoints after step {checkpoint.step}, the last at {int(later[-1].name)}",
            "Resume from the last (--resume auto), remove them, or continue in another folder (-o).",
        )
    for domain, then in checkpoint.data.items() if data is not None else ():
        now = data[domain]  # type: ignore[index]  # the names are of the architecture
        if now != then:
            same = "as many, but their names or sizes differ" if now.pictures == then.pictures else now.pictures
            raise InputError(
                f"the checkpoint {checkpoint.path} is of other images: {domain} got {same}, expected {then.pictures}",
                f"They were in {', '.join(checkpoint.images[domain])}. To continue with these, pass --allow-new-data.",
            )


def changed_settings(then: TrainConfig, now: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Every setting that differs, nested keys with dots: (then, now)."""
    before, after = _flat(then), _flat(now)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _flat(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: value}
    return flat
