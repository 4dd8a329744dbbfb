"""Reads files of weights by other trainers: state dicts, wherever a file keeps them. No code in a file is run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsmap.common.archives import check_archive
from dsmap.errors import InputError

StateDict = Mapping[str, Tensor]

NORM_BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")
"""What instance norms of old versions of PyTorch kept: those that the generators have never read it."""


def load_foreign(path: Path, advice: str) -> Any:
    """What a file of plain weights holds. Raises InputError for every other file."""
    check_archive(path, "the checkpoint", advice)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types; each means that the file is not plain weights
        lines = str(error).strip().splitlines()
        reason = lines[0][:160] if lines else type(error).__name__
        raise InputError(
            f"{path} is not a file of plain weights ({reason})", f"Nothing in it was run. {advice}"
        ) from error


def state_dicts(tree: Any) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a file, by where they are: itself, or what one or two keys lead to, as "key." and "k.l."."""
    return _state_dicts(tree, "", depth=2)


def _state_dicts(tree: Any, place: str, depth: int) -> dict[str, dict[str, Tensor]]:
    if not isinstance(tree, Mapping):
        return {}
    here = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    found = {place: here} if here else {}
    for key, value in tree.items() if depth else ():
        if isinstance(key, str):
            found |= _state_dicts(value, f"{place}{key}.", depth - 1)
    return found


def check_finite(state: StateDict, path: Path) -> None:
    """Raises InputError for weights that are no numbers, or not finite."""
    for key, value in state.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise InputError(f"{path}: {shown([key])} is not of finite numbers", "Pass an earlier checkpoint.")


def shown(things: Iterable[object]) -> str:
    """The first dozen of names, for a message."""
    return ", ".join(str(thing)[:60] for thing in list(things)[:12]) or "none"
