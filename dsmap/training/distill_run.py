"""Distillation runs: from a teacher and images to the checkpoint of a student."""

from functools import partial
from math import lcm
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dsmap.common.notify import Notify
from dsmap.common.sampling import pick_evenly
from dsmap.config import ModelConfig, TrainConfig, load_train_config, override_key
from dsmap.errors import InputError
from dsmap.model.dsmap import DSMAP
from dsmap.model.feature_networks import load_features
from dsmap.training.checkpoint import Checkpoint
from dsmap.training.data import UnpairedBatches
from dsmap.training.datasets import Domains, fingerprint, training_folders
from dsmap.training.device import choose_device
from dsmap.training.distill import DistillProgress, distill, psnr_to_teacher
from dsmap.training.generator_run import find_images, report_broken, report_progress, save_generators
from dsmap.training.image_tensors import load_readable_nchw
from dsmap.training.learner import new_generators
from dsmap.training.readers import readers_here
from dsmap.training.requests import DistillRequest
from dsmap.training.style_statistics import StyleStatistics, styles_by_domain

_EVALUATION_IMAGES = 40
"""Images of each domain to compare student and teacher on at the end."""
_REPORT_EVERY = 100


class StudentScore(NamedTuple):
    """The student's translations to one domain against the teacher's."""

    psnr: float
    """In dB."""
    images: int
    unseen: bool
    """Test images, not training images."""


def run_distill(teacher: DSMAP, request: DistillRequest, *, say: Notify = lambda _line: None) -> Path:
    """Trains a student on the images of `teacher`; returns its checkpoint, in `request.out`.

    `say` receives a line about each step. Raises InputError for a request that cannot be met, DsmapError when a loss
    is not finite or the checkpoint cannot be written.
    """
    request.check_out()
    config = student_config(teacher.config, request)
    crop = _crop(config, teacher)
    domains = find_images(request, config.model.domains)
    features = None if request.features is None else load_features(request.features)
    device, _reason = choose_device(request.device)
    teacher, student = teacher.to(device), new_generators(config).to(device)
    images, side = {d.name: d.train for d in domains}, config.data.shorter_side
    say(f"mean styles of {' and '.join(f'{len(d.train)} images of {d.name}' for d in domains)} ...")
    styles = styles_by_domain(teacher, images, side)
    data = config.data.model_copy(update={"batch_size": request.batch_size, "crop": crop})
    batches, readers = UnpairedBatches.of(domains, data, request.seed), readers_here(config.data)
    progress = distill(
        teacher,
        student,
        partial(batches.loader, workers=readers.readers, ahead=readers.ahead, on_broken=report_broken(say), say=say),
        {name: found.mean for name, found in styles.items()},
        steps=request.steps,
        lr=request.lr,
        seed=request.seed,
        features=None if features is None else features.to(device),
        perceptual=request.perceptual_weight,
    )
    report_progress(progress, request.steps, _REPORT_EVERY, _losses, say)
    scores = _score(teacher, student, domains, styles, side)
    for name, score in scores.items():
        kind = "unseen images" if score.unseen else "training images"
        say(f"to {name}: {score.psnr:.1f} dB PSNR from the teacher's images (mean style, {score.images} {kind})")
    saved = Checkpoint(
        path=request.out / "checkpoints" / f"{request.steps:08d}",
        step=request.steps,
        config=config,
        styles=styles_by_domain(student, images, side),
        images=training_folders(domains),
        data={d.name: fingerprint(d) for d in domains},
        processes=1,
        score=None,
        distilled=_settings(request, teacher, scores),
    )
    save_generators(saved, student)
    return saved.path


def _losses(now: DistillProgress) -> str:
    return f"images {now.image:.4f}  styles {now.style:.4f}  features {now.features:.4f}"


def student_config(teacher: ModelConfig, request: DistillRequest) -> TrainConfig:
    """The student's configuration: the teacher's domains and style codes, and its contrast unless another is set."""
    fixed = {"domains": list(teacher.domains), "style_dim": teacher.style_dim}
    given = {override_key(override) for override in request.overrides}
    for key in fixed:
        if f"model.{key}" in given:
            raise InputError(f"--set model.{key} is given", "Leave it out: the student has the teacher's.")
    config = load_train_config(
        request.preset, None, list(request.overrides), steps=request.steps, seed=request.seed, model=fixed
    )
    if "model.contrast" in given or config.model.output != "tanh":
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"contrast": teacher.contrast})})


def _crop(config: TrainConfig, teacher: DSMAP) -> int:
    """The training's crop, in blocks that teacher and student accept."""
    block = lcm(config.model.multiple_of, teacher.config.multiple_of)
    least = max(config.model.style_minimum_size, teacher.config.style_minimum_size, teacher.config.minimum_size)
    crop = config.data.crop // block * block
    if crop < least:
        raise InputError(
            f"data.crop is {config.data.crop}, expected a multiple of {block} of at least {least}",
            f"Pass --set data.crop={-(-least // block) * block}.",
        )
    return crop


def _score(
    teacher: DSMAP, student: DSMAP, domains: Domains, styles: dict[str, StyleStatistics], side: int
) -> dict[str, StudentScore]:
    """Scores by target domain; a domain is left out if none of its images can be read."""
    device = next(student.parameters()).device
    block, scores = lcm(student.config.multiple_of, teacher.config.multiple_of), {}
    for source, target in (domains, domains[::-1]):
        paths = pick_evenly(source.test or source.train, _EVALUATION_IMAGES)
        images = [x_nchw.to(device) for x_nchw in load_readable_nchw(paths, side, block)]
        if not images:
            continue
        style = torch.tensor(styles[target.name].mean, device=device)
        psnr = psnr_to_teacher(teacher, student, images, target.name, style)
        scores[target.name] = StudentScore(psnr, len(images), bool(source.test))
    return scores


def _settings(request: DistillRequest, teacher: DSMAP, scores: dict[str, StudentScore]) -> dict[str, Any]:
    """The settings and the result of the run, for the checkpoint."""
    return {
        "teacher": teacher.config.model_dump(mode="json"),
        "steps": request.steps,
        "batch_size": request.batch_size,
        "lr": request.lr,
        "seed": request.seed,
        "features": None if request.features is None else Path(request.features).name,
        "perceptual": request.perceptual_weight,
        "psnr": {name: round(score.psnr, 2) for name, score in scores.items()},
    }
