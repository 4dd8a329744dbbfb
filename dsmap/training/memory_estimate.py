"""How much memory an iteration takes, found without running it: torch's `meta` device has shapes and no numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dsmap.config import TrainConfig
from dsmap.errors import DsmapError
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP, SLOTS
from dsmap.model.feature_networks import FeatureNetwork, load_features
from dsmap.training.device import Hardware
from dsmap.training.objective import discriminator_terms, generator_terms, translate_both, weighted_sum

# What is kept of each trained number: itself, its gradient and Adam's two moments. The average adds one more for the
# generators.
_COPIES_TRAINED = 4
# Room for what lives only inside an operation, and for gaps between blocks of memory.
_SLACK = 1.25


class MemoryEstimate(NamedTuple):
    """Bytes: what weights, gradients, Adam and the average take, and what an iteration keeps for its gradients."""

    generators: int
    """Numbers that are trained in them."""
    discriminators: int
    weights: int
    activations: int
    checkpoint: int
    """Size of one checkpoint on disk."""

    @property
    def total(self) -> int:
        """About what a training needs at its peak."""
        return int(self.weights + self.activations * _SLACK)


def estimate_memory(config: TrainConfig, bytes_per_activation: int = 4) -> MemoryEstimate:
    """The memory that training as in `config` takes. What the contextual loss takes is not counted.

    Raises InputError where discriminators need a feature network that is not there.
    """
    features = _features_on_meta(config.features) if config.discriminator.features else None
    # Not made on the meta device: random numbers of its own choosing go into a discriminator of features.
    judges = {slot: Discriminator(config.discriminator, features) for slot in SLOTS}
    discriminators = nn.ModuleDict(judges).to("meta")
    with torch.device("meta"):
        model = DSMAP(config.model)
        crop = torch.zeros(config.data.batch_size, 3, config.data.crop, config.data.crop)
        style = torch.zeros(config.data.batch_size, config.model.style_dim)
    of_generators, of_discriminators = (
        sum(p.numel() for p in module.parameters()) for module in (model, discriminators)
    )
    a, b = model.domains
    x, random, named = {a: crop, b: crop}, {a: style, b: style}, {a: discriminators["a"], b: discriminators["b"]}
    of_features = 0 if features is None else sum(p.numel() for p in features.parameters())
    modules = [model, discriminators, *([] if features is None else [features])]
    own = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
    kept: dict[int, Any] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no later one gets its number
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        first = translate_both(model, x, random, random)
        # The discriminators' step is over, and its graph gone, before the generators' second half begins.
        before = dict(kept)
        discriminator_terms(named, config.discriminator.gan_type, x, first.exemplar, first.random)
        of_first_step = sum(storage.nbytes() for storage in kept.values())
        kept.clear()
        kept |= before
        discriminators.requires_grad_(False)
        terms = generator_terms(
            model,
            named,
            config.discriminator.gan_type,
            x,
            first,
            mode_seeking=config.loss.mode_seeking > 0,
            feature_matching=config.loss.feature_matching > 0,
        )
        weighted_sum(terms, config.loss)
    of_second_step = sum(storage.nbytes() for storage in kept.values())
    return MemoryEstimate(
        generators=of_generators,
        discriminators=of_discriminators,
        weights=4 * ((_COPIES_TRAINED + 1) * of_generators + _COPIES_TRAINED * of_discriminators + of_features),
        activations=max(of_first_step, of_second_step) * bytes_per_activation // 4,
        # Live and averaged weights, and two moments of each that is trained.
        checkpoint=4 * (4 * of_generators + 3 * of_discriminators),
    )


@cache
def _features_on_meta(name: str) -> FeatureNetwork:
    return load_features(name, trained=False).to("meta")


def readable(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextmanager
def explained_memory(config: TrainConfig, hardware: Hardware) -> Iterator[None]:
    """Where memory runs out inside, DsmapError says what would fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # The CPU's allocator has no error type of its own.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise out_of_memory_error(config, hardware) from error
        raise


def out_of_memory_error(config: TrainConfig, hardware: Hardware) -> DsmapError:
    """What to tell when memory has run out: about how much was needed, and the batch and crop that should fit."""
    size = 2 if hardware.precision == "bf16" else 4
    needed, there = estimate_memory(config, size).total, hardware.memory
    fact = f"out of memory on {hardware.device} with batch {config.data.batch_size} and crop {config.data.crop}"
    if there is None:
        return DsmapError(f"{fact}: about {readable(needed)} are needed", "Use a smaller batch or crop (--set).")
    fits = what_fits(config, there, max(needed, int(1.1 * there)), size)
    advice = (
        f"This should fit: --set data.batch_size={fits[0]} --set data.crop={fits[1]}"
        if fits
        else "No batch and crop of this network fits: use a smaller one (--preset lite, --set model.dim=32)"
    )
    return DsmapError(
        f"{fact}: about {readable(needed)} are needed, {readable(there)} are there",
        f"{advice}; checkpoints that are there can be continued with --resume auto.",
    )


def what_fits(
    config: TrainConfig, available: int, needed: int, bytes_per_activation: int = 4
) -> tuple[int, int] | None:
    """The largest (batch size, crop) that should train in `available` bytes where `config` needed `needed` or more.

    The batch is made smaller first, then the crop. None when even the smallest crop does not fit.
    """
    scale = max(1.0, needed / estimate_memory(config, bytes_per_activation).total)
    multiple = config.model.multiple_of
    smallest = max(config.model.minimum_size, config.discriminator.minimum_size)
    candidates = [(batch, config.data.crop) for batch in range(config.data.batch_size - 1, 0, -1)]
    candidates += [(1, crop) for crop in range(config.data.crop - multiple, smallest - 1, -multiple)]
    low, high = 0, len(candidates)
    while low < high:  # each needs less than the one before
        middle = (low + high) // 2
        batch, crop = candidates[middle]
        tried = config.model_copy(update={"data": config.data.model_copy(update={"batch_size": batch, "crop": crop})})
        if estimate_memory(tried, bytes_per_activation).total * scale <= available:
            high = middle
        else:
            low = middle + 1
    return candidates[low] if low < len(candidates) else None
