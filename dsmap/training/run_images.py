"""The fixed images of a run, for sample grids, scores and statistics, in the size of the training."""

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor

from dsmap.common.sampling import pick_evenly
from dsmap.config import TrainConfig
from dsmap.errors import InputError
from dsmap.training.datasets import Domain, Domains
from dsmap.training.objective import ByDomain
from dsmap.training.samples import load_samples

MAX_REFERENCE_IMAGES = 200
"""Training images of each domain that translations are compared with, at most."""
_BATCH = 8


def fixed_images(config: TrainConfig, domains: Domains, count: int, min_test: int = 1) -> ByDomain:
    """`count` square images of each domain, (N, 3, H, W) in [-1, 1], evenly picked.

    They are test images where there are at least `min_test` of them, else training images.
    """
    return {d.name: load_samples(d.test if len(d.test) >= min_test else d.train, _side(config), count) for d in domains}


def reference_images(config: TrainConfig, domain: Domain) -> Iterator[Tensor]:
    """Batches of up to `MAX_REFERENCE_IMAGES` square training images, evenly picked; unreadable ones are skipped."""
    picked = pick_evenly(domain.train, MAX_REFERENCE_IMAGES)
    for start in range(0, len(picked), _BATCH):
        with suppress(InputError):  # none of this batch can be read
            yield load_samples(picked[start : start + _BATCH], _side(config), _BATCH)


def _side(config: TrainConfig) -> int:
    """Side of square images in the size of the training."""
    return config.data.shorter_side // config.model.multiple_of * config.model.multiple_of
