"""Reads files of weights by other trainers: state dicts, wherever a file keeps them. No code in a file is run."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
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
        raise InputError(
            f"{path} is not a file of plain weights ({_reason(error)})", f"Nothing in it was run. {advice}"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of PyTorch's error, but for advice on running what the file holds."""
    text = str(error).strip()
    if code := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text):
        return f"it holds {code[1][:60]}, which is code"
    if text.startswith("Weights only load failed"):
        return "it holds more than numbers and names"
    return text.splitlines()[0][:160] if text else type(error).__name__


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
    """Raises InputError for weights that are no plain numbers in the file, or not finite in float32."""
    for key, value in state.items():
        if not _is_plain(value):
            raise InputError(
                f"{path}: {shown([key])} is not an array of numbers that the file holds",
                "Save the weights as float tensors on the CPU: no sparse, quantized, expanded or empty (meta) ones.",
            )
        if not torch.isfinite(value.float()).all():
            raise InputError(f"{path}: {shown([key])} is not of finite numbers", "Pass an earlier checkpoint.")


def _is_plain(value: Tensor) -> bool:
    """Whether the file has each of its numbers: an expanded tensor takes more memory than the file, without bounds."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    return value.is_floating_point() and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def impossible(error: ValidationError) -> InputError:
    """For the settings of a network that the weights, or the names of its domains, lead to and that cannot be."""
    first = error.errors(include_input=False)[0]
    of = f"{first['loc'][0]}: " if first["loc"] else ""
    reason = first["msg"].removeprefix("Value error, ")
    return InputError(f"the network cannot be: {of}{reason}", "Check --domains and the checkpoint.")


def shown(things: Iterable[object]) -> str:
    """The first dozen of names, for a message."""
    return ", ".join(str(thing)[:60] for thing in list(things)[:12]) or "none"
