"""dsmap-polish: the decoders of a finished training, without the grid and closer to real images.

dsmap-polish RUN -o RUN2 --data FOLDER
dsmap-polish RUN -o RUN2 --data FOLDER --features squeezenet.npz --contrast 1.1
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared.cli import Debug, Device, Version, explained, new_app, path_given, run
from dsmap.tools.shared.generators import (
    FeatureFile,
    LearningRate,
    NewRun,
    check_new,
    check_rate,
    follow,
    images_for,
    save_generators,
    tell_broken,
    weight_of_features,
)
from dsmap.tools.shared.images import Data, DefaultStyles, DomainFolders, parse_default_styles, parse_domain_folders
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.config import TrainConfig

app = new_app()


@app.command(
    help="""Train the decoders a little further: they keep what they draw, less grids and specks in smooth places.

    With --features, what that network sees in translations is brought to what it sees in real images, on average.
    """
)
@explained
def polish(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            parser=path_given,
            metavar="RUN|CHECKPOINT",
            help="Of dsmap-train; of a run the latest. The averaged weights.",
        ),
    ],
    out: NewRun,
    data: Data = None,
    domain: DomainFolders = None,
    default_style: DefaultStyles = None,
    features: FeatureFile = None,
    to: Annotated[str | None, typer.Option(metavar="DOMAIN", help="Only the decoder of this domain.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Iterations.")] = 900,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of each domain in an iteration.")] = 2,
    zoom: Annotated[
        float,
        typer.Option(
            min=1.0, max=4.0, help="Crop from images enlarged up to so many times, for frames larger than they are."
        ),
    ] = 1.0,
    lr: LearningRate = 1e-4,
    matching: Annotated[float | None, typer.Option(help="Weight of the feature matching; 5 with --features.")] = None,
    contrast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DOMAIN:]FACTOR", help="Contrast (1: none), in place of the network's own. May be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the images and the crops.")] = 0,
    device: Device = "auto",
    debug: Debug = False,
    version: Version = False,
) -> None:
    folders = parse_domain_folders(domain)
    defaults = parse_default_styles(default_style)
    check_rate(lr, "1e-4")
    weight = weight_of_features("--matching", matching, 5.0, features)
    check_new(out)
    say("loading torch ...")
    from dsmap.model.feature_networks import load_features
    from dsmap.training.checkpoint import find_checkpoint, load_generators, read_checkpoint
    from dsmap.training.data import UnpairedBatches
    from dsmap.training.datasets import default_style_images, fingerprint, training_folders
    from dsmap.training.device import choose_device
    from dsmap.training.output_adjustments import OutputAdjustments, parse_contrast
    from dsmap.training.polish import polish as polish_decoders
    from dsmap.training.style_statistics import styles_by_domain

    given = read_checkpoint(find_checkpoint(checkpoint))
    network = OutputAdjustments(contrast=parse_contrast(contrast or [])).apply(given.config.model)
    given = given._replace(config=given.config.model_copy(update={"model": network}))
    if to is not None and to not in network.domains:
        raise InputError(f"no domain named {to!r}", f"Pass --to {network.domains[0]} or --to {network.domains[1]}.")
    chosen = default_style_images(defaults, network.domains)
    domains = images_for(data, folders, network.domains)
    crop = _crop(given.config, features is not None)
    watched = None if features is None else load_features(features)
    place, _why = choose_device(device)  # what runs there is float32 and not compiled, whatever the training was
    model = load_generators(given).to(place)
    side = given.config.data.shorter_side
    prints = {d.name: fingerprint(d) for d in domains}
    if given.data and given.data != prints:
        say("these are not the images that it was trained on")
    styles = styles_by_domain(model, {d.name: d.train for d in domains} | chosen, side)
    say(f"mean styles of {' and '.join(f'{styles[d.name].pictures} images of {d.name}' for d in domains)}")
    batches = UnpairedBatches(
        domains,
        shorter_side=side,
        crop_hw=(crop, crop),
        batch_size=batch_size,
        seed=seed,
        flip=given.config.data.flip,
        scale_jitter=(1.0, zoom),
    )
    progress = polish_decoders(
        model,
        partial(batches.loader, on_broken=tell_broken),
        {name: statistics.mean for name, statistics in styles.items()},
        steps=steps,
        targets=None if to is None else [to],
        lr=lr,
        features=None if watched is None else watched.to(place),
        matching=weight,
        say=say,
    )
    follow(progress, steps, 50, lambda now: f"kept {now.kept:.4f}  matching {now.matching:.4f}")
    step = given.step + steps
    saved = given._replace(
        path=out / "checkpoints" / f"{step:08d}",
        step=step,
        styles=styles,
        images=training_folders(domains),
        data=prints,
        processes=1,
        score=None,
        polished={
            "earlier": given.polished,
            "to": to,
            "steps": steps,
            "batch_size": batch_size,
            "zoom": zoom,
            "lr": lr,
            "seed": seed,
            "features": None if features is None else Path(features).name,
            "matching": 0.0 if features is None else weight,
            "default_style": {name: folder.name for name, folder in defaults.items()},
        },
    )
    save_generators(saved, model)
    say(f"done: {saved.path}")
    say(f"next: dsmap-export {out} -o BUNDLE")


def _crop(config: "TrainConfig", with_features: bool) -> int:
    """Seven eighths of the image's side, in whole blocks, but as much as the networks need."""
    from dsmap.model.feature_networks import FEATURES_MINIMUM_SIZE

    block, side = config.model.multiple_of, config.data.shorter_side
    least = max(config.model.style_minimum_size, FEATURES_MINIMUM_SIZE if with_features else 0)
    crop = max(side * 7 // 8 // block * block, -(-least // block) * block)
    if crop > side:
        raise InputError(
            f"the training's images have a shorter side of {side}, expected {crop} or more", "Use a larger training."
        )
    return crop


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
