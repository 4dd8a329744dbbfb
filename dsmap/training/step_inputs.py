"""The inputs of an iteration: images, and what is drawn at random as a function of (seed, step) alone."""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsmap.common.distributed import Processes
from dsmap.config import TrainConfig
from dsmap.model.dsmap import DSMAP
from dsmap.training.objective import ByDomain, Shift


class StepInputs(NamedTuple):
    """What an iteration computes with, beside the networks; on their device."""

    x: ByDomain
    """Images (N, 3, H, W) in [-1, 1]."""
    styles: ByDomain
    """Random style codes (N, S)."""
    d_styles: ByDomain
    """Those that the discriminators see; empty where they see the same."""
    noise: ByDomain
    """Noise for sampling from a KL style encoder, (N, S); empty without one."""
    shift: Shift | None

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in a fixed order."""
        for part in self:
            yield from part.values() if isinstance(part, Mapping) else part or ()

    def copied(self) -> "StepInputs":
        """The same in memory of its own."""
        x, styles, d_styles, noise = (
            {domain: tensor.clone() for domain, tensor in part.items()}
            for part in (self.x, self.styles, self.d_styles, self.noise)
        )
        shift = self.shift and Shift(*(indices.clone() for indices in self.shift))
        return StepInputs(x, styles, d_styles, noise, shift)


class Stream(IntEnum):
    """The first number of each stream of random numbers, so that none repeats another's."""

    D_STYLES = 0
    G_STYLES = 1
    KL_NOISE = 2
    SHIFT = 3


class RandomDraws:
    """Everything random in iteration t, as a function of (seed, t): no random state has to be kept anywhere."""

    def __init__(self, config: TrainConfig, processes: Processes, model: DSMAP, device: torch.device) -> None:
        self.config, self.processes, self.model, self.device = config, processes, model, device

    def inputs(self, x: ByDomain, step: int) -> StepInputs:
        """The inputs of iteration `step` on the images `x`."""
        config, n = self.config, len(next(iter(x.values())))
        return StepInputs(
            x,
            self.styles(Stream.G_STYLES, step, n),
            # The discriminators see other random styles, as in the authors' training.
            {} if config.shared_style_draw else self.styles(Stream.D_STYLES, step, n),
            self.styles(Stream.KL_NOISE, step, n) if config.model.style_kl else {},
            self.shift(step),
        )

    def styles(self, stream: Stream, step: int, n: int) -> ByDomain:
        """Random style codes (n, S) for both domains.

        Those of all processes are drawn; this process takes its rows.
        """
        generator = self._generator(stream, step)
        n *= self.processes.world_size
        drawn = {domain: self.model.random_style(n, generator) for domain in self.model.domains}
        low, high = self.config.style_scale
        if stream != Stream.KL_NOISE and not low == high == 1:
            for domain, s in drawn.items():
                drawn[domain] = s * (low + (high - low) * torch.rand(n, 1, generator=generator).to(s))
        return {domain: self.processes.shard(s) for domain, s in drawn.items()}

    def shift(self, step: int) -> Shift | None:
        """The shift of `discriminator.shift`; both halves of an iteration, and all processes, see the same."""
        limit = self.config.discriminator.shift
        if not limit:
            return None
        top, left = torch.randint(limit + 1, (2,), generator=self._generator(Stream.SHIFT, step)).tolist()
        return Shift.of(top, left, self.config.data.crop - limit, self.device)

    def _generator(self, stream: Stream, step: int) -> torch.Generator:
        seed = np.random.SeedSequence((self.config.seed, int(stream), step)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed[0]))
