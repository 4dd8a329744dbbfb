"""The writer of a run folder: settings, logs, sample grids and checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from dsmap.common.distributed import Processes
from dsmap.common.state_files import lock_folder
from dsmap.config import TrainConfig
from dsmap.errors import DsmapError, InputError
from dsmap.model.dsmap import is_finite
from dsmap.training.checkpoint import Checkpoint, prune_checkpoints, save_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.checkpoint_score import MIN_IMAGES, CheckpointScorer, RandomFeatures, Score, pooled
from dsmap.training.data import Batch
from dsmap.training.datasets import Domains, fingerprint, training_folders
from dsmap.training.device import Hardware
from dsmap.training.learner import Learner
from dsmap.training.run_images import fixed_images, reference_images
from dsmap.training.run_log import RunLog, write_config, write_run_image
from dsmap.training.samples import draw_batch, draw_grid
from dsmap.training.style_statistics import StyleStatistics, styles_by_domain

MAX_STYLE_IMAGES = 100
"""Images of each domain for a checkpoint's style statistics, at most; an export can use all."""
SAMPLE_IMAGES = 4
"""Rows of a sample grid."""


FIRST_SAMPLES = 50
"""The iteration of the first grids, however rare they are later: a mistake in the data shows early."""


class RunWriter:
    """Writes the run folder of a training; of several processes only the first has one.

    RUN/config.yaml, log.jsonl, scores.jsonl, first-batch.png, samples/*.png, tensorboard/, checkpoints/00001000/.
    `saved` is the step of which the run folder already holds a checkpoint.
    """

    def __init__(
        self,
        config: TrainConfig,
        domains: Domains,
        run: Path,
        learner: Learner,
        hardware: Hardware,
        processes: Processes,
        saved: int | None = None,
    ) -> None:
        self.config, self.domains, self.run, self.learner, self.processes = config, domains, run, learner, processes
        self.log: RunLog | None = None
        self.samples = fixed_images(config, domains, SAMPLE_IMAGES)
        self.scorer = _make_scorer(config, domains, learner.features, hardware)
        self._data = {domain.name: fingerprint(domain) for domain in domains}
        self._saved = saved
        self._styles: tuple[int, dict[str, StyleStatistics]] = (-1, {})

    @contextmanager
    def open(self, step: int, score: Score | None) -> Iterator[None]:
        """Within the block the run folder is locked and the log open.

        The log continues after `step`; `score` is that of the checkpoint the training resumes from.
        """
        self._make_folders()
        with lock_folder(self.run):
            write_config(self.run, self.config)
            with RunLog(self.run, step, score, tensorboard=self.config.tensorboard) as self.log:
                yield

    def record(self, batch: Batch, losses: Mapping[str, float], seconds: float) -> None:
        """Write what is due after the iteration on `batch`, `seconds` after the first one began."""
        config, step = self.config, batch.step + 1
        done = step == config.steps
        if batch.step == 0:
            write_run_image(self.run / "first-batch.png", draw_batch(batch, config.model.domains))
        if step % config.log_every == 0 and self.log is not None:
            self.log.losses(step, seconds, losses)
        if step % config.sample_every == 0 or step == FIRST_SAMPLES or done:
            self.write_samples(step)
        if step % config.checkpoint_every == 0 or done:
            self.save_once(step)

    def save_once(self, step: int) -> Path:
        """The checkpoint of `step`, written unless it has been."""
        if self._saved != step:
            checkpoint = self.save(step)
            if self.log is not None:
                self._log_checkpoint(self.log, checkpoint)
        return self.run / "checkpoints" / f"{step:08d}"

    def save(self, step: int) -> Checkpoint:
        """Write a checkpoint and remove the oldest beyond `keep_checkpoints`, but never the best.

        Its score is logged first: a training that is killed in between measures it again.
        Raises DsmapError when the weights are not finite (nothing is written then) or the disk is full.
        """
        if not is_finite(self.learner.model):
            raise DsmapError(
                f"the weights are not finite at step {step}", advice_after_divergence(self.run, self.config)
            )
        folder = self.run / "checkpoints"
        score = self.scorer.score(self.learner.ema) if self.scorer else None
        if self.log is not None and score is not None:
            self.log.score(step, score)
        checkpoint = Checkpoint(
            path=folder / f"{step:08d}",
            step=step,
            config=self.config,
            styles=self._style_statistics(step),
            images=training_folders(self.domains),
            data=self._data,
            processes=self.processes.world_size,
            score=score,
        )
        save_checkpoint(checkpoint, self.learner.modules, self.learner.optimizers)
        prune_checkpoints(folder, self.config.keep_checkpoints)
        self._saved = step
        return checkpoint

    def write_samples(self, step: int) -> None:
        """Sample grids of both directions from the averaged generators, as RUN/samples/STEP-summer-winter.png."""
        styles = self._style_statistics(step)
        for source in self.learner.model.domains:
            direction = f"{source}-{self.learner.ema.other(source)}"
            grid_rgb = draw_grid(self.learner.ema, self.samples, source, styles)
            write_run_image(self.run / "samples" / f"{step:08d}-{direction}.png", grid_rgb)
            if self.log is not None:
                self.log.image(step, f"samples/{direction}", grid_rgb)

    def _log_checkpoint(self, log: RunLog, checkpoint: Checkpoint) -> None:
        step = checkpoint.step
        log.histograms(step, {"generators": self.learner.model, "discriminators": self.learner.discriminators})
        for domain, statistics in checkpoint.styles.items():
            log.numbers(step, f"style_mean/{domain}", torch.tensor(statistics.mean))
        log.flush()

    def _style_statistics(self, step: int) -> dict[str, StyleStatistics]:
        """Of the averaged generators as they are now; samples and checkpoint of one step share them."""
        if self._styles[0] != step:
            images = {d.name: d.train for d in self.domains}
            side = self.config.data.shorter_side
            self._styles = (step, styles_by_domain(self.learner.ema, images, side, MAX_STYLE_IMAGES))
        return self._styles[1]

    def _make_folders(self) -> None:
        try:
            (self.run / "samples").mkdir(parents=True, exist_ok=True)
            (self.run / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to the run folder {self.run}: {error}", "Choose another with -o."
            ) from error


def advice_after_divergence(run: Path, config: TrainConfig) -> str:
    """What to do when losses or weights are not finite."""
    saved = list_checkpoints(run / "checkpoints")
    kept = f"The last good checkpoint is {saved[-1]}: continue" if saved else "Start again"
    return f"{kept} with a lower rate, such as --set optimizer.lr={config.optimizer.lr / 2:g}."


def _make_scorer(
    config: TrainConfig, domains: Domains, features: nn.Module | None, hardware: Hardware
) -> CheckpointScorer | None:
    """The scorer of the run's checkpoints; None if scoring is off or there are too few images."""
    if not config.score_pictures:
        return None
    images = fixed_images(config, domains, config.score_pictures, MIN_IMAGES)
    if min(map(len, images.values())) < MIN_IMAGES:
        return None
    name = Path(config.features).name
    if features is None:
        features, name = RandomFeatures().to(hardware.device), "random"
    reference = {d.name: pooled(reference_images(config, d), features, hardware.device) for d in domains}
    return CheckpointScorer(images, reference, features, name)
