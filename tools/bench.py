"""dsmap-bench: how fast things are, measured in turns with what they are compared to.

dsmap-bench train                       the trainer's iteration beside the plain way to write it
dsmap-bench train --size 192 --batch 2 --features squeezenet_v1.0_imagenet.npz
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dsmap.errors import DsmapError, InputError
from dsmap.tools._cli import Debug, Version, explained, new_app, run

# What `train` sets for each of the variants it compares.
_OWN_KEYS = ("data.crop", "data.shorter_side", "data.batch_size", "data.scale_jitter", "loss.contextual", "features",
             "precision", "compile", "shared_style_draw")  # fmt: skip

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
    if report is not None:
        _check_report(report)
    for key in (text.partition("=")[0] for text in set_ or []):
        if key in _OWN_KEYS or key == "data":
            raise InputError(f"--set {key} is decided by dsmap-bench", "Use --size, --batch, --features and --device.")
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
        _write_report(report, measured)
        typer.echo(f"report: {report}")


def _check_report(report: Path) -> None:
    """Raises InputError unless the report can be written: told before minutes of measuring."""
    from dsmap.folders import check_folder_writable

    if report.is_dir():
        raise InputError(f"--report {report} is a folder", "Pass a file's name, such as report.json.")
    check_folder_writable(report.absolute().parent, "--report")


def _write_report(report: Path, measured: dict[str, Any]) -> None:
    import json

    try:
        report.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DsmapError(f"cannot write {report}: {error.strerror}", "The numbers are above.") from error


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
