"""dsmap-polish: the decoders of a trained model, without artefacts and closer to real images.

dsmap-polish RUN -o RUN2 --data FOLDER
dsmap-polish RUN -o RUN2 --data FOLDER --features squeezenet.npz --contrast 1.1
"""

from pathlib import Path
from typing import Annotated

import typer

from dsmap.tools.shared.cli import Debug, Device, Version, explained, new_app, path_given, run
from dsmap.tools.shared.generators import Contrast, FeatureFile, LearningRate, NewRun, Seed
from dsmap.tools.shared.images import Data, DefaultStyles, DomainFolders, parse_default_styles, parse_domain_folders
from dsmap.tools.shared.panels import MODEL, TRAINING
from dsmap.tools.shared.terminal import say

app = new_app()


@app.command(
    help="""Fine-tune the decoders of a trained model: less grid, fewer specks, closer to real images.

    With --features, the features of translations are matched to those of real images on average.
    """,
    epilog="""
    dsmap-polish runs/first -o runs/polished --data FOLDER
    dsmap-polish runs/first -o runs/polished --data FOLDER --features net.npz
    """,
)
@explained
def polish(
    checkpoint: Annotated[
        Path,
        typer.Argument(parser=path_given, metavar="RUN|CHECKPOINT", help="The trained model."),
    ],
    out: NewRun,
    data: Data = None,
    domain: DomainFolders = None,
    features: FeatureFile = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Iterations.")] = 900,
    default_style: DefaultStyles = None,
    to: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="Train only this domain's decoder.", rich_help_panel=MODEL)
    ] = None,
    contrast: Contrast = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images of each domain.", rich_help_panel=TRAINING)
    ] = 2,
    zoom: Annotated[
        float,
        typer.Option(
            metavar="FACTOR",
            min=1.0,
            max=4.0,
            show_default=False,
            help="Enlarge images up to FACTOR (1 to 4).",
            rich_help_panel=TRAINING,
        ),
    ] = 1.0,
    lr: LearningRate = 1e-4,
    matching: Annotated[
        float | None,
        typer.Option(metavar="WEIGHT", help="Weight of feature matching (default: 5).", rich_help_panel=TRAINING),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.training.output_adjustments import parse_contrast
    from dsmap.training.requests import PolishRequest

    request = PolishRequest(
        checkpoint=checkpoint,
        out=out,
        data=data,
        domain_folders=parse_domain_folders(domain),
        default_styles=parse_default_styles(default_style),
        features=features,
        target=to,
        steps=steps,
        batch_size=batch_size,
        zoom=zoom,
        lr=lr,
        matching=matching,
        contrast=parse_contrast(contrast or []),
        seed=seed,
        device=device,
    )
    request.check_out()
    say("loading torch ...")
    from dsmap.training.polish_run import run_polish

    saved = run_polish(request, say=say)
    say(f"done: {saved}")
    say(f"next: dsmap-export {out} -o BUNDLE")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
