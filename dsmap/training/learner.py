"""One training iteration: the discriminators are updated on a batch, then the generators on the same batch.

The learner holds the networks, the moving average of the generators and both optimisers.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dsmap.common.distributed import Processes, all_gather, broadcast_weights, mean_over_processes
from dsmap.common.notify import Notify
from dsmap.config import TrainConfig
from dsmap.errors import DsmapError, first_line
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP, initialise_discriminator, initialise_generators, make_twins
from dsmap.model.feature_networks import load_features
from dsmap.model.identity_init import start_as_identity
from dsmap.model.layers import AdainResidualBlock, ShuffleConv, UpsampleConv
from dsmap.model.two_domains import SLOTS
from dsmap.training.appearance import Appearance, appearance_of
from dsmap.training.cuda_graph import CudaGraphRunner
from dsmap.training.data import Batch
from dsmap.training.device import Hardware, compile_networks
from dsmap.training.objective import (
    ByDomain,
    Translations,
    discriminator_terms,
    generator_terms,
    translate_both,
    weighted_sum,
)
from dsmap.training.optim import descend, learning_rate, make_adam, set_learning_rate
from dsmap.training.step_inputs import RandomDraws, StepInputs


class NotFiniteError(Exception):
    """A loss is not finite; the text names it, the step and the images."""


def new_generators(config: TrainConfig) -> DSMAP:
    """Initial generators of a training; seeds torch's random numbers."""
    torch.manual_seed(config.seed)
    model = DSMAP(config.model)
    initialise_generators(model)
    if config.identity_init:
        start_as_identity(model)
    if config.twin_init:
        make_twins(model)
    return model


class Learner:
    """Generators, their moving average `ema`, discriminators and both optimisers, on their device."""

    def __init__(
        self,
        config: TrainConfig,
        hardware: Hardware,
        processes: Processes,
        say: Notify = lambda _line: None,
    ) -> None:
        self.config, self.hardware, self.processes = config, hardware, processes
        self.model = new_generators(config)
        self.features = load_features(config.features).to(hardware.device) if config.uses_features else None
        self.appearances: dict[str, Appearance] = {}
        """Appearance of each domain's images, with `loss.appearance`; see `fit_statistics`."""
        self.discriminators = nn.ModuleDict(
            {slot: Discriminator(config.discriminator, self.features) for slot in SLOTS}
        )
        initialise_discriminator(self.discriminators)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        for module in self.modules.values():
            hardware.place_module(module)
        broadcast_weights(*self.modules.values())
        self._draws = RandomDraws(config, processes, self.model, hardware.device)
        on_device = hardware.device if hardware.cuda_graph else None
        self.optimizers = {
            "generators": make_adam(self._generator_groups(), config.optimizer, on_device),
            "discriminators": make_adam([self._discriminator_group()], config.optimizer, on_device),
        }
        self._graph_runner = (
            CudaGraphRunner(self._descend, self._forget_gradients, say, insist=config.cuda_graph is True)
            if hardware.cuda_graph
            else None
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules in a checkpoint, by file name."""
        return {"generators": self.model, "ema": self.ema, "discriminators": self.discriminators}

    def start_from(self, generators: DSMAP) -> None:
        """Copy weights from generators of the same architecture to the generators and their average."""
        for model in (self.model, self.ema):
            model.load_state_dict(generators.state_dict())

    def fit_statistics(self, domain: str, images: Sequence[Tensor], *, resumed: bool) -> None:
        """Fit statistics of real images of `domain` in batches (n, 3, H, W) in [-1, 1], before the training.

        If `resumed`, those of the discriminators come from the checkpoint.
        """
        batches = [self.hardware.place(x_nchw) for x_nchw in images]
        if self.config.loss.appearance:
            self.appearances[domain] = appearance_of(batches)
        if not resumed:
            discriminator = self.discriminators[self.model.slot(domain)]
            assert isinstance(discriminator, Discriminator)
            discriminator.fit_feature_statistics(batches)
            broadcast_weights(discriminator)

    def iterate(self, batch: Batch) -> dict[str, float]:
        """One iteration on `batch`; returns every loss.

        Raises NotFiniteError when a loss is not finite: the networks are unusable then, and only the last checkpoint is
        left.
        """
        self._set_learning_rates(batch.step)
        a, b = self.model.domains
        x = {a: self.hardware.place(batch.x_a_nchw), b: self.hardware.place(batch.x_b_nchw)}
        inputs = self._draws.inputs(x, batch.step)
        losses = self._graph_runner(inputs) if self._graph_runner else self._descend(inputs)
        self._average(batch.step)
        return self._numbers(losses, batch)

    def _descend(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Update the discriminators, then the generators.

        What differs between iterations comes from `inputs` and the device only: a captured iteration repeats what the
        device did.
        """
        config = self.config
        first, d_terms = self._first_half(inputs)
        d_total = torch.stack(list(d_terms.values())).sum() * config.loss.adversarial
        descend(self.optimizers["discriminators"], d_total, config.optimizer.clip_norm)

        self.discriminators.requires_grad_(False)
        try:
            terms = self._second_half(inputs, first)
            total = weighted_sum(terms, config.loss)
            descend(self.optimizers["generators"], total, config.optimizer.clip_norm)
        finally:
            self.discriminators.requires_grad_(True)
        losses = {f"discriminator/{domain}": term for domain, term in d_terms.items()} | terms
        return {**losses, "generators": total, "discriminators": d_total}

    def _first_half(self, inputs: StepInputs) -> tuple[Translations, ByDomain]:
        """Translations in both directions, and the discriminators' losses."""
        with self.hardware.autocast():
            first = translate_both(self.model, inputs.x, inputs.styles, inputs.noise or None)
            random = first.random
            if inputs.d_styles:
                with torch.no_grad():
                    mapped = first.mapped_across
                    random = {d: self.model.decode(mapped[d], styles, d) for d, styles in inputs.d_styles.items()}
            kind = self.config.discriminator.gan_type
            terms = discriminator_terms(self._named(), kind, inputs.x, first.exemplar, random, shift=inputs.shift)
        return first, terms

    def _second_half(self, inputs: StepInputs, first: Translations) -> dict[str, Tensor]:
        """Every term of the generators' loss."""
        config = self.config
        with self.hardware.autocast():
            return generator_terms(
                self.model,
                self._named(),
                config.discriminator.gan_type,
                inputs.x,
                first,
                features=self.features if config.loss.contextual else None,
                mode_seeking=config.loss.mode_seeking > 0,
                shift=inputs.shift,
                appearances=self.appearances if config.loss.appearance else None,
                feature_matching=config.loss.feature_matching > 0,
            )

    def _named(self) -> dict[str, nn.Module]:
        """The discriminators by domain name."""
        return {domain: self.discriminators[self.model.slot(domain)] for domain in self.model.domains}

    def compile(self, say: Notify) -> None:
        """Compile every network, and try it once on an empty batch: what `auto` chose may still fail."""
        model = self.model
        parts = (model.content_encoders, model.mappings, model.style_encoders, model.style_mlps, self.discriminators)
        networks = [model.shared_encoder, *(network for part in parts for network in part.values())]
        # Decoders in parts: compiled as a whole, with reflected borders, they corrupted memory on CPUs (torch 2.13).
        kinds = AdainResidualBlock, UpsampleConv, ShuffleConv
        pieces = [piece for piece in model.decoders.modules() if isinstance(piece, kinds)]
        compile_networks([*networks, *pieces])
        say("compiling the networks; this takes a minute or more ...")
        started = time.monotonic()
        try:
            self._dry_iteration()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)[:200]}"
            if self.config.compile is True:
                raise DsmapError(f"torch.compile failed: {reason}", "Train without it: --no-compile.") from error
            torch.compiler.set_stance("force_eager")
            say(f"torch.compile failed here, training without it ({reason})")
        else:
            say(f"compiled in {time.monotonic() - started:.0f} s")
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _dry_iteration(self) -> None:
        """Forward and backward pass of an iteration on an empty batch, without any update."""
        followed = {name: buffer.clone() for name, buffer in self.discriminators.named_buffers()}
        data = self.config.data
        empty = self.hardware.place(torch.zeros(data.batch_size, 3, data.crop, data.crop))
        inputs = self._draws.inputs(dict.fromkeys(self.model.domains, empty), 0)
        first, d_terms = self._first_half(inputs)
        terms = self._second_half(inputs, first)
        (weighted_sum(terms, self.config.loss) + torch.stack(list(d_terms.values())).sum()).backward()
        for name, buffer in self.discriminators.named_buffers():
            buffer.copy_(followed[name])

    def _generator_groups(self) -> list[dict[str, object]]:
        content = [*self.model.content_encoders.parameters(), *self.model.shared_encoder.parameters()]
        of_content = set(map(id, content))
        rest = [p for p in self.model.parameters() if id(p) not in of_content]
        return [{"params": content, "lr_factor": self.config.optimizer.content_lr_factor}, {"params": rest}]

    def _discriminator_group(self) -> dict[str, object]:
        parameters = list(self.discriminators.parameters())
        return {"params": parameters, "lr_factor": self.config.optimizer.discriminator_lr_factor}

    def _set_learning_rates(self, step: int) -> None:
        lr = learning_rate(self.config.optimizer, step, self.config.steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                set_learning_rate(group, lr * group.get("lr_factor", 1.0))

    def _numbers(self, losses: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """The losses, averaged over all processes, as numbers. Raises NotFiniteError when one is not finite."""
        mine = torch.stack([loss.detach().float() for loss in losses.values()])
        values = mean_over_processes(mine).tolist()  # the only synchronisation with the device in an iteration
        wrong = next((name for name, value in zip(losses, values, strict=True) if not math.isfinite(value)), None)
        if wrong is not None:
            files = "" if bool(mine.isfinite().all()) else ", ".join(map(str, (*batch.paths_a, *batch.paths_b)))
            files = ", ".join(filter(None, all_gather(files)))
            raise NotFiniteError(f"the loss {wrong} is not finite at step {batch.step + 1} (images: {files})")
        return dict(zip(losses, values, strict=True))

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Update the EMA of the generators; the decay starts low, so that initial weights are soon forgotten."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.ema.parameters())
        live: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(ours, live, 1 - decay)
