"""A training from resolved settings to the last checkpoint, in one process or as one of torchrun's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from dsmap.common.distributed import SharedNotes, process_group, processes_from_torchrun
from dsmap.common.notify import Notify
from dsmap.config import TrainConfig
from dsmap.model.dsmap import DSMAP
from dsmap.training.checkpoint import find_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.data import UnpairedBatches
from dsmap.training.datasets import Domains
from dsmap.training.device import choose_hardware
from dsmap.training.preflight import CHECKS, preflight
from dsmap.training.run_log import write_run_image
from dsmap.training.samples import draw_batch
from dsmap.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What to train, on what, and where the results go."""

    config: TrainConfig
    domains: Domains
    run: Path
    """The run's folder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    resume: str | None = None
    """`auto` (the latest checkpoint of the run, if any), a checkpoint, or a run; None starts a new training.

    Processes that torchrun has restarted continue from the latest checkpoint in any case.
    """
    allow_new_data: bool = False
    """Resume although the images have changed."""
    start_from: DSMAP | None = None
    """Generators of the same architecture whose weights initialise those of a new training."""


class TrainingJob:
    """Runs a request: pre-flight checks, then a dry run or the training.

    `say` gets lines for people, from the first process only; `warn` those that any process may have. Raises InputError
    where the device or the checkpoint is not there.
    """

    def __init__(self, request: TrainRequest, say: Notify, warn: Notify | None = None) -> None:
        self.request, self.warn = request, warn or say
        self.processes = processes_from_torchrun()
        self.is_first = self.processes.rank == 0
        self.say: Notify = say if self.is_first else lambda _line: None
        self.hardware = choose_hardware(request.config, request.device, self.processes)
        self._notes = SharedNotes()
        self.resume = self._find_resumed()

    def check(self) -> None:
        """Says the numbered pre-flight checks. Raises InputError at the first that fails."""
        request = self.request
        checks = preflight(
            request.config,
            request.domains,
            request.run,
            self.hardware,
            self.processes,
            self.resume,
            request.allow_new_data,
        )
        for number, check in enumerate(checks, 1):
            self.say(f"[{number}/{len(CHECKS)}] {check.name:8}  {check.fact}")

    def dry_run(self) -> None:
        """Says all settings and the pre-flight checks, and writes the first batch as RUN/dry-run.png."""
        config, run = self.request.config, self.request.run
        for line in yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).splitlines():
            self.say(line)
        self.check()
        if not self.is_first:
            return
        batch = UnpairedBatches.of(self.request.domains, config.data, config.seed)[0]
        run.mkdir(parents=True, exist_ok=True)
        image = run / "dry-run.png"
        write_run_image(image, draw_batch(batch, config.model.domains))
        self.say(f"the first batch: {image}")
        self.say("dry run: nothing was trained")

    @contextmanager
    def trainer(self) -> Iterator[Trainer]:
        """The trainer at the step it starts from, within the process group of all processes."""
        request = self.request
        features = f" and the feature network {request.config.features}" if request.config.uses_features else ""
        self.say(f"preparing the networks{features} ...")
        with process_group(self.processes, self.hardware.device):
            trainer = Trainer(
                request.config,
                request.domains,
                request.run,
                hardware=self.hardware,
                processes=self.processes,
                resume=self.resume,
                allow_new_data=request.allow_new_data,
                start_from=request.start_from,
                say=self.say,
                warn=self.warn,
            )
            if request.start_from is not None and self.resume is None:
                self.say("generators initialised with the weights of --start-from")
            self.say(f"steps {trainer.step} to {request.config.steps}")
            if self.is_first:
                self._notes.add(_STARTED)  # from here on the checkpoints in RUN are ours
            yield trainer

    def _find_resumed(self) -> Path | None:
        """The checkpoint to start from.

        Restarted by torchrun, it is the latest of the run, which this training has written; before the first one, what
        was asked for.
        """
        request = self.request
        if _STARTED in self._notes and list_checkpoints(request.run / "checkpoints"):
            self.say("torchrun has restarted this training: continuing from its latest checkpoint")
            return find_checkpoint(request.run)
        return _find_resumed(request.resume, request.run, self.say)


_STARTED = "training started"


def _find_resumed(resume: str | None, run: Path, say: Notify) -> Path | None:
    """The checkpoint that --resume means. `auto` starts a new training in a run folder that has none yet."""
    if resume is None:
        return None
    if resume != "auto":
        return find_checkpoint(Path(resume))
    if not list_checkpoints(run / "checkpoints"):
        say(f"--resume auto: no checkpoint in {run} yet, starting at step 0")
        return None
    return find_checkpoint(run)
