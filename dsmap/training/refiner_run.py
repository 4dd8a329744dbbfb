"""Runs that train refiners: from a model and pictures to one file for each direction."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dsmap.common.atomic import atomic_write
from dsmap.common.notify import Notify
from dsmap.common.sampling import pick_evenly
from dsmap.common.scratch import scratch_folder
from dsmap.errors import DsmapError, InputError
from dsmap.model.refiner import Refiner
from dsmap.training.device import choose_device
from dsmap.training.generator_run import report_progress
from dsmap.training.refiner import psnr_of, train_refiner
from dsmap.training.refiner_data import RefinerTeacher, make_patches
from dsmap.training.requests import RefinerRequest

_MOST_PICTURES = 300
_MOST_SCORED = 20
_REPORT_EVERY = 200
_ABOUT = "refiner"


def run_refiner(
    request: RefinerRequest,
    pictures: Mapping[str, tuple[Sequence[Path], Sequence[Path]]],
    teacher_to: Callable[[str], RefinerTeacher],
    *,
    model: str,
    say: Notify = lambda _line: None,
) -> list[Path]:
    """Trains a refiner for every target in `pictures`; returns their files, in `request.out`.

    `pictures`: by target, the training and the unseen images of its source. Without unseen images the last ones in
    twenty are kept for the score. Raises InputError, DsmapError.
    """
    device, _reason = choose_device(request.device)
    files = []
    for target, (train, test) in pictures.items():
        teacher = teacher_to(target)
        kept = pick_evenly(test, _MOST_SCORED) if test else train[-max(1, min(_MOST_SCORED, len(train) // 20)) :]
        seen = pick_evenly(train if test else train[: -len(kept)], _MOST_PICTURES)
        say(
            f"to {target}: translating {len(seen)} images of {teacher.source} and {len(kept)} unseen ones, at full size"
            " and at less ..."
        )
        torch.manual_seed(request.seed)
        refiner = Refiner().to(device)
        with scratch_folder("refiner") as scratch:
            patches = make_patches(teacher, seen, scratch / "train.npy", request.seed, say)
            unseen = make_patches(teacher, kept, scratch / "test.npy", request.seed + 1, say)
            progress = train_refiner(
                refiner, patches, steps=request.steps, batch_size=request.batch_size, lr=request.lr, seed=request.seed
            )
            report_progress(progress, request.steps, _REPORT_EVERY, lambda now: f"error {now.error:.2f} levels", say)
            before, after = psnr_of(refiner, unseen)
            del patches, unseen  # Windows removes no file that is mapped
        say(
            f"to {target}: {after:.1f} dB PSNR from translations at full size, {before:.1f} dB without the refiner "
            f"({len(kept)} unseen images)"
        )
        about = {"model": model, "source": teacher.source, "target": target, "steps": request.steps,
                 "images": len(seen), "psnr": round(after, 2), "psnr_without": round(before, 2)}  # fmt: skip
        files.append(save_refiner(refiner, request.out, about))
    return files


def refiner_file(folder: Path, target: str) -> Path:
    """Where the refiner of one direction is in a run's folder."""
    return folder / f"refiner.{target}.safetensors"


def save_refiner(refiner: Refiner, folder: Path, about: Mapping[str, Any]) -> Path:
    """Writes a refiner, whole or not at all. `about` has its `target`. Raises DsmapError."""
    path = refiner_file(folder, about["target"])
    facts = dict(about) | {"width": refiner.width, "depth": refiner.depth}
    tensors = {name: value.detach().cpu().contiguous() for name, value in refiner.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_bytes(save(tensors, {_ABOUT: json.dumps(facts)}))
    except OSError as error:
        raise DsmapError(f"cannot write {path}: {error.strerror}", "Free disk space, then run again.") from error
    return path


def load_refiner(path: Path) -> tuple[Refiner, dict[str, Any]]:
    """A refiner that `save_refiner` wrote, on the CPU in eval mode, and what it wrote about it. Raises InputError."""
    advice = "Pass a folder that dsmap-distill --refiner has written."
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads(file.metadata()[_ABOUT])
            width, depth = (int(about[key]) for key in ("width", "depth"))
            if not (0 < width <= 64 and 0 < depth <= 8):
                raise ValueError(f"width {width}, depth {depth}")
            refiner = Refiner(width, depth)
            refiner.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a refiner: {str(error).splitlines()[0]}", advice) from error
    if not all(bool(value.isfinite().all()) for value in refiner.state_dict().values()):
        raise InputError(f"{path} has weights that are not finite", "Train it again.")
    return refiner.eval().requires_grad_(False), about
