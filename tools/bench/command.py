"""dsmap-bench: how fast things are, measured in turns with what they are compared to.

dsmap-bench train                       the trainer's iteration beside the plain way to write it
dsmap-bench train --size 192 --batch 2 --features squeezenet_v1.0_imagenet.npz
dsmap-bench model                       a frame's translation: torch, rewritten, exported, quantised
dsmap-bench model summer-winter         a bundle: every backend that runs here
dsmap-bench video clip.mp4              decoding, translating and encoding, apart and together
dsmap-bench live clip.mp4               a camera's delay, with a file in its place
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dsmap.common.output_files import check_outputs
from dsmap.common.reports import write_report
from dsmap.errors import InputError
from dsmap.tools.shared.cli import (
    Backend,
    CudaBinding,
    Debug,
    Device,
    Model,
    Precision,
    TrustEngines,
    Version,
    explained,
    new_app,
    run,
)
from dsmap.tools.shared.terminal import say

# What `train` sets for each of the variants it compares.
_OWN_KEYS = ("data.crop", "data.shorter_side", "data.batch_size", "data.scale_jitter", "loss.contextual", "features",
             "precision", "compile", "shared_style_draw")  # fmt: skip

Report = Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the numbers as JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")]

app = new_app()


@app.callback(help="Measure in turns (A B A B ...): medians and ratios of pairs, as machines are seldom quiet.")
def bench() -> None:
    pass


@app.command(
    help="""
    The trainer's iteration beside a plain one with the same losses and gradients: the ratio and where time goes.
    """
)
@explained
def train(
    preset: Annotated[str, typer.Option(help="Whose network and losses.")] = "paper",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as model.dim=32.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the crops in pixels.")] = 128,
    batch: Annotated[int, typer.Option(help="Images of each domain per iteration.")] = 1,
    features: Annotated[
        str | None, typer.Option(help="With the contextual loss: vgg16 or a SqueezeNet .npz file. Default: without.")
    ] = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after two that are not.")] = 7,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    _check_report(report, {"the feature network": features}, overwrite=overwrite)
    for key in (text.partition("=")[0] for text in set_ or []):
        if key in _OWN_KEYS or key == "data":
            raise InputError(f"--set {key} is decided by dsmap-bench", "Use --size, --batch, --features and --device.")
    from dsmap.config import load_train_config

    # The plain iteration judges whole images.
    fixed = [f"loss.contextual={int(features is not None)}", "discriminator.shift=0"]
    if features is None:
        fixed += ["discriminator.features=false"]
    settings = load_train_config(
        preset,
        None,
        [*(set_ or []), *fixed],
        features=features,
        data={"crop": size, "shorter_side": size, "batch_size": batch, "scale_jitter": [1.0, 1.0]},
    )
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would talk on stderr
    say("loading torch ...")
    from dsmap.tools.bench.train import measure

    measured = measure(settings, device, rounds, say)
    if report is not None:
        write_report(report, measured)
        say(f"report: {report}")


@app.command(
    help="""One frame's translation: torch as the authors have it, rewritten, exported, quantised; speed and PSNR.

    With BUNDLE: every backend that runs here, with every precision the bundle has, beside float32 on the CPU.
    """
)
@explained
def model(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE", help="A model's name, or its folder: measure its backends and precisions."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A run of dsmap-train whose network is measured.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Whose network, with random weights, without RUN or BUNDLE.")] = "paper",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as model.dim=32.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Of BUNDLE: which one to translate to.")] = None,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Of the frames.")] = "256x256",
    threads: Annotated[int | None, typer.Option(min=1, help="Of everything. Default: all cores.")] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Frames to translate. Default: generated ones.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one that is not.")] = 9,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Leave out rows with this word, such as compile. May be repeated."),
    ] = None,
    trust_engines: TrustEngines = False,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    read = {"the run": checkpoint, "the folder of frames": images}
    _check_report(report, read, model=bundle, overwrite=overwrite)
    if bundle is not None and (checkpoint is not None or set_):
        raise InputError("BUNDLE was passed together with --checkpoint or --set", "Choose one network.")
    if trust_engines and bundle is None:
        raise InputError("--trust-engines is about a BUNDLE's engines, and none was passed", "Leave it out.")
    if domain is not None and bundle is None:
        raise InputError("--domain is of a BUNDLE, and none was passed", "Leave it out.")
    from dsmap.tools.bench.model import Options, measure_bundle, measure_network

    options = Options(size, threads, images, rounds, tuple(skip or ()), trust_engines)
    if bundle is not None:
        measured = measure_bundle(bundle, domain, options, say)
    else:
        measured = measure_network(checkpoint, preset, tuple(set_ or ()), options, say)
    if report is not None:
        write_report(report, measured)
        say(f"report: {report}")


@app.command(
    help="""A video's decoding, translation and encoding, apart and together: frames a second, percentiles of frames."""
)
@explained
def video(
    clip: Annotated[
        Path | None, typer.Argument(metavar="CLIP", help="A video. Default: the one that comes with dsmap.")
    ] = None,
    model: Model = "summer-winter",
    domain: Annotated[str | None, typer.Option(help="Which one to translate to. Default: the second.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Bring the clip to this size first. Default: its own.")
    ] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    cuda_binding: CudaBinding = "auto",
    trust_engines: TrustEngines = False,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Frames with the network at once. Default: as dsmap-video has it.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the network. Default: all cores.")] = None,
    codec: Annotated[str, typer.Option(help="As in dsmap-video.")] = "auto",
    frames: Annotated[int, typer.Option(min=2, help="Of the clip, at most.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Each stage alone, then all together, so many times.")] = 3,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    _check_report(report, {"the clip": clip}, model=model, overwrite=overwrite)
    from dsmap.runtime.video.encoders import EncoderSettings
    from dsmap.tools.bench.video import Network, Options, measure_video

    network = Network(model, domain, backend, precision, cuda_binding, at_once, threads, trust_engines)
    options = Options(size, frames, rounds, EncoderSettings(codec=codec))
    measured = measure_video(clip, network, options, say)
    if report is not None:
        write_report(report, measured)
        say(f"report: {report}")


@app.command(help="A live session without a window: frames a second, dropped frames, delay from capture to result.")
@explained
def live(
    clip: Annotated[
        Path | None, typer.Argument(metavar="CLIP", help="A video. Default: the one that comes with dsmap.")
    ] = None,
    model: Model = "summer-winter",
    domain: Annotated[str | None, typer.Option(help="Which one to translate to. Default: the second.")] = None,
    height: Annotated[int | None, typer.Option(min=16, help="Translate at this height.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    cuda_binding: CudaBinding = "auto",
    trust_engines: TrustEngines = False,
    frames: Annotated[int, typer.Option(min=2, help="To measure.")] = 200,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    _check_report(report, {"the clip": clip}, model=model, overwrite=overwrite)
    from dsmap.tools.bench.live import measure_live
    from dsmap.tools.bench.video import Network

    network = Network(model, domain, backend, precision, cuda_binding, trust_engines=trust_engines)
    measured = measure_live(clip, network, height, frames, say)
    if report is not None:
        write_report(report, measured)
        say(f"report: {report}")


def _check_report(
    report: Path | None, read: Mapping[str, str | Path | None], *, model: str | None = None, overwrite: bool
) -> None:
    """Raises InputError unless the report may be written; `read`: what the command reads, which it may not replace."""
    inputs = [(Path(path), name) for name, path in read.items() if path is not None]
    closed = [] if model is None else [(Path(model), "the model's folder")]
    check_outputs({"--report": report}, inputs, closed=closed, overwrite=overwrite)


def main() -> None:
    """Entry point."""
    run(app)
