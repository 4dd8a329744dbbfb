"""Logs of a run: RUN/log.jsonl, RUN/scores.jsonl and TensorBoard."""

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor, nn

from dsmap.common.images import write_rgb
from dsmap.common.state_files import open_state, write_state
from dsmap.config import TrainConfig
from dsmap.errors import DsmapError, InputError
from dsmap.training.checkpoint_score import Score

_MAX_HISTOGRAM_VALUES = 100_000


class RunLog:
    """Appends to the log of a run that continues at iteration `step`, after dropping lines of later iterations.

    `score` is that of the checkpoint it continues from: its line may have been lost with the process that measured it.
    A killed run may have logged iterations after its last checkpoint; they are repeated, and logged once.
    Every method raises DsmapError when the disk is full.
    """

    def __init__(self, run: Path, step: int, score: Score | None = None, *, tensorboard: bool = True) -> None:
        self.path, self.scores = run / "log.jsonl", run / "scores.jsonl"
        self.writer: Any = None
        for path, last in ((self.path, step), (self.scores, step - 1)):
            with self._explained(path):
                _drop_lines_after(last, path)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise DsmapError(
                    "tensorboard is not installed", "pip install tensorboard, or --set tensorboard=false."
                ) from error
            folder = run / "tensorboard"
            try:
                if folder.is_symlink():
                    raise _no_file(folder)
                # An unpredictable name, at which no link can be waiting.
                suffix = f".{secrets.token_hex(4)}"
                self.writer = SummaryWriter(str(folder), purge_step=step + 1, max_queue=1000, filename_suffix=suffix)
            except OSError as error:
                raise InputError(f"cannot write to {folder}: {error.strerror}", "Choose another -o.") from error
        if score is not None:
            self._append(self.scores, _scores(step, score))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.writer is not None:
            with self._explained(self.path.parent / "tensorboard"):
                self.writer.close()

    def losses(self, step: int, seconds: float, numbers: Mapping[str, float]) -> None:
        """One line of numbers in log.jsonl; `seconds` since the first iteration of this process."""
        self._append(self.path, {"step": step, "seconds": round(seconds, 2), **numbers})
        for name, value in numbers.items():
            self._add("add_scalar", name, value, step)

    def score(self, step: int, score: Score) -> None:
        """One line in scores.jsonl."""
        self._append(self.scores, _scores(step, score))
        for domain, value in score.by_domain.items():
            self._add("add_scalar", f"kernel_distance/{domain}", value, step)

    def image(self, step: int, name: str, image_rgb: npt.NDArray[np.uint8]) -> None:
        """An image (H, W, 3) for TensorBoard."""
        self._add("add_image", name, image_rgb, step, dataformats="HWC")

    def histograms(self, step: int, modules: Mapping[str, nn.Module]) -> None:
        """Histograms of the weights and their last gradients, one for each part of each of `modules`."""
        if self.writer is None:
            return
        for name, module in modules.items():
            for part, child in module.named_children():
                parameters: list[Tensor] = list(child.parameters())
                gradients = [p.grad for p in parameters if p.grad is not None]
                for kind, tensors in (("weights", parameters), ("gradients", gradients)):
                    if tensors:
                        self._add("add_histogram", f"{kind}/{name}.{part}", _thinned(tensors), step)

    def numbers(self, step: int, name: str, values: Tensor) -> None:
        """A histogram of `values`."""
        self._add("add_histogram", name, values.detach().float().cpu().numpy(), step)

    def flush(self) -> None:
        """Flush TensorBoard's events to the disk."""
        if self.writer is not None:
            with self._explained(self.path.parent / "tensorboard"):
                self.writer.flush()

    def _add(self, method: str, *arguments: Any, **options: Any) -> None:
        if self.writer is not None:
            with self._explained(self.path.parent / "tensorboard"):
                getattr(self.writer, method)(*arguments, **options)

    def _append(self, path: Path, line: Mapping[str, Any]) -> None:
        with self._explained(path), open_state(path, "a") as log:
            log.write(json.dumps(line) + "\n")

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DsmapError(
                f"cannot write {path}: {error.strerror or error}",
                "Free disk space, then continue with --resume auto.",
            ) from error


def write_config(run: Path, config: TrainConfig) -> None:
    """RUN/config.yaml, whole or not at all."""
    path = run / "config.yaml"
    try:
        write_state(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "Choose another folder with -o.") from error


def write_run_image(path: Path, image_rgb: npt.NDArray[np.uint8]) -> None:
    """Write an image into the run folder. Raises InputError if its name belongs to a link or anything but a file."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise _no_file(path)
    write_rgb(path, image_rgb)


def _no_file(path: Path) -> InputError:
    kind = "a link" if path.is_symlink() else "not a file of a training"
    return InputError(f"{path} is {kind}, and nothing is written through it", "Remove it, or choose another -o.")


def _scores(step: int, score: Score) -> dict[str, Any]:
    distances = {f"kernel_distance/{domain}": value for domain, value in score.by_domain.items()}
    return {"step": step, "features": score.features, "basis": score.basis, **distances}


def _drop_lines_after(step: int, path: Path) -> None:
    try:
        with open_state(path, "rb") as log:
            lines = log.read().decode("utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        write_state(path, "".join(kept))


def _step_of(line: str) -> float:
    """The iteration of a log line; infinity for incomplete lines."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")


def _thinned(tensors: list[Tensor]) -> npt.NDArray[np.float32]:
    every = max(1, sum(t.numel() for t in tensors) // _MAX_HISTOGRAM_VALUES)
    return torch.cat([t.detach().flatten()[::every] for t in tensors]).float().cpu().numpy()
