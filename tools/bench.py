"""dsmap-bench: how fast things are, measured in turns with what they are compared to.

dsmap-bench train                       the trainer's iteration beside the plain way to write it
dsmap-bench train --size 192 --batch 2 --features squeezenet_v1.0_imagenet.npz
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools._cli import Debug, Version, explained, new_app, run

app = new_app()


@app.callback()
def bench() -> None:
    """Measure in turns (A B A B ...): medians and ratios of pairs, as machines are seldom quiet."""


@app.command()
@explained
def train(
    preset: Annotated[str, typer.Option(help="Whose network and losses.")] = "paper",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as model.dim=32.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the crops in pixels.")] = 128,
    batch: Annotated[int, typer.Option(help="Pictures of each domain per iteration.")] = 1,
    features: Annotated[
        str | None, typer.Option(help="With the contextual loss: vgg16 or a SqueezeNet .npz file. Default: without.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto takes a GPU when there is one.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after two that are not.")] = 7,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the numbers as JSON.")] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """The trainer's iteration beside a plain one with the same losses and gradients: the ratio and where time goes."""
    if report is not None and not report.absolute().parent.is_dir():
        raise InputError(f"the folder of {report} does not exist", "Make it first, or pass another --report.")
    from dsmap.config import load_train_config

    settings = load_train_config(
        preset,
        None,
        [*(set_ or []), f"loss.contextual={int(features is not None)}"],
        features=features,
        data={"crop": size, "shorter_side": size, "batch_size": batch, "scale_jitter": [1.0, 1.0]},
    )
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would talk on stderr
    typer.echo("loading torch ...")
    from dsmap.tools._bench_train import measure

    measured = measure(settings, device, rounds, typer.echo)
    if report is not None:
        import json

        report.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"report: {report}")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
