"""The training loop and its run folder: batches in; losses, samples and checkpoints out."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from dsmap.common.distributed import Processes, all_gather, any_process
from dsmap.common.interrupts import stop_on_signals
from dsmap.common.notify import Notify
from dsmap.common.sampling import pick_evenly
from dsmap.common.state_files import lock_folder
from dsmap.config import TrainConfig
from dsmap.errors import DsmapError, InputError
from dsmap.model.dsmap import DSMAP, is_finite
from dsmap.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_into,
    load_optimizers,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from dsmap.training.checkpoint_score import MIN_IMAGES, CheckpointScorer, RandomFeatures, pooled
from dsmap.training.data import Batch, Broken, Domains, UnpairedBatches
from dsmap.training.datasets import Domain, fingerprint, training_folders
from dsmap.training.device import Hardware, choose_hardware
from dsmap.training.learner import Learner, NotFiniteError
from dsmap.training.memory_estimate import explained_memory
from dsmap.training.objective import ByDomain
from dsmap.training.readers import readers_here
from dsmap.training.resume import changed_settings, check_startable
from dsmap.training.run_log import RunLog, write_config, write_run_image
from dsmap.training.samples import draw_batch, draw_grid, load_samples
from dsmap.training.style_statistics import StyleStatistics, styles_by_domain

# A checkpoint's style statistics come from at most this many images a domain; an export can use all.
STYLE_IMAGES = 100
# A checkpoint's translations are compared with at most this many training images a domain.
REFERENCE_IMAGES = 200
_AT_ONCE = 8
# Rows of a sample grid.
SAMPLE_IMAGES = 4


class TrainProgress(NamedTuple):
    """What an iteration tells: its number (from 1), the total losses and every unweighted term."""

    step: int
    losses: dict[str, float]
    waited: float
    """Seconds that the iteration waited for its images."""


class Trainer:
    """A learner and the run folder of its training.

    RUN/config.yaml, log.jsonl, scores.jsonl, first-batch.png, samples/*.png, tensorboard/, checkpoints/00001000/; of
    several `processes` the first writes them. A new training begins with the generators `start_from` where some are
    given. `say` gets lines for people, `warn` those that every process may have.
    Raises InputError when RUN already holds checkpoints and `resume` is not given, or `resume` does not go with the
    configuration or, unless `allow_new_data`, with the images.
    """

    def __init__(
        self,
        config: TrainConfig,
        domains: Domains,
        run: Path,
        *,
        hardware: Hardware | None = None,
        processes: Processes | None = None,
        resume: Path | None = None,
        allow_new_data: bool = False,
        start_from: DSMAP | None = None,
        say: Notify = lambda _line: None,
        warn: Notify | None = None,
    ) -> None:
        self.config, self.domains, self.run, self.say, self.warn = config, domains, run, say, warn or say
        self.processes = processes or Processes()
        self.hardware = hardware or choose_hardware(config, "cpu")
        self.step = 0
        self._plan = readers_here(config.data, self.processes.local_world_size)
        check_startable(config, domains, run, resume, allow_new_data)
        with explained_memory(config, self.hardware):
            self.learner = Learner(config, self.hardware, self.processes, self.say)
            look = config.loss.appearance > 0 or (config.discriminator.features and resume is None)
            for domain in domains if look else ():
                images = list(self._real(domain))
                if not images:
                    raise InputError(f"none of the images of {domain.name} can be read", "Put whole images there.")
                self.learner.fit_statistics(domain.name, images, resumed=resume is not None)
        if start_from is not None and resume is None:
            self.learner.start_from(start_from)
        self._resumed = None if resume is None else self._restore(read_checkpoint(resume))
        steps = all_gather(f"{self.step}")
        if len(set(steps)) > 1:
            raise InputError(
                f"the processes found checkpoints of different steps: {', '.join(steps)}",
                "Put the run folder where every machine sees the same one.",
            )
        self._data = {domain.name: fingerprint(domain) for domain in domains}
        self._broken = 0
        here = resume is not None and resume.parent.resolve() == (run / "checkpoints").resolve()
        self._saved = self.step if here else None
        self._styles: tuple[int, dict[str, StyleStatistics]] = (-1, {})
        if self.processes.rank == 0:
            self.samples = self._images(SAMPLE_IMAGES)
            self.scorer = self._make_scorer()

    def train(self, on_step: Callable[[TrainProgress], None] = lambda _progress: None) -> Path:
        """Runs until `config.steps`, and gives the last checkpoint.

        Ctrl-C, SIGTERM and SIGHUP save a checkpoint first and then raise KeyboardInterrupt. Raises DsmapError when a
        loss is not finite (the last checkpoint stays), memory runs out or the disk is full; after a checkpoint of what
        was learnt also when a process that reads images dies, and InputError when too many images are broken.
        """
        saved = list_checkpoints(self.run / "checkpoints")
        if saved and self.step == self.config.steps:
            self.say(f"already at step {self.step} of {self.config.steps}: nothing to do")
            return saved[-1]
        with explained_memory(self.config, self.hardware), ExitStack() as stack:
            log = None
            if self.processes.rank == 0:
                self._make_folders()
                stack.enter_context(lock_folder(self.run))
                write_config(self.run, self.config)
                score = self._resumed.score if self._resumed else None
                log = stack.enter_context(RunLog(self.run, self.step, score, tensorboard=self.config.tensorboard))
            if self.hardware.compiled:
                self.learner.compile(self.say)
            stop = stack.enter_context(stop_on_signals(second_ctrl_c_raises=True))
            batches = stack.enter_context(closing(self._load(stop.__bool__)))
            return self._run_to_the_end(log, batches, stop.__bool__, on_step)

    def iterate(self, batch: Batch) -> dict[str, float]:
        """One iteration of the learner; `batch.step` + 1 becomes the trainer's step. Raises DsmapError, see `train`."""
        try:
            losses = self.learner.iterate(batch)
        except NotFiniteError as error:
            raise DsmapError(str(error), self._how_to_go_on()) from error
        self.step = batch.step + 1
        return losses

    def save(self, log: RunLog | None = None) -> Checkpoint:
        """Writes a checkpoint and drops the oldest beyond `keep_checkpoints`, but never the best.

        Its score goes to `log` first: a training that is killed in between then measures it again.

        Raises DsmapError when the weights are not finite (nothing is written then) or the disk is full.
        """
        if not is_finite(self.learner.model):
            raise DsmapError(f"the weights are not finite at step {self.step}", self._how_to_go_on())
        folder = self.run / "checkpoints"
        score = self.scorer.score(self.learner.ema) if self.scorer else None
        if log is not None and score is not None:
            log.score(self.step, score)
        checkpoint = Checkpoint(
            path=folder / f"{self.step:08d}",
            step=self.step,
            config=self.config,
            styles=self._style_statistics(),
            images=training_folders(self.domains),
            data=self._data,
            processes=self.processes.world_size,
            score=score,
        )
        save_checkpoint(checkpoint, self.learner.modules, self.learner.optimizers)
        prune_checkpoints(folder, self.config.keep_checkpoints)
        self._saved = self.step
        return checkpoint

    def write_samples(self, log: RunLog | None = None) -> None:
        """Sample grids of both directions from the averaged generators, as RUN/samples/STEP-summer-winter.png."""
        styles = self._style_statistics()
        for source in self.learner.model.domains:
            direction = f"{source}-{self.learner.ema.other(source)}"
            grid_rgb = draw_grid(self.learner.ema, self.samples, source, styles)
            write_run_image(self.run / "samples" / f"{self.step:08d}-{direction}.png", grid_rgb)
            if log is not None:
                log.image(self.step, f"samples/{direction}", grid_rgb)

    def _run_to_the_end(
        self,
        log: RunLog | None,
        batches: Generator[Batch],
        stop_asked: Callable[[], bool],
        on_step: Callable[[TrainProgress], None],
    ) -> Path:
        config = self.config
        started = time.monotonic()
        while self.step < config.steps:
            asked = time.perf_counter()
            batch = self._next(batches, stop_asked, log)
            waited = time.perf_counter() - asked
            losses = self.iterate(batch)
            self._tell(on_step, TrainProgress(self.step, losses, waited), log)
            done = self.step == config.steps
            if log is not None:
                if batch.step == 0:
                    write_run_image(self.run / "first-batch.png", draw_batch(batch, self.learner.model.domains))
                if self.step % config.log_every == 0:
                    log.losses(self.step, time.monotonic() - started, losses)
                if self.step % config.sample_every == 0 or done:
                    self.write_samples(log)
                if self.step % config.checkpoint_every == 0 or done:
                    self._save_once(log)
        if log is not None:
            self._save_once(log)  # one that went on at its last step, from elsewhere
        return self.run / "checkpoints" / f"{self.step:08d}"

    def _next(self, batches: Generator[Batch], stop_asked: Callable[[], bool], log: RunLog | None) -> Batch:
        """The next batch, once all processes have theirs and none of them ends.

        Where one ends, all do: raises KeyboardInterrupt, or the error, when a checkpoint of this step is there.
        """
        batch, failure = None, None
        try:
            batch = next(batches, None)  # None: a stop was asked for meanwhile
        except DsmapError as error:
            failure = error
        stop = stop_asked() or (batch is None and failure is None)
        try:
            failed, stop = any_process((failure is not None, stop), self.hardware.device)
        except DsmapError as error:  # another process has gone
            failure, failed = failure or error, True
        if batch is not None and not failed and not stop:
            return batch
        batches.close()  # what reads ahead would compete for the machine
        if failed:
            self._save_before(failure, log)
            raise failure or DsmapError(
                "another process of this training has failed",
                "Look for its message above; continue all of them with --resume auto.",
            )
        if log is not None:
            self.say(f"stopped at step {self.step}, saved {self._save_once(log)}")
        raise KeyboardInterrupt

    def _tell(self, on_step: Callable[[TrainProgress], None], progress: TrainProgress, log: RunLog | None) -> None:
        """What was learnt is kept where nobody is told any more (`dsmap-train ... | head`), which raises OSError."""
        try:
            on_step(progress)
        except OSError:
            if log is not None:
                self._save_once(log)
            raise

    def _save_before(self, failure: DsmapError | None, log: RunLog | None) -> None:
        """Keeps what was learnt before the training ends with `failure`, which stays the error to tell."""
        if log is None or self.step == 0:
            return
        try:
            self.say(f"saved {self._save_once(log)}")
        except DsmapError as error:
            self.warn(f"and no checkpoint could be saved: {error.fact}")

    def _save_once(self, log: RunLog) -> Path:
        """The checkpoint of this step, written unless this training has done so."""
        if self._saved != self.step:
            self._save_and_log(log)
        return self.run / "checkpoints" / f"{self.step:08d}"

    def _load(self, stop_asked: Callable[[], bool]) -> Generator[Batch]:
        """The batches that are left."""
        batches = UnpairedBatches.of(self.domains, self.config.data, self.config.seed, self.processes)
        yield from batches.loader(
            self.step,
            self.config.steps,
            workers=self._plan.readers,
            ahead=self._plan.ahead,
            pin_memory=self.hardware.device.type == "cuda",
            on_broken=self._report_broken,
            stop_asked=stop_asked,
            say=self.warn,
        )

    def _save_and_log(self, log: RunLog) -> Path:
        checkpoint = self.save(log)
        log.histograms(self.step, {"generators": self.learner.model, "discriminators": self.learner.discriminators})
        for domain, statistics in checkpoint.styles.items():
            log.numbers(self.step, f"style_mean/{domain}", torch.tensor(statistics.mean))
        log.flush()
        return checkpoint.path

    def _how_to_go_on(self) -> str:
        saved = list_checkpoints(self.run / "checkpoints")
        kept = f"The last good checkpoint is {saved[-1]}: continue" if saved else "Start again"
        return f"{kept} with a lower rate, such as --set optimizer.lr={self.config.optimizer.lr / 2:g}."

    def _style_statistics(self) -> dict[str, StyleStatistics]:
        """Of the averaged generators as they are now; samples and checkpoint of one step share them."""
        if self._styles[0] != self.step:
            side = self.config.data.shorter_side
            images = {d.name: d.train for d in self.domains}
            found = styles_by_domain(self.learner.ema, images, side, STYLE_IMAGES)
            self._styles = (self.step, found)
        return self._styles[1]

    def _images(self, count: int, fewest_of_test: int = 1) -> ByDomain:
        """Test images where there are enough of them, else training images, in the size of the training."""
        return {
            d.name: load_samples(d.test if len(d.test) >= fewest_of_test else d.train, self._side(), count)
            for d in self.domains
        }

    def _side(self) -> int:
        """Of square images in the size of the training."""
        return self.config.data.shorter_side // self.config.model.multiple_of * self.config.model.multiple_of

    def _make_scorer(self) -> CheckpointScorer | None:
        """Who scores the checkpoints; None where that is off or there are too few images."""
        if not self.config.score_pictures:
            return None
        images = self._images(self.config.score_pictures, MIN_IMAGES)
        if min(map(len, images.values())) < MIN_IMAGES:
            return None
        features: nn.Module | None = self.learner.features
        name = Path(self.config.features).name
        if features is None:
            features, name = RandomFeatures().to(self.hardware.device), "random"
        reference = {d.name: pooled(self._real(d), features, self.hardware.device) for d in self.domains}
        return CheckpointScorer(images, reference, features, name)

    def _real(self, domain: Domain) -> Iterator[torch.Tensor]:
        """Up to `REFERENCE_IMAGES` training images, evenly picked, a few at a time."""
        picked = pick_evenly(domain.train, REFERENCE_IMAGES)
        for start in range(0, len(picked), _AT_ONCE):
            with suppress(InputError):  # none of these few can be read
                yield load_samples(picked[start : start + _AT_ONCE], self._side(), _AT_ONCE)

    def _make_folders(self) -> None:
        try:
            (self.run / "samples").mkdir(parents=True, exist_ok=True)
            (self.run / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to the run folder {self.run}: {error}", "Choose another with -o."
            ) from error

    def _report_broken(self, broken: Broken) -> None:
        self._broken += 1
        self.warn(f"skipped a broken image ({self._broken} so far): {broken.fact}")

    def _restore(self, checkpoint: Checkpoint) -> Checkpoint:
        for name, module in self.learner.modules.items():
            load_into(module, checkpoint.path / f"{name}.safetensors")
        if checkpoint.step:  # before the first step Adam has seen nothing
            load_optimizers(checkpoint.path, self.learner.modules, self.learner.optimizers)
        self.step = checkpoint.step
        self.say(f"resumed {checkpoint.path} at step {self.step}")
        changed = changed_settings(checkpoint.config, self.config)
        if checkpoint.processes != self.processes.world_size:
            changed["processes"] = checkpoint.processes, self.processes.world_size
        for key, (then, now) in changed.items():
            self.say(f"changed since that checkpoint: {key} {then} -> {now}")
        return checkpoint
