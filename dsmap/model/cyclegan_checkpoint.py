"""Reads generators of CycleGAN trainers: state dicts of the ResNet generator of pytorch-CycleGAN-and-pix2pix.

    generator = read_generator(Path("latest_net_G_A.pth"))  # which knows its width and depth
    model = build_cyclegan(("summer", "winter"), {"winter": generator})

The layout counts every layer: reflection 0, 7x7 convolution 1, strided ones 4 and 7, residual blocks from 10 on, each
a layer; then transposed convolutions at every third place, and the last 7x7 one. Loading runs no code from the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from dsmap.errors import InputError
from dsmap.model.cyclegan import CycleGAN, CycleGANConfig
from dsmap.model.foreign_weights import (
    NORM_BUFFERS,
    StateDict,
    check_finite,
    impossible,
    load_foreign,
    shown,
    state_dicts,
)

ADVICE = "Pass a ResNet generator of a CycleGAN, such as latest_net_G_A.pth."
_FIRST = re.compile(r"(.*?)model\.1\.weight", re.DOTALL)
_BLOCK = re.compile(r"model\.(\d{1,4})\.conv_block\.(\d{1,4})\.(weight|bias)")
_FIRST_BLOCK = 10
_IN_BLOCK = ((1, 5), (1, 6))
"""Where the two convolutions of a block are, after a padding each; the second form has a dropout, which is off."""


class ForeignGenerator(NamedTuple):
    """The weights of one generator, under the names that they have here."""

    dim: int
    n_res: int
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    path: Path


def read_generator(path: Path, tree: Any = None) -> ForeignGenerator:
    """The generator in a file. Raises InputError, in two lines, for every other file and every other layout.

    `tree`: what the file holds, if that is known already.
    """
    state = _generator_state(load_foreign(path, ADVICE) if tree is None else tree, path)
    state = {key: value for key, value in state.items() if not key.endswith(NORM_BUFFERS)}
    _refuse_others(state, path)
    blocks: dict[int, set[int]] = {}
    for key in state:
        if found := _BLOCK.fullmatch(key):
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    places = {tuple(sorted(convs)) for convs in blocks.values()}
    in_order = sorted(blocks) == list(range(_FIRST_BLOCK, _FIRST_BLOCK + len(blocks)))
    if len(places) != 1 or not places <= set(_IN_BLOCK) or not in_order:
        raise InputError(
            f"{path} has residual blocks of another form: convolutions {shown(places)} in {shown(sorted(blocks))}",
            "Only blocks that pad by reflection are known, with or without dropout.",
        )
    first, second = next(iter(places))
    return _renamed(state, len(blocks), (first, second), path)


def build_cyclegan(domains: tuple[str, str], generators: Mapping[str, ForeignGenerator]) -> CycleGAN:
    """The model whose generator to each domain is given, in eval mode on the CPU.

    Raises InputError for two of different sizes, for domains that cannot be, and for weights of another shape.
    """
    sizes = {(one.dim, one.n_res) for one in generators.values()}
    if len(sizes) != 1:
        told = " and ".join(f"{one.path.name} has {one.n_res} blocks of width {one.dim}" for one in generators.values())
        raise InputError(f"the two generators differ: {told}", "Import each direction into a bundle of its own.")
    dim, n_res = sizes.pop()
    try:
        config = CycleGANConfig(domains=domains, dim=dim, n_res=n_res)
    except ValidationError as error:
        raise impossible(error) from error
    _check_shapes(config, generators)
    model = CycleGAN(config, tuple(generators))
    a, b = domains
    for target, generator in generators.items():
        source = a if target == b else b
        model.content_encoders[model.slot(source)].load_state_dict(generator.encoder)
        model.decoders[model.slot(target)].load_state_dict(generator.decoder)
    return model.eval().requires_grad_(False)


def _generator_state(tree: Any, path: Path) -> dict[str, Tensor]:
    """The one generator's weights within what a file holds, without the names that wrap it."""
    found = {}
    for name, flat in state_dicts(tree).items():
        starts = {match[1] for key in flat if (match := _FIRST.fullmatch(key))}
        # A block's own convolutions end the same way: only what is followed by blocks is a generator.
        starts = {start for start in starts if any(key.startswith(f"{start}model.10.") for key in flat)}
        for start in starts:
            inside = {key.removeprefix(start): value for key, value in flat.items() if key.startswith(start)}
            found[f"{name}{start}".strip(".") or "the file"] = inside
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InputError(
            f"{path} holds {len(found)} generators: {shown(found)}",
            "Pass a file with one of them: torch.save(checkpoint[NAME], FILE) writes it.",
        )
    raise InputError(f"{path} holds {_what_else(tree)}, not a ResNet generator", ADVICE)


def _what_else(tree: Any) -> str:
    """What a file without a ResNet generator has, in a few words."""
    if not isinstance(tree, Mapping):
        return f"a {type(tree).__name__}"
    keys = [key for flat in state_dicts(tree).values() for key in flat]
    if any("model.model." in key for key in keys):
        return "a U-Net generator, as pix2pix has"
    if any("enc_content." in key for key in keys):
        return "generators with a content encoder, as MUNIT has (pass its one file alone)"
    if any(key.endswith("model.0.weight") for key in keys):
        return "a network that begins without padding, as discriminators do"
    return f"weights such as {shown(keys[:3])}" if keys else "no weights"


def _refuse_others(state: StateDict, path: Path) -> None:
    """Raises InputError for relatives of the layout that another network belongs to."""
    if any(key.endswith(".filt") for key in state):
        raise InputError(
            f"{path} has filters against aliasing, as generators of CUT have",
            "Only CycleGAN's strided and transposed convolutions are known.",
        )
    norms = [key for key in ("model.2.weight", "model.2.bias") if key in state]
    if norms:
        raise InputError(
            f"{path} has norms with weights ({norms[0]}), as with --norm batch",
            "Only instance norms without weights are known, CycleGAN's default.",
        )


def _renamed(state: StateDict, n_res: int, places: tuple[int, int], path: Path) -> ForeignGenerator:
    """The weights under the names here; each must be there, and nothing else."""
    last = _FIRST_BLOCK + n_res
    encoder = {"stem": "model.1", "downs.0": "model.4", "downs.1": "model.7"}
    decoder = {f"ups.{i}": f"model.{last + 3 * i}" for i in range(2)} | {"tail": f"model.{last + 7}"}
    for block in range(n_res):
        for name, place in zip(("conv1", "conv2"), places, strict=True):
            decoder[f"blocks.{block}.{name}"] = f"model.{_FIRST_BLOCK + block}.conv_block.{place}"
    wanted = [*encoder.values(), *decoder.values()]
    missing = [f"{theirs}.weight" for theirs in wanted if f"{theirs}.weight" not in state]
    if missing:
        raise InputError(f"{path} lacks {len(missing)} weights, the first is {missing[0]}", ADVICE)
    known = {f"{theirs}.{leaf}" for theirs in wanted for leaf in ("weight", "bias")}
    if extra := [key for key in state if key not in known]:
        raise InputError(
            f"{path} has {len(extra)} weights that CycleGAN's generator does not, the first is {extra[0][:100]}",
            "Only two strided and two transposed convolutions are known, and norms without weights.",
        )
    check_finite(state, path)
    stem = state["model.1.weight"]
    if stem.ndim != 4 or stem.shape[1] != 3:
        raise InputError(f"{path} takes images of {shown(stem.shape[1:2])} channels, expected 3 (RGB)", ADVICE)
    tail = state[f"model.{last + 7}.weight"]
    if tail.ndim != 4 or tail.shape[0] != 3:
        raise InputError(f"{path} gives images of {shown(tail.shape[:1])} channels, expected 3 (RGB)", ADVICE)
    return ForeignGenerator(
        stem.shape[0], n_res, _taken(state, encoder, decoder=False), _taken(state, decoder, decoder=True), path
    )


def _taken(state: StateDict, names: Mapping[str, str], *, decoder: bool) -> dict[str, Tensor]:
    """Weights and biases, in float32; a bias that a convolution does not have is 0."""
    taken = {}
    for ours, theirs in names.items():
        weight = state[f"{theirs}.weight"].float()
        # A transposed convolution's kernel has the channels that it gives in second place.
        given = weight.shape[1] if decoder and ours.startswith("ups.") and weight.ndim > 1 else weight.shape[0]
        bias = state.get(f"{theirs}.bias")
        taken[f"{ours}.weight"] = weight
        taken[f"{ours}.bias"] = torch.zeros(given) if bias is None else bias.float()
    return taken


def _check_shapes(config: CycleGANConfig, generators: Mapping[str, ForeignGenerator]) -> None:
    """Raises InputError for a weight of another shape, before the networks take memory."""
    with torch.device("meta"):
        model = CycleGAN(config, config.domains[:1])
    (encoder,), (decoder,) = model.content_encoders.values(), model.decoders.values()
    for generator in generators.values():
        for module, weights in ((encoder, generator.encoder), (decoder, generator.decoder)):
            for name, expected in module.named_parameters():
                if weights[name].shape != expected.shape:
                    raise InputError(
                        f"{generator.path}: {name} has the shape {tuple(weights[name].shape)}, expected "
                        f"{tuple(expected.shape)}",
                        "Only CycleGAN's own widths are known: each strided convolution doubles them.",
                    )
