"""The training loop: batches in, iterations of the learner, and what the run folder gets."""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from dsmap.common.distributed import Processes, all_gather, any_process
from dsmap.common.interrupts import stop_on_signals
from dsmap.common.notify import Notify
from dsmap.config import TrainConfig
from dsmap.errors import DsmapError, InputError
from dsmap.model.dsmap import DSMAP
from dsmap.training.checkpoint import Checkpoint, load_into, load_optimizers, read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.data import Batch, Broken, UnpairedBatches
from dsmap.training.datasets import Domains
from dsmap.training.device import Hardware, choose_hardware
from dsmap.training.learner import Learner, NotFiniteError
from dsmap.training.memory_estimate import explained_memory
from dsmap.training.readers import readers_here
from dsmap.training.resume import changed_settings, check_startable
from dsmap.training.run_images import reference_images
from dsmap.training.run_writer import RunWriter, advice_after_divergence


class TrainProgress(NamedTuple):
    """What an iteration reports: its number (from 1), the total losses and every unweighted term."""

    step: int
    losses: dict[str, float]
    waited: float
    """Seconds that the iteration waited for its images."""


class Trainer:
    """Trains a learner from a first or resumed step to the last one; the first process writes the run folder.

    A new training begins with the weights of the generators `start_from`, if given. `say` gets lines for people, `warn`
    those that any process may have.
    Raises InputError when RUN already holds checkpoints and `resume` is not given, or `resume` does not match the
    configuration or, unless `allow_new_data`, the images.
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
        self._broken = 0
        check_startable(config, domains, run, resume, allow_new_data)
        with explained_memory(config, self.hardware):
            self.learner = Learner(config, self.hardware, self.processes, self.say)
            self._fit_statistics(resumed=resume is not None)
        if start_from is not None and resume is None:
            self.learner.start_from(start_from)
        self._resumed = None if resume is None else self._restore(read_checkpoint(resume))
        self._check_same_step()
        self.writer: RunWriter | None = None
        if self.processes.rank == 0:
            here = resume is not None and resume.parent.resolve() == (run / "checkpoints").resolve()
            saved = self.step if here else None
            self.writer = RunWriter(config, domains, run, self.learner, self.hardware, self.processes, saved)

    def train(self, on_step: Callable[[TrainProgress], None] = lambda _progress: None) -> Path:
        """Train until `config.steps`; returns the last checkpoint.

        Ctrl-C, SIGTERM and SIGHUP save a checkpoint first and then raise KeyboardInterrupt. Raises DsmapError when a
        loss is not finite (the last checkpoint stays), memory runs out or the disk is full. When a process that reads
        images dies (DsmapError) or too many images are broken (InputError), a checkpoint is saved first.
        """
        saved = list_checkpoints(self.run / "checkpoints")
        if saved and self.step == self.config.steps:
            self.say(f"already at step {self.step} of {self.config.steps}: nothing to do")
            return saved[-1]
        with explained_memory(self.config, self.hardware), ExitStack() as stack:
            if self.writer is not None:
                score = self._resumed.score if self._resumed else None
                stack.enter_context(self.writer.open(self.step, score))
            if self.hardware.compiled:
                self.learner.compile(self.say)
            stop = stack.enter_context(stop_on_signals(second_ctrl_c_raises=True))
            batches = stack.enter_context(closing(self._load(lambda: stop.requested)))
            return self._loop(batches, lambda: stop.requested, on_step)

    def iterate(self, batch: Batch) -> dict[str, float]:
        """One iteration of the learner; `batch.step` + 1 becomes the trainer's step. Raises DsmapError, see `train`."""
        try:
            losses = self.learner.iterate(batch)
        except NotFiniteError as error:
            raise DsmapError(str(error), advice_after_divergence(self.run, self.config)) from error
        self.step = batch.step + 1
        return losses

    def _loop(
        self, batches: Generator[Batch], stop_asked: Callable[[], bool], on_step: Callable[[TrainProgress], None]
    ) -> Path:
        started = time.monotonic()
        while self.step < self.config.steps:
            asked = time.perf_counter()
            batch = self._next(batches, stop_asked)
            waited = time.perf_counter() - asked
            losses = self.iterate(batch)
            self._report(on_step, TrainProgress(self.step, losses, waited))
            if self.writer is not None:
                self.writer.record(batch, losses, time.monotonic() - started)
        if self.writer is not None:
            self.writer.save_once(self.step)  # a training resumed at its last step, from elsewhere
        return self.run / "checkpoints" / f"{self.step:08d}"

    def _next(self, batches: Generator[Batch], stop_asked: Callable[[], bool]) -> Batch:
        """The next batch, once all processes have theirs and none of them ends.

        If one ends, all do: raises KeyboardInterrupt, or the error, after a checkpoint of this step was saved.
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
            self._save_before_failing()
            raise failure or DsmapError(
                "another process of this training has failed",
                "Look for its message above; continue all of them with --resume auto.",
            )
        if self.writer is not None:
            self.say(f"stopping: saving a checkpoint of step {self.step} ...")  # its score can take a while
            self.say(f"stopped at step {self.step}, saved {self.writer.save_once(self.step)}")
        raise KeyboardInterrupt

    def _report(self, on_step: Callable[[TrainProgress], None], progress: TrainProgress) -> None:
        """Call `on_step`; if nobody reads its output any more (`dsmap-train ... | head`: OSError), save first."""
        try:
            on_step(progress)
        except OSError:
            if self.writer is not None:
                self.writer.save_once(self.step)
            raise

    def _save_before_failing(self) -> None:
        """Save what was learnt before the training ends with an error, which stays the one to report."""
        if self.writer is None or self.step == 0:
            return
        try:
            self.say(f"saved {self.writer.save_once(self.step)}")
        except DsmapError as error:
            self.warn(f"and no checkpoint could be saved: {error.fact}")

    def _load(self, stop_asked: Callable[[], bool]) -> Generator[Batch]:
        """The remaining batches."""
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

    def _report_broken(self, broken: Broken) -> None:
        self._broken += 1
        self.warn(f"skipped a broken image ({self._broken} so far): {broken.fact}")

    def _fit_statistics(self, *, resumed: bool) -> None:
        """Statistics of real images, where losses or discriminators compare with them."""
        if not (self.config.loss.appearance > 0 or (self.config.discriminator.features and not resumed)):
            return
        for domain in self.domains:
            images = list(reference_images(self.config, domain))
            if not images:
                raise InputError(f"none of the images of {domain.name} can be read", "Put whole images there.")
            self.learner.fit_statistics(domain.name, images, resumed=resumed)

    def _restore(self, checkpoint: Checkpoint) -> Checkpoint:
        for name, module in self.learner.modules.items():
            load_into(module, checkpoint.path / f"{name}.safetensors")
        if checkpoint.step:  # before the first step Adam has no state
            load_optimizers(checkpoint.path, self.learner.modules, self.learner.optimizers)
        self.step = checkpoint.step
        self.say(f"resumed {checkpoint.path} at step {self.step}")
        changed = changed_settings(checkpoint.config, self.config)
        if checkpoint.processes != self.processes.world_size:
            changed["processes"] = checkpoint.processes, self.processes.world_size
        for key, (then, now) in changed.items():
            self.say(f"changed since that checkpoint: {key} {then} -> {now}")
        return checkpoint

    def _check_same_step(self) -> None:
        steps = all_gather(f"{self.step}")
        if len(set(steps)) > 1:
            raise InputError(
                f"the processes found checkpoints of different steps: {', '.join(steps)}",
                "Put the run folder where every machine sees the same one.",
            )
