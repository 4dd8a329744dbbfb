"""Memory estimates of an iteration without running it, on torch's `meta` device, which has shapes and no data."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dsmap.config import TrainConfig
from dsmap.errors import DsmapError
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP
from dsmap.model.feature_networks import FeatureNetwork, load_features
from dsmap.model.two_domains import SLOTS
from dsmap.training.device import Hardware
from dsmap.training.objective import discriminator_terms, generator_terms, translate_both, weighted_sum

# Copies of each trained parameter: itself, its gradient and Adam's two moments. The moving average adds one more for
# the generators.
_COPIES_TRAINED = 4
# For temporaries inside operations, and memory fragmentation.
_SLACK = 1.25


class MemoryEstimate(NamedTuple):
    """Bytes: `weights` with gradients, Adam and average, and `activations` kept for gradients."""

    generators: int
    """Number of trained parameters."""
    discriminators: int
    weights: int
    activations: int
    checkpoint: int
    """Size of one checkpoint on disk."""

    @property
    def total(self) -> int:
        """Approximate peak memory of a training."""
        return int(self.weights + self.activations * _SLACK)


@lru_cache(maxsize=64)  # what_fits asks for some again
def estimate_memory(config: TrainConfig, bytes_per_activation: int = 4) -> MemoryEstimate:
    """The memory of a training with `config`, without that of the contextual loss.

    Raises InputError if the discriminators need a feature network that is missing.
    """
    features = _features_on_meta(config.features) if config.discriminator.features else None
    # Not created on the meta device: the constructor draws random numbers from a generator of its own.
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
            kept[storage._cdata] = storage  # held, so that its id is not reused
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        first = translate_both(model, x, random, random)
        # The graph of the discriminators' update is freed before the second half.
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
        # Live and averaged weights, and two moments of each trained one.
        checkpoint=4 * (4 * of_generators + 3 * of_discriminators),
    )


@cache
def _features_on_meta(name: str) -> FeatureNetwork:
    return load_features(name, trained=False).to("meta")


def readable(count: int) -> str:
    """A number of bytes, such as 1.5 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextmanager
def explained_memory(config: TrainConfig, hardware: Hardware) -> Iterator[None]:
    """Out-of-memory errors in the block become a DsmapError that says what would fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # The CPU's allocator has no error type of its own.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise out_of_memory_error(config, hardware) from error
        raise


def out_of_memory_error(config: TrainConfig, hardware: Hardware) -> DsmapError:
    """The error for running out of memory: about how much was needed, and the batch and crop that should fit."""
    size = 2 if hardware.precision == "bf16" else 4
    needed, there = estimate_memory(config, size).total, hardware.memory
    fact = f"out of memory on {hardware.device} with batch {config.data.batch_size} and crop {config.data.crop}"
    if there is None:
        return DsmapError(f"{fact}: about {readable(needed)} are needed", "Use a smaller batch or crop (--set).")
    fits = what_fits(config, there, max(needed, int(1.1 * there)), size)
    advice = (
        f"This should fit: --set data.batch_size={fits[0]} --set data.crop={fits[1]}"
        if fits
        else "This network does not fit with any batch and crop: use a smaller one (--preset lite, --set model.dim=32)"
    )
    return DsmapError(
        f"{fact}: about {readable(needed)} are needed, {readable(there)} are available",
        f"{advice}; existing checkpoints can be continued with --resume auto.",
    )


def what_fits(
    config: TrainConfig, available: int, needed: int, bytes_per_activation: int = 4
) -> tuple[int, int] | None:
    """The largest (batch size, crop) that should train in `available` bytes where `config` needed `needed` or more.

    The batch is reduced first, then the crop. None if even the smallest crop does not fit.
    """
    scale = max(1.0, needed / estimate_memory(config, bytes_per_activation).total)
    multiple = config.model.multiple_of
    smallest = max(config.model.minimum_size, config.discriminator.minimum_size)
    candidates = [(batch, config.data.crop) for batch in range(config.data.batch_size - 1, 0, -1)]
    candidates += [(1, crop) for crop in range(config.data.crop - multiple, smallest - 1, -multiple)]
    low, high = 0, len(candidates)
    while low < high:  # each needs less memory than the one before
        middle = (low + high) // 2
        batch, crop = candidates[middle]
        tried = config.model_copy(update={"data": config.data.model_copy(update={"batch_size": batch, "crop": crop})})
        if estimate_memory(tried, bytes_per_activation).total * scale <= available:
            high = middle
        else:
            low = middle + 1
    return candidates[low] if low < len(candidates) else None
