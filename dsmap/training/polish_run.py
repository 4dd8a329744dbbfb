"""Polishing runs: from a checkpoint and images to a polished checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any

from dsmap.common.notify import Notify
from dsmap.config import TrainConfig
from dsmap.errors import InputError
from dsmap.model.feature_networks import FEATURES_MINIMUM_SIZE, load_features
from dsmap.training.checkpoint import Checkpoint, find_checkpoint, load_generators, read_checkpoint
from dsmap.training.data import UnpairedBatches
from dsmap.training.datasets import Domains, default_style_images, fingerprint, training_folders
from dsmap.training.device import choose_device
from dsmap.training.generator_run import find_images, report_broken, report_progress, save_generators
from dsmap.training.output_adjustments import OutputAdjustments
from dsmap.training.polish import polish
from dsmap.training.requests import PolishRequest
from dsmap.training.style_statistics import styles_by_domain

_REPORT_EVERY = 50


def run_polish(request: PolishRequest, *, say: Notify = lambda _line: None) -> Path:
    """Polishes the averaged weights of a checkpoint; returns the new checkpoint, in `request.out`.

    `say` receives a line about each step. Raises InputError for a request that cannot be met, DsmapError when a loss
    is not finite or the checkpoint cannot be written.
    """
    request.check_out()
    start = _with_contrast(read_checkpoint(find_checkpoint(request.checkpoint)), request)
    names, side = start.config.model.domains, start.config.data.shorter_side
    if request.target is not None and request.target not in names:
        raise InputError(f"no domain named {request.target!r}", f"Pass --to {names[0]} or --to {names[1]}.")
    style_images = default_style_images(request.default_styles, names)
    domains = find_images(request, names)
    crop = crop_size(start.config, request.features is not None)
    features = None if request.features is None else load_features(request.features)
    device, _reason = choose_device(request.device)  # always float32 and not compiled, whatever the training was
    model = load_generators(start).to(device)
    fingerprints = {d.name: fingerprint(d) for d in domains}
    if start.data and start.data != fingerprints:
        say("these are not the images that it was trained on")
    say("computing the style codes of the images ...")
    styles = styles_by_domain(model, {d.name: d.train for d in domains} | style_images, side)
    say(f"mean styles of {' and '.join(f'{styles[d.name].pictures} images of {d.name}' for d in domains)}")
    batches = _batches(request, start.config, domains, crop)
    progress = polish(
        model,
        partial(batches.loader, on_broken=report_broken(say)),
        {name: statistics.mean for name, statistics in styles.items()},
        steps=request.steps,
        targets=None if request.target is None else [request.target],
        lr=request.lr,
        features=None if features is None else features.to(device),
        matching=request.matching_weight,
        say=say,
    )
    report_progress(
        progress, request.steps, _REPORT_EVERY, lambda now: f"kept {now.kept:.4f}  matching {now.matching:.4f}", say
    )
    step = start.step + request.steps
    saved = start._replace(
        path=request.out / "checkpoints" / f"{step:08d}",
        step=step,
        styles=styles,
        images=training_folders(domains),
        data=fingerprints,
        processes=1,
        score=None,
        polished=_settings(request, start.polished),
    )
    save_generators(saved, model)
    return saved.path


def _with_contrast(start: Checkpoint, request: PolishRequest) -> Checkpoint:
    network = OutputAdjustments(contrast=request.contrast).apply(start.config.model)
    return start._replace(config=start.config.model_copy(update={"model": network}))


def _batches(request: PolishRequest, config: TrainConfig, domains: Domains, crop: int) -> UnpairedBatches:
    return UnpairedBatches(
        domains,
        shorter_side=config.data.shorter_side,
        crop_hw=(crop, crop),
        batch_size=request.batch_size,
        seed=request.seed,
        flip=config.data.flip,
        scale_jitter=(1.0, request.zoom),
    )


def _settings(request: PolishRequest, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The settings of the run, for the checkpoint; `earlier` are those of a polishing before."""
    return {
        "earlier": earlier,
        "to": request.target,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "zoom": request.zoom,
        "lr": request.lr,
        "seed": request.seed,
        "features": None if request.features is None else Path(request.features).name,
        "matching": request.matching_weight,
        "default_style": {name: folder.name for name, folder in request.default_styles.items()},
    }


def crop_size(config: TrainConfig, with_features: bool) -> int:
    """Seven eighths of the image's side in whole blocks, but at least what the networks need."""
    block, side = config.model.multiple_of, config.data.shorter_side
    least = max(config.model.style_minimum_size, FEATURES_MINIMUM_SIZE if with_features else 0)
    crop = max(side * 7 // 8 // block * block, -(-least // block) * block)
    if crop > side:
        raise InputError(
            f"the training's images have a shorter side of {side}, expected at least {crop}",
            "Polish a model that was trained on larger images.",
        )
    return crop
