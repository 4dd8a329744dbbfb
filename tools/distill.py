"""dsmap-distill: a network of another architecture learns the images of a trained one.

dsmap-distill RUN -o SMALL --data FOLDER --steps 4000
dsmap-distill summer-winter -o SMALL --data FOLDER --set model.n_res=2 --features squeezenet.npz
dsmap-distill BUNDLE -o REFINER --data FOLDER --refiner           what --refine learnt runs
"""

from typing import Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared.cli import Debug, Device, Version, explained, new_app, run
from dsmap.tools.shared.generators import FeatureFile, NewRun, Seed, read_generators
from dsmap.tools.shared.images import Data, DomainFolders, parse_domain_folders
from dsmap.tools.shared.panels import MODEL, TRAINING
from dsmap.tools.shared.refiners import train_refiners
from dsmap.tools.shared.terminal import say

app = new_app()


@app.command(
    help="""Distil a trained network into another one, usually smaller.

    Its style codes keep their meaning. dsmap-export, dsmap-polish and dsmap-train --start-from accept the result.
    With --refiner, a bundle teaches a refiner, which brings translations of a lower height to full size.
    """,
    epilog="""
    dsmap-distill runs/first -o runs/small --data FOLDER
    dsmap-distill summer-winter -o runs/small --data FOLDER --set model.n_res=2
    dsmap-distill my-model -o runs/refiner --domain summer=FOLDER --refiner
    """,
)
@explained
def distill(
    teacher: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT|BUNDLE", help="The teacher.")],
    out: NewRun,
    data: Data = None,
    domain: DomainFolders = None,
    refiner: Annotated[bool, typer.Option("--refiner", help="Train refiners for a bundle, not a student.")] = False,
    features: FeatureFile = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Iterations.")] = 4000,
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="Preset of the student.", rich_help_panel=MODEL),
    ] = "lite",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the student (repeatable).", rich_help_panel=MODEL),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images of each domain.", rich_help_panel=TRAINING)
    ] = 4,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", metavar="RATE", help="Initial learning rate (default: 1e-3, 2e-3).", rich_help_panel=TRAINING
        ),
    ] = None,
    perceptual: Annotated[
        float | None,
        typer.Option(metavar="WEIGHT", help="Weight of the perceptual loss (default: 1).", rich_help_panel=TRAINING),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.training.requests import DistillRequest, RefinerRequest

    if refiner:
        flags = {"--features": features, "--preset": preset != "lite", "--set": set_, "--perceptual": perceptual}
        for flag, given in flags.items():
            if given:
                raise InputError(f"{flag} is for a student, not for a refiner", "Leave it out.")
        wanted = RefinerRequest(
            out=out,
            data=data,
            domain_folders=parse_domain_folders(domain),
            steps=steps,
            batch_size=batch_size,
            lr=2e-3 if lr is None else lr,
            seed=seed,
            device=device,
        )
        train_refiners(teacher, wanted)
        return
    request = DistillRequest(
        out=out,
        data=data,
        domain_folders=parse_domain_folders(domain),
        features=features,
        preset=preset,
        overrides=set_ or [],
        steps=steps,
        batch_size=batch_size,
        lr=1e-3 if lr is None else lr,
        perceptual=perceptual,
        seed=seed,
        device=device,
    )
    request.check_out()
    say("loading torch ...")
    from dsmap.training.distill_run import run_distill

    saved = run_distill(read_generators(teacher), request, say=say)
    say(f"done: {saved}")
    say(f"next: dsmap-export {out} -o BUNDLE")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
