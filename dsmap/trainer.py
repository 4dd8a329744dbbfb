"""The training loop: one discriminator step and one generator step per iteration on the same batch.

Everything random in iteration t is a function of (seed, t), so a resumed run repeats the uninterrupted one.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor, nn

from dsmap.checkpoint import (
    list_checkpoints,
    load_into,
    load_optimizers,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from dsmap.config import TrainConfig
from dsmap.data import Batch, Broken, Domains, UnpairedBatches
from dsmap.discriminator import Discriminator
from dsmap.errors import DsmapError, InputError
from dsmap.features import load_features
from dsmap.interrupts import stop_signals
from dsmap.model import DSMAP, SLOTS, initialise_discriminator, initialise_generators, make_twins
from dsmap.objective import ByDomain, discriminator_terms, generator_terms, translate_both, weighted_sum
from dsmap.optim import descend, learning_rate, make_adam
from dsmap.resume import changed_settings, check_resumable
from dsmap.samples import load_samples, write_grid
from dsmap.styles import StyleStatistics, style_statistics

# A checkpoint's style statistics come from at most this many pictures a domain; an export can use all.
STYLE_PICTURES = 100
# The first number of each stream of random styles.
_D_STYLES, _G_STYLES, _KL_NOISE = range(3)


class Progress(NamedTuple):
    """What an iteration tells: its number (from 1), the total losses and every unweighted term."""

    step: int
    losses: dict[str, float]


class Trainer:
    """Networks, optimisers and the run folder of one training.

    RUN/config.yaml, RUN/log.jsonl, RUN/samples/*.png, RUN/checkpoints/00001000/. `say` gets lines for people.
    Raises InputError when RUN already holds checkpoints and `resume` is not given.
    """

    def __init__(
        self,
        config: TrainConfig,
        domains: Domains,
        run: Path,
        *,
        device: str = "cpu",
        resume: Path | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.config, self.domains, self.run, self.device, self.say = config, domains, run, torch.device(device), say
        self.step = 0
        for domain in domains:
            if len(domain.train) < 2:  # told now, not at the first checkpoint
                raise InputError(f"domain {domain.name!r} has one picture, expected two or more", "Add pictures of it.")
        torch.manual_seed(config.seed)
        self.model = DSMAP(config.model)
        initialise_generators(self.model)
        if config.twin_init:
            make_twins(self.model)
        self.discriminators = nn.ModuleDict({slot: Discriminator(config.discriminator) for slot in SLOTS})
        initialise_discriminator(self.discriminators)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        for module in (self.model, self.ema, self.discriminators):
            module.to(self.device)
        self.features = load_features(config.features).to(self.device) if config.loss.contextual else None
        self.optimizers = {
            "generators": make_adam(self._generator_groups(), config.optimizer),
            "discriminators": make_adam([{"params": list(self.discriminators.parameters())}], config.optimizer),
        }
        if resume is not None:
            self._restore(resume)
        elif list_checkpoints(run / "checkpoints"):
            raise InputError(
                f"{run} already holds a training", "Continue it with --resume auto, or choose another folder with -o."
            )
        self.samples = self._load_samples()
        self._broken = 0
        self._styles: tuple[int, dict[str, StyleStatistics]] = (-1, {})

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by file name."""
        return {"generators": self.model, "ema": self.ema, "discriminators": self.discriminators}

    def train(self, on_step: Callable[[Progress], None] = lambda _progress: None) -> Path:
        """Runs until `config.steps`, and gives the last checkpoint.

        Ctrl-C and SIGTERM save a checkpoint first and then raise KeyboardInterrupt. Raises DsmapError when a loss is
        not finite (the last checkpoint stays) or the disk is full, InputError when too many pictures are broken.
        """
        saved = list_checkpoints(self.run / "checkpoints")
        if saved and self.step == self.config.steps:
            self.say(f"already at step {self.step} of {self.config.steps}: nothing to do")
            return saved[-1]
        self._prepare_run()
        batches = UnpairedBatches(
            self.domains,
            shorter_side=self.config.data.shorter_side,
            crop_hw=(self.config.data.crop, self.config.data.crop),
            batch_size=self.config.data.batch_size,
            seed=self.config.seed,
            flip=self.config.data.flip,
            scale_jitter=self.config.data.scale_jitter,
        )
        loader = batches.loader(
            self.step,
            self.config.steps,
            workers=self.config.data.workers,
            pin_memory=self.device.type == "cuda",
            on_broken=self._report_broken,
        )
        last = None
        with stop_signals() as stopped:
            started = time.monotonic()
            for batch in loader:
                losses = self.iterate(batch)
                on_step(Progress(self.step, losses))
                if self.step % self.config.log_every == 0:
                    self._log({"step": self.step, "seconds": round(time.monotonic() - started, 2), **losses})
                done = self.step == self.config.steps
                if self.step % self.config.sample_every == 0 or done:
                    self.write_samples()
                if self.step % self.config.checkpoint_every == 0 or done or stopped.is_set():
                    last = self.save()
                if stopped.is_set():
                    self.say(f"stopped at step {self.step}, saved {last}")
                    raise KeyboardInterrupt
        return last or self.save()

    def iterate(self, batch: Batch) -> dict[str, float]:
        """One iteration on `batch`: the discriminators learn, then the generators. Gives every loss.

        `batch.step` + 1 becomes the trainer's step. Raises DsmapError when a loss is not finite; nothing has been
        changed by that loss then.
        """
        config, step = self.config, batch.step
        self._set_learning_rates(step)
        a, b = self.model.domains
        x = {a: batch.x_a_nchw.to(self.device), b: batch.x_b_nchw.to(self.device)}
        n = len(batch.x_a_nchw)
        noise = self._draw(_KL_NOISE, step, n) if config.model.style_kl else None
        first = translate_both(self.model, x, self._draw(_G_STYLES, step, n), noise)

        with torch.no_grad():  # the discriminators see another draw of random styles, as in the authors' training
            other_styles = self._draw(_D_STYLES, step, n)
            random = {d: self.model.decode(first.mapped_across[d], other_styles[d], d) for d in (a, b)}
        named = {a: self.discriminators[SLOTS[0]], b: self.discriminators[SLOTS[1]]}
        d_terms = discriminator_terms(named, config.discriminator.gan_type, x, first.exemplar, random)
        d_total = torch.stack(list(d_terms.values())).sum() * config.loss.adversarial
        self._check_finite({f"discriminator/{d}": term for d, term in d_terms.items()}, batch)
        descend(self.optimizers["discriminators"], d_total, config.optimizer.clip_norm)

        self.discriminators.requires_grad_(False)
        terms = generator_terms(
            self.model,
            named,
            config.discriminator.gan_type,
            x,
            first,
            self.features,
            mode_seeking=config.loss.mode_seeking > 0,
        )
        total = weighted_sum(terms, config.loss)
        self._check_finite(terms, batch)
        descend(self.optimizers["generators"], total, config.optimizer.clip_norm)
        self.discriminators.requires_grad_(True)
        self._average(step)
        self.step = step + 1
        losses = {"generators": total, "discriminators": d_total, **terms}
        losses |= {f"discriminator/{domain}": term for domain, term in d_terms.items()}
        values = torch.stack([loss.detach() for loss in losses.values()]).tolist()  # one wait for the device
        return dict(zip(losses, values, strict=True))

    def save(self) -> Path:
        """Writes a checkpoint and drops the oldest beyond `keep_checkpoints`.

        Raises DsmapError when the weights are not finite (nothing is written then) or the disk is full.
        """
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise DsmapError(f"the weights are not finite at step {self.step}", self._how_to_go_on())
        folder = self.run / "checkpoints"
        pictures = {d.name: sorted({str(p.parent.resolve()) for p in d.train}) for d in self.domains}
        path = save_checkpoint(
            folder, self.step, self.config, self.modules, self.optimizers, self._style_statistics(), pictures
        )
        prune_checkpoints(folder, self.config.keep_checkpoints)
        return path

    def write_samples(self) -> None:
        """Sample grids of both directions from the averaged generators, as RUN/samples/STEP-summer-winter.png."""
        styles = self._style_statistics()
        for source in self.model.domains:
            name = f"{self.step:08d}-{source}-{self.ema.other(source)}.png"
            write_grid(self.run / "samples" / name, self.ema, self.samples, source, styles)

    def _generator_groups(self) -> list[dict[str, object]]:
        content = [*self.model.content_encoders.parameters(), *self.model.shared_encoder.parameters()]
        of_content = set(map(id, content))
        rest = [p for p in self.model.parameters() if id(p) not in of_content]
        return [{"params": content, "lr_factor": self.config.optimizer.content_lr_factor}, {"params": rest}]

    def _set_learning_rates(self, step: int) -> None:
        lr = learning_rate(self.config.optimizer, step, self.config.steps)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_factor", 1.0)

    def _draw(self, stream: int, step: int, n: int) -> ByDomain:
        """Random style codes (n, S) for both domains that depend on (seed, stream, step) only."""
        seed = ((self.config.seed * 3 + stream) << 40) + step
        generator = torch.Generator().manual_seed(seed % 2**64)
        drawn = {domain: self.model.random_style(n, generator) for domain in self.model.domains}
        low, high = self.config.style_scale
        if stream == _KL_NOISE or low == high == 1:
            return drawn
        return {d: s * (low + (high - low) * torch.rand(n, 1, generator=generator).to(s)) for d, s in drawn.items()}

    def _check_finite(self, terms: Mapping[str, Tensor], batch: Batch) -> None:
        values = torch.stack([term.detach() for term in terms.values()])
        if bool(values.isfinite().all()):
            return
        name = next(name for name, value in zip(terms, values.tolist(), strict=True) if not math.isfinite(value))
        files = ", ".join(str(path) for path in (*batch.paths_a, *batch.paths_b))
        raise DsmapError(
            f"the loss {name} is not finite at step {batch.step + 1} (pictures: {files})", self._how_to_go_on()
        )

    def _how_to_go_on(self) -> str:
        saved = list_checkpoints(self.run / "checkpoints")
        kept = f"The last good checkpoint is {saved[-1]}: continue" if saved else "Start again"
        return f"{kept} with a lower rate, such as --set optimizer.lr={self.config.optimizer.lr / 2:g}."

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """EMA of the generators; the decay starts low so that the first random weights are soon forgotten."""
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.ema.parameters())
        live: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(ours, live, 1 - decay)

    def _style_statistics(self) -> dict[str, StyleStatistics]:
        """Of the averaged generators as they are now; samples and checkpoint of one step share them."""
        if self._styles[0] != self.step:
            side = self.config.data.shorter_side
            found = {d.name: style_statistics(self.ema, d.name, d.train, side, STYLE_PICTURES) for d in self.domains}
            self._styles = (self.step, found)
        return self._styles[1]

    def _load_samples(self) -> ByDomain:
        size = self.config.data.shorter_side // self.config.model.multiple_of * self.config.model.multiple_of
        return {d.name: load_samples(d.test or d.train, size) for d in self.domains}

    def _prepare_run(self) -> None:
        try:
            (self.run / "samples").mkdir(parents=True, exist_ok=True)
            (self.run / "checkpoints").mkdir(exist_ok=True)
            text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
            (self.run / "config.yaml").write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write to the run folder {self.run}: {error}", "Choose another with -o."
            ) from error

    def _log(self, line: Mapping[str, float]) -> None:
        path = self.run / "log.jsonl"
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        except OSError as error:
            raise DsmapError(
                f"cannot write {path}: {error.strerror}", "Free disk space, then continue with --resume auto."
            ) from error

    def _report_broken(self, broken: Broken) -> None:
        self._broken += 1
        self.say(f"skipped a broken picture ({self._broken} so far): {broken.fact}")

    def _restore(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        check_resumable(checkpoint, self.config, self.run)
        for name, module in self.modules.items():
            load_into(module, checkpoint.path / f"{name}.safetensors")
        load_optimizers(checkpoint.path, self.modules, self.optimizers)
        self.step = checkpoint.step
        self.say(f"resumed {checkpoint.path} at step {self.step}")
        for key, (then, now) in changed_settings(checkpoint.config, self.config).items():
            self.say(f"changed since that checkpoint: {key} {then} -> {now}")
