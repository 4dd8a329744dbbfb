"""The training loop and its run folder: batches in; losses, samples and checkpoints out."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import yaml

from dsmap.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_into,
    load_optimizers,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from dsmap.config import TrainConfig
from dsmap.data import Batch, Broken, Domains, UnpairedBatches
from dsmap.device import Hardware, choose_hardware, is_out_of_memory
from dsmap.distributed import Processes, any_process, of_all_processes
from dsmap.domains import fingerprint
from dsmap.errors import DsmapError, InputError
from dsmap.footprint import out_of_memory
from dsmap.images import write_picture
from dsmap.interrupts import stop_signals
from dsmap.learner import Learner, NotFiniteError
from dsmap.objective import ByDomain
from dsmap.quality import FEWEST_PICTURES, RandomFeatures, Score, score
from dsmap.resume import changed_settings, check_resumable
from dsmap.run_log import RunLog
from dsmap.samples import draw_batch, draw_grid, load_samples
from dsmap.styles import StyleStatistics, style_statistics

T = TypeVar("T")

# A checkpoint's style statistics come from at most this many pictures a domain; an export can use all.
STYLE_PICTURES = 100
# Rows of a sample grid.
SAMPLE_PICTURES = 4


class Progress(NamedTuple):
    """What an iteration tells: its number (from 1), the total losses and every unweighted term."""

    step: int
    losses: dict[str, float]
    waited: float
    """Seconds that the iteration waited for its pictures."""


class Trainer:
    """A learner and the run folder of its training.

    RUN/config.yaml, log.jsonl, first-batch.png, samples/*.png, tensorboard/, checkpoints/00001000/; of several
    `processes` the first writes them. `say` gets lines for people.
    Raises InputError when RUN already holds checkpoints and `resume` is not given, or `resume` does not go with the
    configuration or, unless `allow_new_data`, with the pictures.
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
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.config, self.domains, self.run, self.say = config, domains, run, say
        self.processes = processes or Processes()
        self.step = 0
        for domain in domains:
            if len(domain.train) < 2:  # told now, not at the first checkpoint
                raise InputError(f"domain {domain.name!r} has one picture, expected two or more", "Add pictures of it.")
        self.learner = Learner(config, hardware or choose_hardware(config, "cpu"), self.processes)
        self._data = {domain.name: fingerprint(domain) for domain in domains}
        if resume is not None:
            self._restore(resume, allow_new_data)
        elif list_checkpoints(run / "checkpoints"):
            raise InputError(
                f"{run} already holds a training", "Continue it with --resume auto, or choose another folder with -o."
            )
        self.samples = self._pictures_to_watch(SAMPLE_PICTURES)
        self._watch_pictures = self._pictures_to_score() if config.score_pictures else None
        self._broken = 0
        self._styles: tuple[int, dict[str, StyleStatistics]] = (-1, {})

    def train(self, on_step: Callable[[Progress], None] = lambda _progress: None) -> Path:
        """Runs until `config.steps`, and gives the last checkpoint.

        Ctrl-C and SIGTERM save a checkpoint first and then raise KeyboardInterrupt. Raises DsmapError when a loss is
        not finite (the last checkpoint stays), memory runs out or the disk is full, InputError when too many pictures
        are broken.
        """
        saved = list_checkpoints(self.run / "checkpoints")
        if saved and self.step == self.config.steps:
            self.say(f"already at step {self.step} of {self.config.steps}: nothing to do")
            return saved[-1]
        if self.processes.rank == 0:
            self._prepare_run()
        if self.learner.hardware.compiled:
            self._within_memory(lambda: self.learner.compile(self.say))
        log = RunLog(self.run, self.step, tensorboard=self.config.tensorboard) if self.processes.rank == 0 else None
        try:
            with stop_signals() as stopped:
                device = self.learner.hardware.device
                return self._run_to_the_end(log, lambda: any_process(stopped.is_set(), device), on_step)
        finally:
            if log is not None:
                log.close()

    def iterate(self, batch: Batch) -> dict[str, float]:
        """One iteration of the learner; `batch.step` + 1 becomes the trainer's step. Raises DsmapError, see `train`."""
        try:
            losses = self._within_memory(lambda: self.learner.iterate(batch))
        except NotFiniteError as error:
            raise DsmapError(str(error), self._how_to_go_on()) from error
        self.step = batch.step + 1
        return losses

    def save(self) -> Path:
        """Writes a checkpoint and drops the oldest beyond `keep_checkpoints`, but never the best.

        Raises DsmapError when the weights are not finite (nothing is written then) or the disk is full.
        """
        if not all(bool(value.isfinite().all()) for value in self.learner.model.state_dict().values()):
            raise DsmapError(f"the weights are not finite at step {self.step}", self._how_to_go_on())
        folder = self.run / "checkpoints"
        checkpoint = Checkpoint(
            path=folder / f"{self.step:08d}",
            step=self.step,
            config=self.config,
            styles=self._style_statistics(),
            pictures={d.name: sorted({str(p.parent.resolve()) for p in d.train}) for d in self.domains},
            data=self._data,
            processes=self.processes.world,
            score=self._score(),
        )
        save_checkpoint(checkpoint, self.learner.modules, self.learner.optimizers)
        prune_checkpoints(folder, self.config.keep_checkpoints)
        return checkpoint.path

    def write_samples(self, log: RunLog | None = None) -> None:
        """Sample grids of both directions from the averaged generators, as RUN/samples/STEP-summer-winter.png."""
        styles = self._style_statistics()
        for source in self.learner.model.domains:
            direction = f"{source}-{self.learner.ema.other(source)}"
            grid_rgb = draw_grid(self.learner.ema, self.samples, source, styles)
            write_picture(self.run / "samples" / f"{self.step:08d}-{direction}.png", grid_rgb)
            if log is not None:
                log.picture(self.step, f"samples/{direction}", grid_rgb)

    def _run_to_the_end(
        self, log: RunLog | None, stop_asked: Callable[[], bool], on_step: Callable[[Progress], None]
    ) -> Path:
        config, last = self.config, None
        started = time.monotonic()
        for batch, waited in self._load():
            losses = self.iterate(batch)
            on_step(Progress(self.step, losses, waited))
            done, stop = self.step == config.steps, stop_asked()
            if log is not None:
                if batch.step == 0:
                    x = dict(zip(self.learner.model.domains, (batch.x_a_nchw, batch.x_b_nchw), strict=True))
                    write_picture(self.run / "first-batch.png", draw_batch(x))
                if self.step % config.log_every == 0:
                    log.losses(self.step, time.monotonic() - started, losses)
                if self.step % config.sample_every == 0 or done:
                    self.write_samples(log)
                if self.step % config.checkpoint_every == 0 or done or stop:
                    last = self._save_and_log(log)
            if stop:
                self.say(f"stopped at step {self.step}, saved {last}")
                raise KeyboardInterrupt
        if log is None:
            return self.run / "checkpoints" / f"{self.step:08d}"
        return last or self.save()

    def _load(self) -> Iterator[tuple[Batch, float]]:
        """The batches that are left, and how long each was waited for."""
        batches = UnpairedBatches.of(self.domains, self.config.data, self.config.seed, self.processes)
        loader = batches.loader(
            self.step,
            self.config.steps,
            workers=self.config.data.workers,
            pin_memory=self.learner.hardware.device.type == "cuda",
            on_broken=self._report_broken,
        )
        while True:
            asked = time.perf_counter()
            batch = next(loader, None)
            if batch is None:
                return
            yield batch, time.perf_counter() - asked

    def _within_memory(self, work: Callable[[], T]) -> T:
        """What `work` gives; DsmapError, with sizes that should fit, when memory runs out."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(self.config, self.learner.hardware) from error

    def _save_and_log(self, log: RunLog) -> Path:
        path = self.save()
        found = read_checkpoint(path)
        if found.score is not None:
            log.score(self.step, found.score)
        log.histograms(self.step, {"generators": self.learner.model, "discriminators": self.learner.discriminators})
        for domain, statistics in found.styles.items():
            log.numbers(self.step, f"style_mean/{domain}", torch.tensor(statistics.mean))
        log.flush()
        return path

    def _how_to_go_on(self) -> str:
        saved = list_checkpoints(self.run / "checkpoints")
        kept = f"The last good checkpoint is {saved[-1]}: continue" if saved else "Start again"
        return f"{kept} with a lower rate, such as --set optimizer.lr={self.config.optimizer.lr / 2:g}."

    def _style_statistics(self) -> dict[str, StyleStatistics]:
        """Of the averaged generators as they are now; samples and checkpoint of one step share them."""
        if self._styles[0] != self.step:
            side = self.config.data.shorter_side
            found = {
                d.name: style_statistics(self.learner.ema, d.name, d.train, side, STYLE_PICTURES) for d in self.domains
            }
            self._styles = (self.step, found)
        return self._styles[1]

    def _score(self) -> Score | None:
        if self._watch_pictures is None:
            return None
        features, name = self.learner.features, self.config.features
        if features is None:
            features, name = RandomFeatures().to(self.learner.hardware.device), "random"
        return score(self.learner.ema, self._watch_pictures, features, name)

    def _pictures_to_watch(self, count: int, fewest_of_test: int = 1) -> ByDomain:
        """Test pictures where there are enough of them, else training pictures, in the size of the training."""
        size = self.config.data.shorter_side // self.config.model.multiple_of * self.config.model.multiple_of
        return {
            d.name: load_samples(d.test if len(d.test) >= fewest_of_test else d.train, size, count)
            for d in self.domains
        }

    def _pictures_to_score(self) -> ByDomain | None:
        found = self._pictures_to_watch(self.config.score_pictures, FEWEST_PICTURES)
        return found if min(map(len, found.values())) >= FEWEST_PICTURES else None

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

    def _report_broken(self, broken: Broken) -> None:
        self._broken += 1
        self.say(f"skipped a broken picture ({self._broken} so far): {broken.fact}")

    def _restore(self, path: Path, allow_new_data: bool) -> None:
        checkpoint = read_checkpoint(path)
        check_resumable(checkpoint, self.config, self.run, None if allow_new_data else self._data)
        for name, module in self.learner.modules.items():
            load_into(module, checkpoint.path / f"{name}.safetensors")
        load_optimizers(checkpoint.path, self.learner.modules, self.learner.optimizers)
        self.step = checkpoint.step
        steps = of_all_processes(f"{self.step}")
        if len(set(steps)) > 1:
            raise InputError(
                f"the processes found checkpoints of different steps: {', '.join(steps)}",
                "Put the run folder where every machine sees the same one.",
            )
        self.say(f"resumed {checkpoint.path} at step {self.step}")
        changed = changed_settings(checkpoint.config, self.config)
        if checkpoint.processes != self.processes.world:
            changed["processes"] = checkpoint.processes, self.processes.world
        for key, (then, now) in changed.items():
            self.say(f"changed since that checkpoint: {key} {then} -> {now}")
