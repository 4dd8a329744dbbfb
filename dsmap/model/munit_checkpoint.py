"""Reads checkpoints in MUNIT's published layout: both generators in one file, such as gen_01000000.pt.

    found = read_munit(Path("gen_01000000.pt"))  # which knows its widths and depths
    model = build_munit(("shoes", "edges"), found)

`a` and `b` of such a file each hold a content encoder (`enc_content`), a style encoder (`enc_style`), an MLP (`mlp`)
and a decoder (`dec`). Not in it: padding and activation, which are reflection and ReLU in all published settings.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from dsmap.errors import InputError
from dsmap.model.foreign_weights import (
    NORM_BUFFERS,
    StateDict,
    check_finite,
    impossible,
    load_foreign,
    shown,
    state_dicts,
)
from dsmap.model.munit import MUNIT, MUNITConfig
from dsmap.model.two_domains import SLOTS

ADVICE = "Pass a checkpoint with both generators of a MUNIT, such as gen_01000000.pt."
_FIRST = "enc_content.model.0.conv.weight"
_DOWN = re.compile(r"enc_content\.model\.(\d{1,4})\.conv\.weight")
_BLOCK = re.compile(r"enc_content\.model\.\d+\.model\.(\d{1,4})\.model\.0\.conv\.weight")
_OF_SLOT = re.compile(r"(?:.*[._])?([ab])(?:\.module)?\.", re.DOTALL)
_SIGN = re.compile(r"(^|\.)(enc_content\.|enc\.model\.|cnns\.\d)")
_STYLE_CONVS, _STYLE_HEAD, _MLP_LAYERS = 5, 6, 3


class ForeignMUNIT(NamedTuple):
    """The settings and the weights of both generators, the latter under their own names, by slot."""

    settings: dict[str, int]
    """Fields of `MUNITConfig`."""
    states: dict[str, dict[str, Tensor]]
    path: Path


def is_munit(tree: Any) -> bool:
    """Whether a file comes from MUNIT's trainer or a relative's, and so not from CycleGAN's."""
    return any(_SIGN.search(key) for flat in state_dicts(tree).values() for key in flat)


def read_munit(path: Path, tree: Any = None) -> ForeignMUNIT:
    """The generators in a file. Raises InputError, in two lines, for every other file and every other layout.

    `tree`: what the file holds, if that is known already.
    """
    states = _generators(load_foreign(path, ADVICE) if tree is None else tree, path)
    for slot, state in states.items():
        check_finite(state, path)
        _refuse_others(state, f"{path}, {slot}")
    found = {slot: _settings(state, path) for slot, state in states.items()}
    if found["a"] != found["b"]:
        differ = [name for name in found["a"] if found["a"][name] != found["b"][name]]
        told = ", ".join(f"{name} {found['a'][name]} and {found['b'][name]}" for name in differ)
        raise InputError(f"the two generators in {path} differ: {told}", ADVICE)
    return ForeignMUNIT(found["a"], states, path)


def build_munit(domains: tuple[str, str], found: ForeignMUNIT) -> MUNIT:
    """The model, in eval mode on the CPU; `a` of the checkpoint is the first domain.

    Raises InputError for domains and widths that cannot be, and for weights that are missing, of another shape, or more
    than the layout has.
    """
    try:
        config = MUNITConfig.model_validate({"domains": domains, **found.settings})
    except ValidationError as error:
        raise impossible(error) from error
    with torch.device("meta"):  # before the networks take memory
        shapes = {name: value.shape for name, value in MUNIT(config).named_parameters()}
    weights: dict[str, Tensor] = {}
    for slot, state in found.states.items():
        weights |= _renamed(config, slot, state, f"{found.path}, {slot}")
    for name, expected in shapes.items():
        if weights[name].shape != expected:
            got = tuple(weights[name].shape)
            raise InputError(
                f"{found.path}: {name} has the shape {got}, expected {tuple(expected)}",
                "Only MUNIT's own widths are known: each strided convolution of the content doubles them.",
            )
    model = MUNIT(config)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _generators(tree: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """Both generators' weights within what a file holds, by slot, without the names that wrap them."""
    flat = {f"{place}{key}": value for place, inside in state_dicts(tree).items() for key, value in inside.items()}
    starts = [key.removesuffix(_FIRST) for key in flat if key.endswith(_FIRST)]
    slots = {match[1]: start for start in starts if (match := _OF_SLOT.fullmatch(start))}
    if len(starts) == 2 and len(slots) == 2:
        return {
            slot: {
                key.removeprefix(slots[slot]): value
                for key, value in flat.items()
                if key.startswith(slots[slot]) and not key.endswith(NORM_BUFFERS)
            }
            for slot in SLOTS
        }
    if starts:
        names = shown(start.strip(".") or "without a name" for start in starts)
        raise InputError(f"{path} holds {len(starts)} generators ({names}), expected two, a and b", ADVICE)
    raise InputError(f"{path} holds {_what_else(flat)}, not the generators of a MUNIT", _advice(flat))


def _what_else(flat: StateDict) -> str:
    """What a file without such generators has, in a few words."""
    if _is_dsmap(flat):
        return "generators of DSMAP"
    if any("enc.model." in key for key in flat):
        return "generators without a style encoder, as UNIT has"
    if any("cnns." in key for key in flat):
        return "discriminators"
    return f"weights such as {shown(list(flat)[:3])}" if flat else "no weights"


def _advice(flat: StateDict) -> str:
    return "Pass it to dsmap export, with --official CONFIG.yaml." if _is_dsmap(flat) else ADVICE


def _is_dsmap(flat: StateDict) -> bool:
    return any("enc_content.prelayer_" in key for key in flat)


def _refuse_others(state: StateDict, where: str) -> None:
    """Raises InputError for relatives of the layout that another network belongs to."""
    for ending, what in {".activation.weight": "activations with weights (prelu)", ".weight_bar": "spectral norms",
                         ".weight_orig": "spectral norms"}.items():  # fmt: skip
        if found := [key for key in state if key.endswith(ending)]:
            raise InputError(
                f"{where} has {what}: {shown(found[:1])}", "Only MUNIT's ReLU and plain weights are known."
            )
    if found := [key for key in state if ".norm." in key and key.startswith(("enc_", "mlp."))]:
        raise InputError(
            f"{where} has norms with weights in its encoders: {shown(found[:1])}",
            "Only instance norms without weights are known there, MUNIT's default.",
        )


def _settings(state: StateDict, path: Path) -> dict[str, int]:
    """The fields of `MUNITConfig` that the weights tell."""
    convs = {int(match[1]) for key in state if (match := _DOWN.fullmatch(key))}
    blocks = {int(match[1]) for key in state if (match := _BLOCK.fullmatch(key))}
    sizes = {}
    for name, key, rank in (("dim", _FIRST, 4), ("style_dim", f"enc_style.model.{_STYLE_HEAD}.weight", 4),
                            ("mlp_dim", "mlp.model.0.fc.weight", 2)):  # fmt: skip
        if key not in state:
            raise InputError(f"{path} lacks {key}", ADVICE)
        if state[key].ndim != rank:
            raise InputError(f"{path}: {key} has the shape {tuple(state[key].shape)}, expected {rank} sides", ADVICE)
        sizes[name] = state[key].shape[0]
    for key, axis in ((_FIRST, 1), (f"dec.model.{2 * len(convs) - 1}.conv.weight", 0)):
        if key in state and state[key].ndim == 4 and (channels := state[key].shape[axis]) != 3:
            raise InputError(f"{path}: {key} is for images of {channels} channels, expected 3 (RGB)", ADVICE)
    return sizes | {"n_downsample": len(convs) - 1, "n_res": len(blocks)}


def _renamed(config: MUNITConfig, slot: str, state: StateDict, where: str) -> dict[str, Tensor]:
    """One generator's weights under the names here, in float32; each must be there, and nothing else."""
    known = dict(_names(config, slot))
    # Layer norms have gamma and beta, or weight and bias, of C numbers or (C, 1, 1).
    ours = {
        key: re.sub(r"\.norm\.beta$", ".norm.bias", re.sub(r"\.norm\.gamma$", ".norm.weight", key)) for key in state
    }
    if twice := [key for key, name in ours.items() if name != key and name in state]:
        raise InputError(f"{where} has both {twice[0]} and {ours[twice[0]]}, which are one", ADVICE)
    state = {ours[key]: value for key, value in state.items()}
    missing = [key for key in known if key not in state]
    if missing:
        raise InputError(f"{where} lacks {len(missing)} weights, the first is {missing[0]}", ADVICE)
    if extra := [key for key in state if key not in known]:
        raise InputError(
            f"{where} has {len(extra)} weights that MUNIT's generator does not, the first is {shown(extra[:1])}",
            "Only its published layout is known, with any widths and numbers of blocks.",
        )
    return {
        ours: (state[theirs].flatten() if ".norm." in theirs else state[theirs]).float()
        for theirs, ours in known.items()
    }


def _names(config: MUNITConfig, slot: str) -> Iterator[tuple[str, str]]:
    """Name in a checkpoint and name here, of every weight of one generator."""
    for theirs, ours in (*_encoder_names(config, slot), *_decoder_names(config, slot)):
        for leaf in ("weight", "bias"):
            yield f"{theirs}.{leaf}", f"{ours}.{leaf}"


def _encoder_names(config: MUNITConfig, slot: str) -> Iterator[tuple[str, str]]:
    content, style, n = f"content_encoders.{slot}", f"style_encoders.{slot}", config.n_downsample
    yield "enc_content.model.0.conv", f"{content}.stem"
    for i in range(n):
        yield f"enc_content.model.{i + 1}.conv", f"{content}.downs.{i}"
    for i in range(config.n_res):
        for j in (0, 1):
            yield f"enc_content.model.{n + 1}.model.{i}.model.{j}.conv", f"{content}.blocks.{i}.conv{j + 1}"
    yield "enc_style.model.0.conv", f"{style}.stem"
    for i in range(1, _STYLE_CONVS):
        yield f"enc_style.model.{i}.conv", f"{style}.downs.{i - 1}"
    yield f"enc_style.model.{_STYLE_HEAD}", f"{style}.head"


def _decoder_names(config: MUNITConfig, slot: str) -> Iterator[tuple[str, str]]:
    decoder, n = f"decoders.{slot}", config.n_downsample
    for i in range(_MLP_LAYERS):
        yield f"mlp.model.{i}.fc", f"style_mlps.{slot}.layers.{i}"
    for i in range(config.n_res):
        for j in (0, 1):
            yield f"dec.model.0.model.{i}.model.{j}.conv", f"{decoder}.blocks.{i}.conv{j + 1}"
    for i in range(n):  # an upsampling, which has no weights, stands before each
        yield f"dec.model.{2 * i + 2}.conv", f"{decoder}.ups.{i}.conv"
        yield f"dec.model.{2 * i + 2}.norm", f"{decoder}.ups.{i}.norm"
    yield f"dec.model.{2 * n + 1}.conv", f"{decoder}.tail"
