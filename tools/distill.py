"""dsmap-distill: a network of another shape learns to draw what a trained one draws.

dsmap-distill RUN -o SMALL --data FOLDER --steps 4000
dsmap-distill summer-winter -o SMALL --data FOLDER --set model.n_res=2 --features squeezenet.npz
"""

from functools import partial
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared.cli import Debug, Device, Version, explained, new_app, run
from dsmap.tools.shared.generators import (
    FeatureFile,
    LearningRate,
    NewRun,
    check_new,
    check_rate,
    follow,
    images_for,
    read_generators,
    save_generators,
    tell_broken,
    weight_of_features,
)
from dsmap.tools.shared.images import Data, DomainFolders, parse_domain_folders
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.config import ModelConfig, TrainConfig
    from dsmap.model.dsmap import DSMAP
    from dsmap.training.datasets import Domains
    from dsmap.training.style_statistics import StyleStatistics

app = new_app()

_UNSEEN = 40  # images of each domain that teacher and student are compared on at the end


@app.command(
    help="""Train a network of another shape, as a small one, to draw what a trained network draws.

    Its style codes mean what they mean to the teacher. dsmap-export, dsmap-polish and dsmap-train --start-from take it.
    """
)
@explained
def distill(
    teacher: Annotated[
        str, typer.Argument(metavar="RUN|CHECKPOINT|BUNDLE", help="The trained network. The averaged weights.")
    ],
    out: NewRun,
    data: Data = None,
    domain: DomainFolders = None,
    preset: Annotated[str, typer.Option(help="The student's network and sizes, as in dsmap-train.")] = "lite",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of its settings, as model.dim=32. May be repeated."),
    ] = None,
    features: FeatureFile = None,
    perceptual: Annotated[
        float | None, typer.Option(help="Weight of the difference in its features; 1 with --features.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Iterations; one translates to one domain.")] = 4000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of each domain in an iteration.")] = 4,
    lr: LearningRate = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the order of the images and the styles.")] = 0,
    device: Device = "auto",
    debug: Debug = False,
    version: Version = False,
) -> None:
    folders = parse_domain_folders(domain)
    check_rate(lr, "1e-3")
    weight = weight_of_features("--perceptual", perceptual, 1.0, features, below=1e6)
    check_new(out)
    say("loading torch ...")
    from dsmap.model.feature_networks import load_features
    from dsmap.training.checkpoint import Checkpoint
    from dsmap.training.data import UnpairedBatches
    from dsmap.training.datasets import fingerprint, training_folders
    from dsmap.training.device import choose_device
    from dsmap.training.distill import distill as learn
    from dsmap.training.learner import new_generators
    from dsmap.training.readers import readers_here
    from dsmap.training.style_statistics import styles_by_domain

    taught = read_generators(teacher)
    config = _student(taught.config, preset, set_ or [], steps, seed)
    crop = _crop(config, taught)
    domains = images_for(data, folders, config.model.domains)
    watched = None if features is None else load_features(features)
    place, _why = choose_device(device)
    taught, student = taught.to(place), new_generators(config).to(place)
    side = config.data.shorter_side
    say(f"mean styles of {' and '.join(f'{len(d.train)} images of {d.name}' for d in domains)} ...")
    images = {d.name: d.train for d in domains}
    styles = styles_by_domain(taught, images, side)
    batches = UnpairedBatches.of(domains, config.data.model_copy(update={"batch_size": batch_size, "crop": crop}), seed)
    plan = readers_here(config.data)
    progress = learn(
        taught,
        student,
        partial(batches.loader, workers=plan.readers, ahead=plan.ahead, on_broken=tell_broken, say=say),
        {name: found.mean for name, found in styles.items()},
        steps=steps,
        lr=lr,
        seed=seed,
        features=None if watched is None else watched.to(place),
        perceptual=weight,
    )
    follow(
        progress,
        steps,
        100,
        lambda now: f"images {now.apart:.4f}  styles {now.style:.4f}  features {now.features:.4f}",
    )
    likenesses = _likenesses(taught, student, domains, styles, side)
    for name, (decibels, count, unseen) in likenesses.items():
        kind = "unseen images" if unseen else "training images"
        say(f"to {name}: {decibels:.1f} dB PSNR from the teacher's images (mean style, {count} {kind})")
    saved = Checkpoint(
        path=out / "checkpoints" / f"{steps:08d}",
        step=steps,
        config=config,
        styles=styles_by_domain(student, images, side),
        images=training_folders(domains),
        data={d.name: fingerprint(d) for d in domains},
        processes=1,
        score=None,
        distilled={
            "teacher": taught.config.model_dump(mode="json"),
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "features": None if features is None else Path(features).name,
            "perceptual": 0.0 if features is None else weight,
            "psnr": {name: round(decibels, 2) for name, (decibels, _count, _unseen) in likenesses.items()},
        },
    )
    save_generators(saved, student)
    say(f"done: {saved.path}")
    say(f"next: dsmap-export {out} -o BUNDLE")


def _student(teacher: "ModelConfig", preset: str, overrides: list[str], steps: int, seed: int) -> "TrainConfig":
    """The student's configuration: the teacher's domains and styles, and its contrast unless another is set."""
    from dsmap.config import load_train_config, override_key

    fixed = {"domains": list(teacher.domains), "style_dim": teacher.style_dim}
    given = {override_key(override) for override in overrides}
    for key in fixed:
        if f"model.{key}" in given:
            raise InputError(f"--set model.{key} is given", "Leave it out: the student has the teacher's.")
    chosen = load_train_config(preset, None, overrides, steps=steps, seed=seed, model=fixed)
    if "model.contrast" in given or chosen.model.output != "tanh":
        return chosen
    return chosen.model_copy(update={"model": chosen.model.model_copy(update={"contrast": teacher.contrast})})


def _crop(config: "TrainConfig", teacher: "DSMAP") -> int:
    """The training's crop, in blocks that teacher and student take."""
    block = lcm(config.model.multiple_of, teacher.config.multiple_of)
    least = max(config.model.style_minimum_size, teacher.config.style_minimum_size, teacher.config.minimum_size)
    crop = config.data.crop // block * block
    if crop < least:
        raise InputError(
            f"data.crop is {config.data.crop}, expected a multiple of {block} of at least {least}",
            f"Pass --set data.crop={-(-least // block) * block}.",
        )
    return crop


def _likenesses(
    teacher: "DSMAP", student: "DSMAP", domains: "Domains", styles: "dict[str, StyleStatistics]", side: int
) -> dict[str, tuple[float, int, bool]]:
    """By target: PSNR in dB, on how many images, and whether they are unseen. None where no image can be read."""
    import torch

    from dsmap.common.sampling import pick_evenly
    from dsmap.training.data import load_readable_nchw
    from dsmap.training.distill import likeness

    place = next(student.parameters()).device
    block, found = lcm(student.config.multiple_of, teacher.config.multiple_of), {}
    for source, target in (domains, domains[::-1]):
        paths = pick_evenly(source.test or source.train, _UNSEEN)
        images = [x_nchw.to(place) for x_nchw in load_readable_nchw(paths, side, block)]
        if not images:
            continue
        style = torch.tensor(styles[target.name].mean, device=place)
        found[target.name] = likeness(teacher, student, images, target.name, style), len(images), bool(source.test)
    return found


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
