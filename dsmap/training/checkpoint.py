"""Checkpoints: folders of safetensors and one JSON file, written atomically. Nothing in them is ever executed.

    checkpoints/00001000/
        training.json              step, configuration, style statistics, fingerprint of the images, score
        generators.safetensors     the live generators
        ema.safetensors            their moving average, which is exported
        discriminators.safetensors
        optimizers.safetensors     Adam's state, by parameter name

The authors' `gen_*.pt` are read by `load_official`.
"""

import json
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsmap import __version__
from dsmap.common.atomic import replace_folder
from dsmap.common.part_files import part_folder
from dsmap.config import MAX_STEPS, TrainConfig
from dsmap.errors import DsmapError, InputError
from dsmap.model.authors_checkpoint import load_official
from dsmap.model.dsmap import DSMAP
from dsmap.training.checkpoint_folders import (
    METADATA,
    files_in,
    in_the_way,
    is_checkpoint,
    list_checkpoints,
    removable,
    remove,
)
from dsmap.training.checkpoint_metadata import FORMAT_VERSION, read_metadata
from dsmap.training.checkpoint_score import Score
from dsmap.training.datasets import Fingerprint
from dsmap.training.style_statistics import StyleStatistics

__all__ = ["FORMAT_VERSION", "Checkpoint", "find_checkpoint", "load_generators", "load_official", "read_checkpoint"]

_ANOTHER = "Use another checkpoint of the run."
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


class Checkpoint(NamedTuple):
    """The metadata of a checkpoint folder; `load_generators` and `load_into` read the weights."""

    path: Path
    step: int
    config: TrainConfig
    styles: dict[str, StyleStatistics]
    """Style statistics of the averaged generators, by domain."""
    images: dict[str, list[str]]
    """Folders of each domain's training images, as absolute paths."""
    data: dict[str, Fingerprint]
    """Fingerprints of the training images; empty in early checkpoints."""
    processes: int
    """Number of training processes, each with its own batch."""
    score: Score | None
    """Score of the averaged generators, if measured."""
    polished: dict[str, Any] | None = None
    """How `dsmap-polish` trained the decoders, if it did."""
    distilled: dict[str, Any] | None = None
    """How `dsmap-distill` trained the generators, if it did."""


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder at `path`: itself, or the latest one of a run folder."""
    if is_checkpoint(path):
        return path
    for folder in (path / "checkpoints", path):
        found = list_checkpoints(folder)
        if found:
            return found[-1]
    what = "has no checkpoint in it" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
    raise InputError(
        f"{path} {what}", "Pass a run folder of dsmap-train or one of its checkpoints (RUN/checkpoints/00001000)."
    )


def best_checkpoint(run: Path) -> Checkpoint:
    """The checkpoint of a run with the lowest kernel distance. Raises InputError if none was scored."""
    found = _best(list_checkpoints(run / "checkpoints"))
    if not found:
        raise InputError(
            f"no checkpoint in {run} has a score", "Pass the run folder of a training with score_pictures."
        )
    return list(found.values())[-1]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the metadata of the checkpoint at `path`, or of the latest one of the run folder `path`.

    Raises InputError naming the first invalid entry.
    """
    path = find_checkpoint(path)
    found, config = read_metadata(path / METADATA)
    return Checkpoint(
        path,
        found.step,
        config,
        {domain: StyleStatistics(s.mean, s.std, s.pictures, s.axes) for domain, s in found.styles.items()},
        found.pictures,
        {domain: Fingerprint(seen.pictures, seen.sha256) for domain, seen in found.data.items()},
        found.processes,
        Score(found.score.features, found.score.basis, found.score.by_domain) if found.score else None,
        found.polished,
        found.distilled,
    )


def load_generators(checkpoint: Checkpoint, weights: str = "ema") -> DSMAP:
    """The generators of a checkpoint on the CPU in eval mode; `weights` is `ema` (averaged) or `generators` (live)."""
    path = checkpoint.path / f"{weights}.safetensors"
    with torch.device("meta"):  # takes no memory: a file may claim any network size
        _check_fits(DSMAP(checkpoint.config.model), path)
    model = DSMAP(checkpoint.config.model)
    load_into(model, path)
    return model.eval()


def load_into(module: nn.Module, path: Path) -> None:
    """Copy a safetensors file into `module`. Raises InputError naming the first missing or mismatched weight."""
    _check_fits(module, path)
    module.load_state_dict(_read_tensors(path))


def _check_fits(module: nn.Module, path: Path) -> None:
    """Raises InputError unless the file holds the weights of `module`; reads only its header."""
    state = {name: (tuple(value.shape), _DTYPES.get(value.dtype)) for name, value in module.state_dict().items()}
    found = _header(path)
    wrong = [name for name in {**state, **found} if found.get(name) != state.get(name)]
    if wrong:
        name = wrong[0]
        got, expected = ("nothing" if name not in of else f"{of[name][0]} of {of[name][1]}" for of in (found, state))
        raise InputError(
            f"{path}: {len(wrong)} weights do not fit this network; {name[:100]}: got {got}, expected {expected}",
            "It is a checkpoint of another architecture: use the configuration it was trained with.",
        )


def save_checkpoint(
    checkpoint: Checkpoint, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Write the folder `checkpoint.path` completely or not at all; `modules` by file name, `optimizers` by module name.

    Raises DsmapError if it cannot be written (disk full).
    """
    final = checkpoint.path
    metadata = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "config": checkpoint.config.model_dump(mode="json"),
        "styles": {domain: statistics._asdict() for domain, statistics in checkpoint.styles.items()},
        "pictures": checkpoint.images,
        "data": {domain: seen._asdict() for domain, seen in checkpoint.data.items()},
        "processes": checkpoint.processes,
        "score": checkpoint.score._asdict() if checkpoint.score else None,
        "polished": checkpoint.polished,
        "distilled": checkpoint.distilled,
    }
    part = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(final) and files_in(final) is None:
            raise in_the_way(final)
        part = part_folder(final)
        for name, module in modules.items():
            tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
            save_file(tensors, part / f"{name}.safetensors", {"format": "pt", **_about(checkpoint, name)})
        save_file(_optimizer_tensors(modules, optimizers), part / "optimizers.safetensors")
        (part / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        replace_folder(part, final)
    except (OSError, SafetensorError) as error:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        raise DsmapError(
            f"cannot write the checkpoint {final}: {error}", "Free disk space, then continue with --resume auto."
        ) from error


def _about(checkpoint: Checkpoint, weights: str) -> dict[str, str]:
    """What a file of weights says of itself where it is found alone: on the Hub, in a mail."""
    return {
        "library": "dsmap",
        "version": __version__,
        "weights": weights,
        "step": str(checkpoint.step),
        "domains": json.dumps(checkpoint.config.model.domains, ensure_ascii=False),
    }


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all checkpoints in `folder` but the last `keep` and the best, and leftovers of killed trainings.

    Nothing else is touched: other names, links, and folders that hold anything a training does not write.
    """
    found = list_checkpoints(folder)
    best = {checkpoint.path for checkpoint in _best(found).values()}
    for path in (*(path for path in found[:-keep] if path not in best), *removable(folder)):
        remove(path)


def _best(paths: Sequence[Path]) -> dict[str, Checkpoint]:
    """The checkpoint with the lowest score of each basis, as only those are comparable.

    The basis of the latest checkpoint comes last.
    """
    best: dict[str, tuple[float, Checkpoint]] = {}
    for path in paths:
        with suppress(InputError):  # a damaged checkpoint is never the best
            checkpoint = read_checkpoint(path)
            if checkpoint.score is not None:
                this = checkpoint.score.total, checkpoint
                leader = best.pop(checkpoint.score.basis, this)
                best[checkpoint.score.basis] = min(leader, this, key=lambda pair: pair[0])
    return {basis: checkpoint for basis, (_total, checkpoint) in best.items()}


def load_optimizers(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Restore the optimisers' state from `save_checkpoint`. Raises InputError if any is missing."""
    path /= "optimizers.safetensors"
    tensors = _read_tensors(path)
    for name, optimizer in optimizers.items():
        for key, parameter in modules[name].named_parameters():
            state = {}
            for part in ("step", "exp_avg", "exp_avg_sq"):
                shape = () if part == "step" else tuple(parameter.shape)
                state[part] = _adam_state(tensors, f"{name}/{key}/{part}", shape, path)
            optimizer.state[parameter] = {
                # Moments in the memory layout of their parameter: fused Adam iterates over all of them in one order.
                part: value.to(parameter.device) if part == "step" else torch.empty_like(parameter).copy_(value)
                for part, value in state.items()
            }


def _adam_state(tensors: Mapping[str, Tensor], key: str, shape: tuple[int, ...], path: Path) -> Tensor:
    """A step count or moment of Adam. Raises InputError if it is missing, of another shape or not finite."""
    value = tensors.get(key)
    if value is None:
        raise InputError(f"{path.parent} lacks the optimiser's state {key!r}", _ANOTHER)
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        raise InputError(
            f"{path}: {key} is {tuple(value.shape)} of {value.dtype}, expected {shape} of float32", _ANOTHER
        )
    if not bool(value.isfinite().all()) or (not shape and not 0 <= value.item() <= MAX_STEPS):
        raise InputError(f"{path}: {key} holds invalid values", _ANOTHER)
    return value


def _optimizer_tensors(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    return {
        f"{name}/{key}/{part}": value.contiguous()
        for name, optimizer in optimizers.items()
        for key, parameter in modules[name].named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str | None]]:
    """Shape and type of every tensor in a safetensors file."""
    _check_file(path)
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", _ANOTHER) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    _check_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", _ANOTHER) from error


def _check_file(path: Path) -> None:
    """Raises InputError unless it is a regular file: opening a pipe would wait forever."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", _ANOTHER) from error
    if not regular:
        raise InputError(f"cannot read {path}: it is not a regular file", _ANOTHER)
