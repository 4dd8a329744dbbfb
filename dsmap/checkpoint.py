"""Checkpoints: folders of safetensors and one JSON file, written beside and renamed. Nothing in them is ever run.

    checkpoints/00001000/
        training.json              step, configuration, style statistics, which pictures, how good
        generators.safetensors     the live generators
        ema.safetensors            their moving average: what is exported
        discriminators.safetensors
        optimizers.safetensors     Adam's state, by parameter name

The authors' `gen_*.pt` are read by `load_official`.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsmap.common.files import replace_folder
from dsmap.config import TrainConfig, parse_settings
from dsmap.domains import Fingerprint
from dsmap.errors import DsmapError, InputError
from dsmap.model import DSMAP
from dsmap.official import load_official
from dsmap.quality import Score
from dsmap.styles import StyleStatistics

__all__ = ["FORMAT_VERSION", "Checkpoint", "find_checkpoint", "load_generators", "load_official", "read_checkpoint"]

FORMAT_VERSION = 1
METADATA = "training.json"


class Checkpoint(NamedTuple):
    """What a checkpoint folder says of itself; the weights are read by `load_generators` and `load_into`."""

    path: Path
    step: int
    config: TrainConfig
    styles: dict[str, StyleStatistics]
    """Style statistics of the averaged generators, by domain."""
    pictures: dict[str, list[str]]
    """Where the training pictures of each domain were (folders, as absolute paths)."""
    data: dict[str, Fingerprint]
    """Which training pictures they were; empty in checkpoints of the first days."""
    processes: int
    """How many processes trained, each with a batch of its own."""
    score: Score | None
    """How good the averaged generators are, where that was measured."""
    polished: dict[str, Any] | None = None
    """How the decoders were trained further, by `dsmap-polish`."""
    distilled: dict[str, Any] | None = None
    """How the generators learnt from others, by `dsmap-distill`."""


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the latest one of a run folder."""
    if (path / METADATA).is_file():
        return path
    for folder in (path / "checkpoints", path):
        found = list_checkpoints(folder)
        if found:
            return found[-1]
    what = "has no checkpoint in it" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
    raise InputError(
        f"{path} {what}", "Pass a run folder of dsmap-train or one of its checkpoints (RUN/checkpoints/00001000)."
    )


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit() and (p / METADATA).is_file())


def best_checkpoint(run: Path) -> Checkpoint:
    """The checkpoint of a run with the lowest kernel distance; InputError when none was scored."""
    found = _best(list_checkpoints(run / "checkpoints"))
    if not found:
        raise InputError(
            f"no checkpoint in {run} has a score", "Pass the run folder of a training with score_pictures."
        )
    return list(found.values())[-1]


def read_checkpoint(path: Path) -> Checkpoint:
    """What the checkpoint at `path` (or the latest of the run folder `path`) says of itself."""
    path = find_checkpoint(path)
    advice = "Use another checkpoint of the run."
    try:
        tree = json.loads((path / METADATA).read_text(encoding="utf-8"))
        version = tree["format_version"]
        if version > FORMAT_VERSION:
            raise InputError(
                f"{path} has checkpoint format {version}; this dsmap reads up to {FORMAT_VERSION}", "Update dsmap."
            )
        styles = {domain: StyleStatistics(**statistics) for domain, statistics in tree["styles"].items()}
        config = parse_settings(TrainConfig, tree["config"], f"{path / METADATA}")
        data = {domain: Fingerprint(**seen) for domain, seen in tree.get("data", {}).items()}
        score = Score(**tree["score"]) if tree.get("score") else None
        of_run = tree["pictures"], data, tree.get("processes", 1)
        return Checkpoint(
            path, tree["step"], config, styles, *of_run, score, tree.get("polished"), tree.get("distilled")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path / METADATA}: {error!r}", advice) from error


def load_generators(checkpoint: Checkpoint, weights: str = "ema") -> DSMAP:
    """The generators of a checkpoint on the CPU in eval mode; `weights` is `ema` (averaged) or `generators` (live)."""
    model = DSMAP(checkpoint.config.model)
    load_into(model, checkpoint.path / f"{weights}.safetensors")
    return model.eval()


def load_into(module: nn.Module, path: Path) -> None:
    """Copies a safetensors file into `module`; InputError names the first weight that is missing or does not fit."""
    tensors = _read_tensors(path)
    state = module.state_dict()
    wrong = [name for name, value in state.items() if name not in tensors or tensors[name].shape != value.shape]
    wrong += [name for name in tensors if name not in state]
    if wrong:
        name = wrong[0]
        got = tuple(tensors[name].shape) if name in tensors else "nothing"
        expected = tuple(state[name].shape) if name in state else "nothing"
        raise InputError(
            f"{path}: {len(wrong)} weights do not fit this network; {name}: got {got}, expected {expected}",
            "It is a checkpoint of another architecture: use the configuration it was trained with.",
        )
    module.load_state_dict(tensors)


def save_checkpoint(
    checkpoint: Checkpoint, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Writes the folder `checkpoint.path` whole or not at all. `modules` and `optimizers` by the names of their files.

    An optimiser's name is that of the module it trains. Raises DsmapError when it cannot be written (disk full).
    """
    final = checkpoint.path
    part = final.with_name(f".{final.name}.part")
    metadata = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "config": checkpoint.config.model_dump(mode="json"),
        "styles": {domain: statistics._asdict() for domain, statistics in checkpoint.styles.items()},
        "pictures": checkpoint.pictures,
        "data": {domain: seen._asdict() for domain, seen in checkpoint.data.items()},
        "processes": checkpoint.processes,
        "score": checkpoint.score._asdict() if checkpoint.score else None,
        "polished": checkpoint.polished,
        "distilled": checkpoint.distilled,
    }
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, module in modules.items():
            save_file(
                {key: value.contiguous() for key, value in module.state_dict().items()}, part / f"{name}.safetensors"
            )
        save_file(_optimizer_tensors(modules, optimizers), part / "optimizers.safetensors")
        (part / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        for path in part.iterdir():
            _flush(path)
        replace_folder(part, final)
        _flush(final.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DsmapError(
            f"cannot write the checkpoint {final}: {error}", "Free disk space, then continue with --resume auto."
        ) from error


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Removes all checkpoints in `folder` but the last `keep` and the best, and what a killed training left over."""
    found = list_checkpoints(folder)
    best = {checkpoint.path for checkpoint in _best(found).values()}
    for path in found[:-keep]:
        if path not in best:
            with suppress(OSError):
                (path / METADATA).unlink()  # first: half a folder is no checkpoint
                shutil.rmtree(path)
    for path in folder.iterdir():
        if path.name.endswith((".part", ".old")) or (path.name.isdigit() and not (path / METADATA).is_file()):
            shutil.rmtree(path, ignore_errors=True)


def _best(paths: Sequence[Path]) -> dict[str, Checkpoint]:
    """The one with the lowest score for every basis of scores: only scores of one basis can be compared.

    The basis of the latest comes last.
    """
    best: dict[str, tuple[float, Checkpoint]] = {}
    for path in paths:
        with suppress(InputError):  # a damaged one is not the best
            checkpoint = read_checkpoint(path)
            if checkpoint.score is not None:
                this = checkpoint.score.total, checkpoint
                leader = best.pop(checkpoint.score.basis, this)
                best[checkpoint.score.basis] = min(leader, this, key=lambda pair: pair[0])
    return {basis: checkpoint for basis, (_total, checkpoint) in best.items()}


def load_optimizers(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Gives the optimisers the state that `save_checkpoint` wrote for them; InputError when some is missing."""
    tensors = _read_tensors(path / "optimizers.safetensors")
    for name, optimizer in optimizers.items():
        for key, parameter in modules[name].named_parameters():
            try:
                state = {part: tensors[f"{name}/{key}/{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
            except KeyError as error:
                raise InputError(
                    f"{path} lacks the optimiser's state {error}", "Use another checkpoint of the run."
                ) from error
            optimizer.state[parameter] = {
                # The moments lie in memory as their parameter does: fused Adam goes through all of them in one order.
                part: value.to(parameter.device) if part == "step" else torch.empty_like(parameter).copy_(value)
                for part, value in state.items()
            }


def _optimizer_tensors(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    return {
        f"{name}/{key}/{part}": value.contiguous()
        for name, optimizer in optimizers.items()
        for key, parameter in modules[name].named_parameters()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "Use another checkpoint of the run.") from error


def _flush(path: Path) -> None:
    """Waits until the file, or the folder's list of names, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
