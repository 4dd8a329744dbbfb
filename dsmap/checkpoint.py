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
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsmap.common.files import part_folder, replace_folder
from dsmap.common.strict_json import read_json
from dsmap.config import MAX_STEPS, MAX_WIDTH, TrainConfig, parse_settings
from dsmap.domains import Fingerprint
from dsmap.errors import DsmapError, InputError
from dsmap.model import DSMAP
from dsmap.official import load_official
from dsmap.quality import Score
from dsmap.styles import StyleStatistics

__all__ = ["FORMAT_VERSION", "Checkpoint", "find_checkpoint", "load_generators", "load_official", "read_checkpoint"]

FORMAT_VERSION = 1
METADATA = "training.json"
_MAX_METADATA = 16_000_000  # bytes
_ANOTHER = "Use another checkpoint of the run."
_WEIGHTS = ("generators", "ema", "discriminators", "optimizers")
_FILES = frozenset({METADATA, *(f"{name}.safetensors" for name in _WEIGHTS)})
_NAME = re.compile(r"\d{8,}")
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
_LEFT_OVER = re.compile(r"\.\d{8,}(\.[0-9a-f]{8})?\.(part|old)")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


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


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdecimal() and is_checkpoint(p))


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the folder of a whole checkpoint."""
    return (path / METADATA).is_file()


def best_checkpoint(run: Path) -> Checkpoint:
    """The checkpoint of a run with the lowest kernel distance; InputError when none was scored."""
    found = _best(list_checkpoints(run / "checkpoints"))
    if not found:
        raise InputError(
            f"no checkpoint in {run} has a score", "Pass the run folder of a training with score_pictures."
        )
    return list(found.values())[-1]


class _Styles(_Part):
    mean: list[float] = Field(max_length=MAX_WIDTH)
    std: list[Annotated[float, Field(ge=0)]] = Field(max_length=MAX_WIDTH)
    pictures: int = Field(ge=0)


class _Data(_Part):
    pictures: int = Field(ge=0)
    sha256: str = Field(max_length=64)


class _Score(_Part):
    features: str = Field(max_length=300)
    basis: str = Field(max_length=64)
    by_domain: dict[str, float] = Field(max_length=2)


class _Metadata(_Part):
    """What training.json holds."""

    format_version: int = Field(ge=1)
    step: int = Field(ge=0, le=MAX_STEPS)
    config: dict[str, Any]
    styles: dict[str, _Styles]
    pictures: dict[str, Annotated[list[str], Field(max_length=100_000)]]
    data: dict[str, _Data] = {}
    processes: int = Field(default=1, ge=1, le=1_000_000)
    score: _Score | None = None
    polished: dict[str, Any] | None = None
    distilled: dict[str, Any] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """What the checkpoint at `path` (or the latest of the run folder `path`) says of itself.

    Raises InputError with the first thing in it that is not as a training writes it.
    """
    path = find_checkpoint(path)
    where = path / METADATA
    tree = read_json(where, limit=_MAX_METADATA, what="the checkpoint's", advice=_ANOTHER)
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{path} has checkpoint format {version}; this dsmap reads up to {FORMAT_VERSION}", "Update dsmap."
        )
    try:
        found = _Metadata.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"])
        raise InputError(f"{where}: {place + ': ' if place else ''}{first['msg']}", _ANOTHER) from error
    config = parse_settings(TrainConfig, found.config, f"{where}")
    _check_domains(found, config, where)
    return Checkpoint(
        path,
        found.step,
        config,
        {domain: StyleStatistics(s.mean, s.std, s.pictures) for domain, s in found.styles.items()},
        found.pictures,
        {domain: Fingerprint(seen.pictures, seen.sha256) for domain, seen in found.data.items()},
        found.processes,
        Score(found.score.features, found.score.basis, found.score.by_domain) if found.score else None,
        found.polished,
        found.distilled,
    )


def _check_domains(found: _Metadata, config: TrainConfig, where: Path) -> None:
    """Raises InputError unless all is of the two domains, and styles are as long as the network's."""
    names, length = config.model.domains, config.model.style_dim
    of_domains = {"styles": found.styles, "pictures": found.pictures, "data": found.data}
    if found.score:
        of_domains["score.by_domain"] = found.score.by_domain
    for key, tree in of_domains.items():
        if set(tree) != set(names) and (tree or key == "styles"):
            got = ", ".join(name[:60] for name in list(tree)[:3]) or "nothing"
            raise InputError(f"{where}: {key} is of {got}, expected {', '.join(names)}", _ANOTHER)
    for domain, styles in found.styles.items():
        if not len(styles.mean) == len(styles.std) == length:
            raise InputError(
                f"{where}: styles.{domain} has {len(styles.mean)} means and {len(styles.std)} deviations, "
                f"expected {length}",
                _ANOTHER,
            )


def load_generators(checkpoint: Checkpoint, weights: str = "ema") -> DSMAP:
    """The generators of a checkpoint on the CPU in eval mode; `weights` is `ema` (averaged) or `generators` (live)."""
    path = checkpoint.path / f"{weights}.safetensors"
    with torch.device("meta"):  # takes no memory: a file may say that it is of a network of any size
        _check_fits(DSMAP(checkpoint.config.model), path)
    model = DSMAP(checkpoint.config.model)
    load_into(model, path)
    return model.eval()


def load_into(module: nn.Module, path: Path) -> None:
    """Copies a safetensors file into `module`; InputError names the first weight that is missing or does not fit."""
    _check_fits(module, path)
    module.load_state_dict(_read_tensors(path))


def _check_fits(module: nn.Module, path: Path) -> None:
    """Raises InputError unless the file holds the weights of `module`; reads its header only."""
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
    """Writes the folder `checkpoint.path` whole or not at all. `modules` and `optimizers` by the names of their files.

    An optimiser's name is that of the module it trains. Raises DsmapError when it cannot be written (disk full).
    """
    final = checkpoint.path
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
    part = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(final) and _files_in(final) is None:
            raise _in_the_way(final)
        part = part_folder(final)
        for name, module in modules.items():
            save_file(
                {key: value.contiguous() for key, value in module.state_dict().items()}, part / f"{name}.safetensors"
            )
        save_file(_optimizer_tensors(modules, optimizers), part / "optimizers.safetensors")
        (part / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        replace_folder(part, final)
    except (OSError, SafetensorError) as error:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        raise DsmapError(
            f"cannot write the checkpoint {final}: {error}", "Free disk space, then continue with --resume auto."
        ) from error


def check_free_names(folder: Path, first: int, last: int) -> None:
    """Raises InputError where something that no training made has a name in `folder` of a step from first to last."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and first <= int(path.name) <= last and _files_in(path) is None:
            raise _in_the_way(path)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Removes all checkpoints in `folder` but the last `keep` and the best, and what a killed training left over.

    Nothing else is touched: other names, links, and folders in which there is anything that no training wrote.
    """
    found = list_checkpoints(folder)
    best = {checkpoint.path for checkpoint in _best(found).values()}
    old = [path for path in found[:-keep] if path not in best and _NAME.fullmatch(path.name)]
    # An empty folder with a number for its name may be anybody's.
    halves = [
        path for path in folder.iterdir() if _NAME.fullmatch(path.name) and not is_checkpoint(path) and _files_in(path)
    ]
    left_over = [path for path in folder.iterdir() if _LEFT_OVER.fullmatch(path.name)]
    for path in (*old, *halves, *left_over):
        if _files_in(path) is not None:
            _remove(path)


def _files_in(path: Path) -> list[str] | None:
    """The names in a folder that holds files of a checkpoint and nothing else; None for everything else, and links."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            return None
        with os.scandir(path) as entries:
            inside = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
    except OSError:
        return None
    ours = all(name in _FILES and stat.S_ISREG(mode) for name, mode in inside)
    return [name for name, _mode in inside] if ours else None


def _remove(path: Path) -> None:
    """Removes a folder of ours: its known files only, so that what comes in meanwhile stays."""
    with suppress(OSError):
        (path / METADATA).unlink(missing_ok=True)  # first: half a folder is no checkpoint
        for name in _FILES:
            (path / name).unlink(missing_ok=True)
        path.rmdir()


def _in_the_way(path: Path) -> InputError:
    return InputError(
        f"{path} has the name of a checkpoint, but holds what no training wrote", "Move it to another folder."
    )


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
    path /= "optimizers.safetensors"
    tensors = _read_tensors(path)
    for name, optimizer in optimizers.items():
        for key, parameter in modules[name].named_parameters():
            state = {}
            for part in ("step", "exp_avg", "exp_avg_sq"):
                shape = () if part == "step" else tuple(parameter.shape)
                state[part] = _adam_state(tensors, f"{name}/{key}/{part}", shape, path)
            optimizer.state[parameter] = {
                # The moments lie in memory as their parameter does: fused Adam goes through all of them in one order.
                part: value.to(parameter.device) if part == "step" else torch.empty_like(parameter).copy_(value)
                for part, value in state.items()
            }


def _adam_state(tensors: Mapping[str, Tensor], key: str, shape: tuple[int, ...], path: Path) -> Tensor:
    """One number or moment of Adam's; InputError when it is missing, of another shape or not finite."""
    value = tensors.get(key)
    if value is None:
        raise InputError(f"{path.parent} lacks the optimiser's state {key!r}", _ANOTHER)
    if tuple(value.shape) != shape or value.dtype != torch.float32:
        raise InputError(
            f"{path}: {key} is {tuple(value.shape)} of {value.dtype}, expected {shape} of float32", _ANOTHER
        )
    if not bool(value.isfinite().all()) or (not shape and not 0 <= value.item() <= MAX_STEPS):
        raise InputError(f"{path}: {key} holds what no optimiser does", _ANOTHER)
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
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
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
    """Raises InputError for what is there but no file: opening a pipe would wait for ever."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", _ANOTHER) from error
    if not regular:
        raise InputError(f"cannot read {path}: it is no file", _ANOTHER)
