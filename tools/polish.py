"""dsmap-polish: the decoders of a finished training, without the grid and closer to real pictures.

dsmap-polish RUN -o RUN2 --data FOLDER
dsmap-polish RUN -o RUN2 --data FOLDER --features squeezenet.npz --contrast 1.1
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools._cli import Debug, Version, explained, new_app, path_given, run
from dsmap.tools._pictures import Data, DomainFolders, parse_domain_folders

if TYPE_CHECKING:
    from dsmap.config import TrainConfig

app = new_app()


@app.command()
@explained
def polish(
    checkpoint: Annotated[
        Path, typer.Argument(parser=path_given, metavar="RUN|CHECKPOINT", help="Of dsmap-train; the averaged weights.")
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", parser=path_given, metavar="RUN", help="A new folder for the checkpoint.")
    ],
    data: Data = None,
    domain: DomainFolders = None,
    features: Annotated[
        str,
        typer.Option(help="Feature network: vgg16 (needs torchvision), a SqueezeNet .npz file, or none: no matching."),
    ] = "none",
    steps: Annotated[int, typer.Option(min=1, help="Iterations.")] = 900,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures of each domain in an iteration.")] = 2,
    lr: Annotated[float, typer.Option(help="Learning rate at the start; it falls to 0.")] = 3e-4,
    matching: Annotated[float, typer.Option(min=0, help="Weight of the feature matching.")] = 0.5,
    contrast: Annotated[
        list[str] | None,
        typer.Option(metavar="[DOMAIN:]FACTOR", help="As of dsmap-export, before. May be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the pictures and the crops.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto takes a GPU when there is one.")] = "auto",
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train the decoders a little further: they keep what they draw, less a grid in step with their blocks of pixels.

    With --features, what that network sees in translations is brought to what it sees in real pictures, on average.
    """
    folders = parse_domain_folders(domain)
    if not lr > 0:
        raise InputError(f"--lr is {lr:g}", "Pass a positive number, such as 3e-4.")
    if (out / "checkpoints").exists():
        raise InputError(f"{out} already holds checkpoints", "Choose another folder with -o.")
    from dsmap.checkpoint import Checkpoint, find_checkpoint, load_generators, read_checkpoint, save_checkpoint
    from dsmap.export.finish import Finish, parse_contrast

    read = read_checkpoint(find_checkpoint(checkpoint))
    network = Finish(contrast=parse_contrast(contrast or [])).network(read.config.model)
    config = read.config.model_copy(update={"model": network})
    from dsmap.data import UnpairedBatches, find_domains

    if data is None and not folders:
        raise InputError("no pictures are given", "Pass --data FOLDER, or --domain NAME=PATH twice.")
    domains = find_domains(data, folders, names=network.domains)
    if {d.name for d in domains} != set(network.domains):
        got, expected = ", ".join(d.name for d in domains), ", ".join(network.domains)
        raise InputError(f"the pictures are of {got}, the checkpoint of {expected}", "Use the checkpoint's names.")
    typer.echo("loading torch ...")
    from dsmap.device import choose_hardware
    from dsmap.domains import fingerprint
    from dsmap.features import load_features
    from dsmap.polish import polish as polished
    from dsmap.run_log import write_config
    from dsmap.styles import style_statistics

    place = choose_hardware(config, device).device
    network_of_features = None if features == "none" else load_features(features).to(place)
    model = load_generators(read._replace(config=config)).to(place)
    side = config.data.shorter_side
    styles = {d.name: style_statistics(model, d.name, d.train, side) for d in domains}
    batches = UnpairedBatches(
        domains, shorter_side=side, crop_hw=_crop(config), batch_size=batch_size, seed=seed, flip=config.data.flip
    )
    began = time.monotonic()
    progress = polished(
        model,
        batches.loader,
        {name: statistics.mean for name, statistics in styles.items()},
        steps=steps,
        lr=lr,
        features=network_of_features,
        matching=matching,
    )
    for now in progress:
        if now.step % 50 == 0 or now.step == steps:
            rate = now.step / (time.monotonic() - began)
            typer.echo(f"step {now.step}/{steps}  {rate:.2f} it/s  kept {now.kept:.4f}  matching {now.matching:.4f}")
    step = read.step + steps
    out.mkdir(parents=True, exist_ok=True)
    write_config(out, config)
    saved = Checkpoint(
        path=out / "checkpoints" / f"{step:08d}",
        step=step,
        config=config,
        styles=styles,
        pictures={d.name: sorted({str(p.parent.resolve()) for p in d.train}) for d in domains},
        data={d.name: fingerprint(d) for d in domains},
        processes=1,
        score=None,
        polished={
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "features": Path(features).name,
            "matching": matching if network_of_features is not None else 0.0,
        },
    )
    save_checkpoint(saved, {"generators": model, "ema": model}, {})
    typer.echo(f"done: {saved.path}")
    typer.echo(f"next: dsmap-export {out} -o BUNDLE")


def _crop(config: "TrainConfig") -> tuple[int, int]:
    """Seven eighths of the picture's side, in whole blocks."""
    block = config.model.multiple_of
    side = max(config.data.shorter_side * 7 // 8 // block * block, config.model.minimum_size)
    return side, side


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
