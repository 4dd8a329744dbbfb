"""The options of dsmap-bench."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmap.common.output_files import check_outputs
from dsmap.common.reports import write_report
from dsmap.errors import InputError
from dsmap.tools.shared.cli import (
    LIVE_FPS,
    Backend,
    CudaBinding,
    Debug,
    Device,
    Model,
    Precision,
    Streams,
    TrustEngines,
    Version,
    explained,
    new_app,
    run,
)
from dsmap.tools.shared.panels import HARDWARE, INPUT, MODEL, OUTPUT, TRAINING
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.config import TrainConfig

# What `train` decides itself, as it has to be the same in what it compares.
_OWN_KEYS = ("data.crop", "data.shorter_side", "data.batch_size", "data.scale_jitter", "loss.contextual", "features",
             "precision", "compile", "shared_style_draw")  # fmt: skip

Clip = Annotated[
    Path | None, typer.Argument(metavar="CLIP", help="A video (default: the bundled demo clip).", show_default=False)
]
Target = Annotated[
    str | None,
    typer.Option("--domain", "-d", metavar="NAME", help="Domain to translate to (default: the model's second)."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting (model.dim=32); repeatable.",
        rich_help_panel=MODEL,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write a JSON report with all timings.", rich_help_panel=OUTPUT),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.", rich_help_panel=OUTPUT)]
Size = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Resize the clip first (default: its own size).")
]
Height = Annotated[
    int | None, typer.Option("--height", min=16, max=8192, metavar="N", help="Translate at this height.")
]
Refine = Annotated[
    str, typer.Option("--refine", metavar="NAME", help="Full size from --height: guided, learnt, auto or off.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPU threads (default: all cores).", rich_help_panel=HARDWARE)
]

app = new_app()


@app.callback(
    help="""Measure speed. Variants alternate (A B A B ...), so that background load affects all of them equally.

    Times are medians, speeds the medians of the ratios of pairs.
    """,
    epilog="dsmap-bench model summer-winter\ndsmap-bench video holiday.mp4 --rounds 5",
)
def bench() -> None:
    pass


@app.command(
    help="Measure a training iteration against a plain implementation of it.",
    epilog="dsmap-bench train\ndsmap-bench train --size 192 --batch 2 --features squeezenet_v1.0_imagenet.npz",
)
@explained
def train(
    preset: Annotated[str, typer.Option(metavar="NAME", help="Training preset.", rich_help_panel=TRAINING)] = "paper",
    set_: Set = None,
    size: Annotated[int, typer.Option(metavar="N", help="Side of the crops in pixels.")] = 128,
    batch: Annotated[int, typer.Option(metavar="N", help="Images of each domain per iteration.")] = 1,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Contextual loss: vgg16 or SqueezeNet .npz.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Timed rounds (after 4 warm-up rounds).")] = 7,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    _check_report(report, {"the feature network": features}, overwrite=overwrite)
    settings = _train_settings(preset, set_ or [], size, batch, features)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would print to stderr
    say("loading torch ...")
    from dsmap.tools.bench.train import measure

    _save(report, measure(settings, device, rounds, say))


@app.command(
    help="""Measure the translation of a frame, and how close the result is to the first row's (PSNR).

    With BUNDLE: every backend that runs here, in every precision of the bundle. Without: a network in torch, and in
    every form that it is exported in.
    """,
    epilog="dsmap-bench model summer-winter\ndsmap-bench model --preset lite --skip compile --skip int8",
)
@explained
def model(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE", help="A model's name or folder."),
    ] = None,
    domain: Target = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the frames.")] = "256x256",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Timed rounds (after 1 warm-up round).")] = 9,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Skip rows with this word in their name; repeatable."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            metavar="FOLDER",
            help="Images to translate (default: generated ones).",
            rich_help_panel=INPUT,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Measure the network of this training run.", rich_help_panel=MODEL),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="Network of this preset, random weights.", rich_help_panel=MODEL),
    ] = "paper",
    set_: Set = None,
    threads: Threads = None,
    trust_engines: TrustEngines = False,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    read = {"the run": checkpoint, "the folder of images": images}
    _check_report(report, read, model=bundle, overwrite=overwrite)
    if bundle is not None and (checkpoint is not None or set_):
        raise InputError("BUNDLE was passed together with --checkpoint or --set", "Choose one network.")
    for flag, given in {"--trust-engines": trust_engines, "--domain": domain is not None}.items():
        if given and bundle is None:
            raise InputError(f"{flag} has no effect without BUNDLE", "Pass a model's name or folder, or leave it out.")
    from dsmap.tools.bench.model import ModelBenchRequest, measure_bundle, measure_network

    request = ModelBenchRequest(
        size=size, threads=threads, images=images, rounds=rounds, skip=tuple(skip or ()), trust_engines=trust_engines
    )
    if bundle is not None:
        _save(report, measure_bundle(bundle, domain, request, say))
    else:
        _save(report, measure_network(checkpoint, preset, tuple(set_ or ()), request, say))


@app.command(
    help="Measure decoding, translating and encoding of a video, apart and together.",
    epilog="dsmap-bench video\ndsmap-bench video holiday.mp4 --size 1920x1080 --height 270",
)
@explained
def video(
    clip: Clip = None,
    model: Model = "summer-winter",
    domain: Target = None,
    size: Size = None,
    height: Height = None,
    refine: Refine = "auto",
    frames: Annotated[int, typer.Option(min=2, metavar="N", help="Measure at most this many frames.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds (each stage alone, then all).")] = 3,
    codec: Annotated[
        str, typer.Option(metavar="NAME", help="Video codec, as for dsmap-video.", rich_help_panel=OUTPUT)
    ] = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    at_once: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Frames in flight (default: as dsmap-video).", rich_help_panel=HARDWARE),
    ] = None,
    threads: Threads = None,
    cuda_binding: CudaBinding = "auto",
    streams: Streams = None,
    trust_engines: TrustEngines = False,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    _check_report(report, {"the clip": clip}, model=model, overwrite=overwrite)
    from dsmap.runtime.refine.choice import check_refine
    from dsmap.runtime.video.encoders import EncoderSettings
    from dsmap.tools.bench.video import ModelChoice, VideoBenchRequest, measure_video

    choice = ModelChoice(
        model=model,
        domain=domain,
        backend=backend,
        precision=precision,
        cuda_binding=cuda_binding,
        frames_at_once=at_once,
        threads=threads,
        streams=streams,
        trust_engines=trust_engines,
    )
    request = VideoBenchRequest(
        clip=clip,
        model=choice,
        size=size,
        height=height,
        refine=check_refine(refine),
        frames=frames,
        rounds=rounds,
        encoder=EncoderSettings(codec=codec),
    )
    _save(report, measure_video(request, say))


@app.command(
    help="""Measure a live session: frames a second, dropped frames, and the delay from capture to display.

    The clip stands in for a camera, at its own rate.
    """,
    epilog="dsmap-bench live\ndsmap-bench live holiday.mp4 --size 640x480 --target-fps 20 --refine auto --window",
)
@explained
def live(
    clip: Clip = None,
    model: Model = "summer-winter",
    domain: Target = None,
    size: Size = None,
    height: Height = None,
    refine: Refine = "off",
    target_fps: Annotated[
        float | None,
        typer.Option(min=1, max=240, metavar="N", help="Without --height: the largest that is so fast (default: 15)."),
    ] = None,
    window: Annotated[
        bool, typer.Option("--window/--no-window", help="Show the frames, and include that in the delay.")
    ] = False,
    frames: Annotated[int, typer.Option(min=2, metavar="N", help="Measure this many frames.")] = 200,
    backend: Backend = "auto",
    precision: Precision = "auto",
    cuda_binding: CudaBinding = "auto",
    trust_engines: TrustEngines = False,
    report: Report = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    _check_report(report, {"the clip": clip}, model=model, overwrite=overwrite)
    from dsmap.runtime.live.translation import Preparation
    from dsmap.runtime.refine.choice import check_refine
    from dsmap.tools.bench.live import LiveBenchRequest, measure_live
    from dsmap.tools.bench.video import ModelChoice

    choice = ModelChoice(
        model=model,
        domain=domain,
        backend=backend,
        precision=precision,
        cuda_binding=cuda_binding,
        trust_engines=trust_engines,
    )
    if height is not None and target_fps is not None:
        raise InputError("--target-fps has no effect with --height", "Pass one of them.")
    if height is None and target_fps is None:
        target_fps = LIVE_FPS
    request = LiveBenchRequest(
        clip=clip,
        model=choice,
        size=size,
        preparation=Preparation(height=height, target_fps=target_fps, refine=check_refine(refine)),
        window=window,
        frames=frames,
    )
    _save(report, measure_live(request, say))


def _train_settings(preset: str, overrides: list[str], size: int, batch: int, features: str | None) -> "TrainConfig":
    """The configuration of the measured iteration. Raises InputError for overrides of what the bench decides."""
    for key in (text.partition("=")[0] for text in overrides):
        if key in _OWN_KEYS or key == "data":
            raise InputError(f"--set {key} is decided by dsmap-bench", "Use --size, --batch, --features and --device.")
    from dsmap.config import load_train_config

    # The plain iteration judges whole images.
    fixed = [f"loss.contextual={int(features is not None)}", "discriminator.shift=0"]
    if features is None:
        fixed += ["discriminator.features=false"]
    return load_train_config(
        preset,
        None,
        [*overrides, *fixed],
        features=features,
        data={"crop": size, "shorter_side": size, "batch_size": batch, "scale_jitter": [1.0, 1.0]},
    )


def _check_report(
    report: Path | None, read: Mapping[str, str | Path | None], *, model: str | None = None, overwrite: bool
) -> None:
    """Raises InputError unless the report may be written; `read`: what the command reads, which it may not replace."""
    inputs = [(Path(path), name) for name, path in read.items() if path is not None]
    closed = [] if model is None else [(Path(model), "the model's folder")]
    check_outputs({"--report": report}, inputs, closed=closed, overwrite=overwrite)


def _save(report: Path | None, measured: dict[str, Any]) -> None:
    if report is not None:
        write_report(report, measured)
        say(f"report: {report}")


def main() -> None:
    """Entry point."""
    run(app)
