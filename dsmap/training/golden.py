"""Comparison with the authors' numbers, from a folder of golden files written by their code.

The folder holds config.yaml, gen_*.pt, dis_*.pt, tensors.npz (inputs, random styles, intermediates, outputs) and
scalars.json (losses, and the L2 norm of every parameter's gradient after the whole generator and discriminator loss).
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dsmap.config import LossWeights
from dsmap.errors import InputError
from dsmap.model.authors_checkpoint import (
    discriminator_key_map,
    generator_key_map,
    load_discriminator_weights,
    load_generator_weights,
    official_discriminator_config,
    official_loss_weights,
    official_model_config,
    read_official_config,
    read_state_dicts,
)
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP
from dsmap.model.two_domains import SLOTS
from dsmap.training.losses import contextual_loss
from dsmap.training.objective import (
    ByDomain,
    Translations,
    discriminator_terms,
    generator_terms,
    term_weight,
    translate_both,
    weighted_sum,
)

TENSOR_TOLERANCE = 1e-4  # times max(1, largest expected value)
LOSS_TOLERANCE = 1e-4  # relative
GRADIENT_TOLERANCE = 1e-3  # relative, or absolute: the gradient of a bias before a norm is rounding noise

GRADIENT_DRAWS = 24

# The authors' name of a loss, without the domain -> the term here.
_EXEMPLAR_TERMS = {
    "recon_x": "image",
    "recon_d": "domain_content",
    "recon_c": "shared_content",
    "cycrecon_x": "cycle",
    "adv": "adversarial",
    "vgg": "contextual",
    "recon_kl": "kl",
}
_RANDOM_TERMS = {
    "recon_s": "style_random",
    "recon_c": "shared_content_random",
    "adv": "adversarial_random",
    "vgg": "contextual_random",
}
_INPUTS = {f"{kind}_{slot}" for kind in ("x", "dis_style", "gen_style") for slot in SLOTS} | {"cx_x", "cx_y"}


class GoldenRow(NamedTuple):
    """One of their numbers or tensors compared with ours."""

    kind: str
    """tensor, loss, generator gradient or discriminator gradient."""
    name: str
    expected: float
    """Their value, or the largest absolute value of their tensor."""
    error: float
    """Largest absolute difference; infinite if there is nothing to compare with."""
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance (false for NaN)."""
        return self.error <= self.allowed


class _Step(NamedTuple):
    first: Translations
    losses: dict[str, float]
    gradients: dict[str, float]
    """L2 norms, of the generators and the discriminators, under the authors' names."""


class _Golden(NamedTuple):
    model: DSMAP
    discriminators: nn.ModuleDict
    gan_type: Any
    weights: LossWeights
    tensors: dict[str, Tensor]
    scalars: dict[str, dict[str, float]]


def compare_golden(folder: Path) -> list[GoldenRow]:
    """Compare everything in `folder`. Raises InputError for missing or invalid files."""
    golden = _read(folder)
    step = _step(golden)
    losses = step.losses
    if "cx_x" in golden.tensors:
        x, y = golden.tensors["cx_x"], golden.tensors["cx_y"]
        losses |= {"contextual": contextual_loss(x, y).item()}
        losses |= {"contextual_h0.1": contextual_loss(x, y, bandwidth=0.1).item()}
    rows = list(_tensor_rows(golden.tensors, _tensors(golden, step.first)))
    rows += _scalar_rows(
        "loss", golden.scalars["losses"], losses, lambda _name, value: LOSS_TOLERANCE * abs(value) + 1e-12
    )
    return rows + _gradient_rows(golden, step.gradients)


def _read(folder: Path) -> _Golden:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", "Pass a folder of golden files.")
    config = read_official_config(_only(folder, "config.yaml"))
    gen_path, dis_path = _only(folder, "gen_*.pt"), _only(folder, "dis_*.pt")
    model = DSMAP(official_model_config(config))
    load_generator_weights(model, read_state_dicts(gen_path), str(gen_path))
    dis_config = official_discriminator_config(config)
    discriminators = nn.ModuleDict({slot: Discriminator(dis_config) for slot in SLOTS})
    load_discriminator_weights(discriminators, read_state_dicts(dis_path), str(dis_path))
    try:
        with np.load(_only(folder, "tensors.npz"), allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        scalars = json.loads(_only(folder, "scalars.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:  # numpy has no error of its own
        raise InputError(f"cannot read the golden numbers in {folder}: {error}", "Make the folder again.") from error
    missing = [name for name in sorted(_INPUTS - {"cx_x", "cx_y"}) if name not in tensors]
    missing += [name for name in ("losses", "gen_grad_norms", "dis_grad_norms") if name not in scalars]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}", "Make the folder again.")
    return _Golden(model, discriminators, dis_config.gan_type, official_loss_weights(config), tensors, scalars)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{folder} has {len(found)} files {pattern}, expected one", "Pass a folder of golden files.")
    return found[0]


def _step(golden: _Golden, draw: int = 0) -> _Step:
    """Both losses and all gradients; `draw` above 0 perturbs every weight by about its rounding error."""
    model = golden.model if draw == 0 else _perturbed(golden.model, draw)
    x = {slot: golden.tensors[f"x_{slot}"] for slot in SLOTS}
    discriminators = {slot: golden.discriminators[slot] for slot in SLOTS}
    first = translate_both(model, x, _styles(golden.tensors, "gen"))
    terms = generator_terms(model, discriminators, golden.gan_type, x, first)
    total = weighted_sum(terms, golden.weights)
    model.zero_grad()
    total.backward()
    gradients = _gradient_norms("gen", generator_key_map(model), model)
    if not model.config.mapping:  # their MUNIT keeps a mapping it does not use
        unused = (name for name in golden.scalars["gen_grad_norms"] if ".domain_mapping." in name)
        gradients |= dict.fromkeys(unused, 0.0)

    with torch.no_grad():
        random = translate_both(model, x, _styles(golden.tensors, "dis")).random
    dis_terms = discriminator_terms(discriminators, golden.gan_type, x, first.exemplar, random)
    golden.discriminators.zero_grad()
    dis_total = torch.stack(list(dis_terms.values())).sum() * golden.weights.adversarial
    dis_total.backward()
    gradients |= _gradient_norms("dis", discriminator_key_map(golden.discriminators), golden.discriminators)
    losses = _losses({name: term.item() for name, term in terms.items()}, golden)
    losses |= {f"dis_{slot}": dis_terms[slot].item() for slot in SLOTS}
    losses |= {"gen_total": total.item(), "dis_total": dis_total.item()}
    return _Step(first, losses, gradients)


@torch.no_grad()
def _perturbed(model: DSMAP, draw: int) -> DSMAP:
    """A copy of `model` with weights perturbed by a relative 1e-7 or 3e-7 (float32 rounds to 6e-8)."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(draw)
    scale = 1e-7 if draw % 2 else 3e-7
    for parameter in model.parameters():
        parameter.mul_(1 + scale * torch.randn(parameter.shape, generator=generator))
    return model


def _gradient_rows(golden: _Golden, computed: dict[str, float]) -> list[GoldenRow]:
    """The rows of all gradient norms.

    A gradient jumps where an activation or a difference changes sign, and rounding alone decides some signs: two
    correct programs can differ there by more than the tolerance. If a norm is off, all are therefore computed again
    with every weight perturbed by about its rounding error: the nearest draw counts, and the spread of the draws is
    allowed, up to ten times the tolerance.
    """
    expected = {
        "generator gradient": golden.scalars["gen_grad_norms"],
        "discriminator gradient": golden.scalars["dis_grad_norms"],
    }
    theirs = {name: value for norms in expected.values() for name, value in norms.items()}
    reach = dict.fromkeys(computed, 0.0)
    nearest = dict(computed)

    def allowed(name: str, value: float) -> float:
        tolerance = GRADIENT_TOLERANCE * max(1.0, abs(value))
        return min(max(tolerance, reach.get(name, 0.0)), 10 * tolerance)

    def rows() -> list[GoldenRow]:
        return [row for kind, norms in expected.items() for row in _scalar_rows(kind, norms, nearest, allowed)]

    for draw in range(1, GRADIENT_DRAWS + 1):
        if all(row.passed or row.error == float("inf") for row in rows()):
            break
        for name, value in _step(golden, draw).gradients.items():
            reach[name] = max(reach[name], abs(value - computed[name]))
            if name in theirs and abs(value - theirs[name]) < abs(nearest[name] - theirs[name]):
                nearest[name] = value
    return rows()


def _tensors(golden: _Golden, first: Translations) -> dict[str, Tensor]:
    """All intermediates and outputs under the authors' names."""
    computed: dict[str, Tensor] = {}
    for slot, other in (SLOTS, SLOTS[::-1]):
        content = first.content[slot]
        computed |= {
            f"pre_{slot}": content.skip,
            f"shared_{slot}": content.shared,
            f"domain_{slot}": content.domain_specific,
            f"style_{slot}": first.style[slot][:, :, None, None],
            f"{slot}_mapped_to_{slot}": first.mapped_back[slot],
            f"{other}_mapped_to_{slot}": first.mapped_across[slot],
            f"recon_{slot}": first.reconstruction[slot],
            f"{other}_to_{slot}_exemplar": first.exemplar[slot],
            f"{other}_to_{slot}_random": first.random[slot],
        }
        judged = golden.discriminators[slot](golden.tensors[f"x_{slot}"])
        computed |= {f"dis_{slot}_scale{i}": logits for i, logits in enumerate(judged)}
    return computed


def _styles(tensors: dict[str, Tensor], step: str) -> ByDomain:
    return {slot: tensors[f"{step}_style_{slot}"].flatten(1) for slot in SLOTS}


def _losses(terms: dict[str, float], golden: _Golden) -> dict[str, float]:
    """Our terms under the authors' names; 0 for terms that this network does not have."""
    losses: dict[str, float] = {}
    for half, names in (("exemplar", _EXEMPLAR_TERMS), ("random", _RANDOM_TERMS)):
        for theirs, ours in names.items():
            for slot in SLOTS:
                losses[f"{half}.{theirs}_{slot}"] = terms.get(f"{ours}/{slot}", 0.0)
        losses[f"{half}.total"] = sum(
            value * term_weight(name, golden.weights)
            for name, value in terms.items()
            if name.partition("/")[0] in names.values()
        )
    return losses


def _gradient_norms(prefix: str, names: dict[tuple[str, str], str], module: nn.Module) -> dict[str, float]:
    parameters = dict(module.named_parameters())
    norms = {}
    for (slot, key), name in names.items():
        gradient = parameters[name].grad
        norms[f"{prefix}_{slot}.{key}"] = 0.0 if gradient is None else gradient.norm().item()
    return norms


def _tensor_rows(expected: dict[str, Tensor], computed: dict[str, Tensor]) -> Iterator[GoldenRow]:
    for name, value in expected.items():
        if name in _INPUTS:
            continue
        largest = value.abs().max().item()
        error = float("inf")
        if name in computed and computed[name].shape == value.shape:
            error = (computed[name].detach() - value).abs().max().item()
        yield GoldenRow("tensor", name, largest, error, TENSOR_TOLERANCE * max(1.0, largest))


def _scalar_rows(kind: str, expected: dict[str, float], computed: dict[str, float], allowed: Any) -> list[GoldenRow]:
    return [
        GoldenRow(kind, name, value, abs(computed.get(name, float("inf")) - value), allowed(name, value))
        for name, value in expected.items()
    ]
