"""`dsmap-video`: translate videos, images, folders, image sequences and streams to another domain.

    dsmap-video holiday.mp4 --domain winter                          # holiday-winter.mp4 beside the input
    dsmap-video holiday.mp4 --domain winter --style snow.jpg --side-by-side -o compare.mp4
    dsmap-video clips/ more.mov --domain winter -o results --codec hevc --crf 22
    dsmap-video frames/%05d.png --domain winter -o winter.mp4 --rate 24

Nothing heavy is imported at the top: `--help` must be quick.
"""

import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsmap.errors import InputError
from dsmap.tools.shared import cli
from dsmap.tools.shared.panels import CLUSTER, HARDWARE, INPUT, MODEL, OUTPUT
from dsmap.tools.shared.start import importing
from dsmap.tools.shared.terminal import say

if TYPE_CHECKING:
    from dsmap.runtime.cluster.on_ray import OnRay
    from dsmap.runtime.jobs.batch_report import BatchReport

INTERRUPTED = 130

app = cli.new_app()


def main() -> None:
    """Entry point of the command."""
    cli.run(app)


@app.command(
    help="""Translate videos, images or folders of them to another domain.

    Audio, subtitles, chapters and timestamps are kept. Videos are encoded as H.264.
    """,
    epilog="""
    dsmap-video holiday.mp4 --domain winter
    dsmap-video photos/ clip.mkv --domain winter --height 480 -o results
    """,
)
@cli.explained
def video(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            parser=cli.text_given,
            help="Files, folders, sequences (frames/%05d.png), URLs; - for stdin.",
        ),
    ],
    domain: cli.Domain = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="PATH", parser=cli.path_given, help="Output file or folder; - for stdout."
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option("--style", metavar="STYLE", parser=cli.text_given, help="A named style, or an image."),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option("--height", min=16, max=8192, metavar="N", help="Translate at N lines: faster."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start here: seconds, or H:MM:SS.", rich_help_panel=INPUT)
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Stop here.", rich_help_panel=INPUT)] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Translate at most N frames.", rich_help_panel=INPUT),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=1000, metavar="FPS", help="Frame rate of image sequences (default: 25).", rich_help_panel=INPUT
        ),
    ] = None,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Deinterlace the input (bwdif).", rich_help_panel=INPUT)
    ] = False,
    programme: Annotated[
        int | None,
        typer.Option(
            "--programme", "--program", metavar="N", help="Programme of a transport stream.", rich_help_panel=INPUT
        ),
    ] = None,
    password_env: Annotated[
        str | None,
        typer.Option(
            "--password-env",
            metavar="NAME",
            parser=cli.text_given,
            help="Environment variable with a URL's password.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    model: cli.Model = "summer-winter",
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Use a random style.", rich_help_panel=MODEL)
    ] = None,
    style_spread: cli.StyleSpread = 1.0,
    style_from: Annotated[
        str | None,
        typer.Option(metavar="STYLE", help="Fade from this style: name, image, seed, mean.", rich_help_panel=MODEL),
    ] = None,
    style_to: Annotated[
        str | None, typer.Option(metavar="STYLE", help="Fade to this style.", rich_help_panel=MODEL)
    ] = None,
    style_cycle: Annotated[
        list[str] | None,
        typer.Option(metavar="STYLES", help="Cycle through STYLE,STYLE,...", rich_help_panel=MODEL),
    ] = None,
    style_period: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Length of one cycle (default: 10).", rich_help_panel=MODEL),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="X",
            help="Translation strength, 0 to 1 (default: 1).",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = 1.0,
    stabilize: Annotated[bool, typer.Option("--stabilize", help="Reduce flicker.", rich_help_panel=MODEL)] = False,
    refine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="From --height to full size: guided (by edges), learnt, off; auto also halves more than 540 lines.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = "auto",
    no_upscale: Annotated[
        bool, typer.Option("--no-upscale", help="Leave the result at --height.", rich_help_panel=OUTPUT)
    ] = False,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Input left, result right.", rich_help_panel=OUTPUT)
    ] = False,
    codec: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="h264, hevc, av1, vp9, prores, hevc10, av1-10, lossless, raw, h264_nvenc, hevc_nvenc or av1_nvenc.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = "auto",
    crf: Annotated[
        int | None,
        typer.Option(metavar="N", help="Quality; lower: better quality, larger files.", rich_help_panel=OUTPUT),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Encoder preset, such as slow.", rich_help_panel=OUTPUT),
    ] = None,
    audio: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="copy, convert (to AAC or Opus) or none.", show_default=False, rich_help_panel=OUTPUT
        ),
    ] = "copy",
    strip_metadata: Annotated[
        bool,
        typer.Option("--strip-metadata", help="Remove Exif, GPS, titles and dates.", rich_help_panel=OUTPUT),
    ] = False,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=cli.path_given,
            help="Only write one frame in several styles.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: cli.TimesReport = None,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    tile: Annotated[
        bool, typer.Option("--tile", help="Large frames in little memory; slower.", rich_help_panel=HARDWARE)
    ] = False,
    hwaccel: cli.HwAccel = "off",
    cuda_binding: cli.CudaBinding = "auto",
    streams: cli.Streams = None,
    trust_engines: cli.TrustEngines = False,
    remote: cli.Remote = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            parser=cli.text_given,
            help="Run on a Ray cluster: auto, local, [ray://]HOST:PORT.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    segment: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Split longer videos (default: 30s).", rich_help_panel=CLUSTER),
    ] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option(metavar="N", help="CPUs of a worker (default: 1).", rich_help_panel=CLUSTER)
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(metavar="N", help="GPUs of a worker, such as 0.5.", rich_help_panel=CLUSTER)
    ] = None,
    verbose: cli.Verbose = False,
    debug: cli.Debug = False,
    version: cli.Version = False,
) -> None:
    cluster = _cluster(ray, segment, cpus_per_worker, gpus_per_worker)
    seconds = seconds_given(start, "--start"), seconds_given(end, "--end")
    with importing():
        from dsmap.runtime.jobs.batch import run_request
        from dsmap.runtime.jobs.options import ModelOptions, StyleOptions, VideoOptions
        from dsmap.runtime.jobs.request import resolve_request
        from dsmap.tools.video.display import Display, show_conclusion

    request = resolve_request(
        sources,
        output,
        model=ModelOptions(
            model=model,
            domain=domain,
            backend=backend,
            precision=precision,
            cuda_binding=cuda_binding,
            streams=streams,
            trust_engines=trust_engines,
            strength=strength,
            stabilize=stabilize,
            tile=tile,
            remote=remote,
        ),
        style=StyleOptions(
            style=style,
            seed=seed,
            spread=style_spread,
            style_from=style_from,
            style_to=style_to,
            style_cycle=tuple(style_cycle or ()),
            style_period=style_period,
        ),
        options=VideoOptions(
            height=height,
            upscale=not no_upscale,
            refine=refine,
            side_by_side=side_by_side,
            start=seconds[0],
            end=seconds[1],
            frames=frames,
            programme=programme,
            deinterlace=deinterlace,
            rate=rate,
            codec=codec,
            crf=crf,
            preset=preset,
            audio=audio,
            hwaccel=hwaccel,
            overwrite=overwrite,
            strip_metadata=strip_metadata,
            resume=resume,
        ),
        report=report,
        password_env=password_env,
    )
    if cluster is not None and any(job.is_piped for job in request.jobs):
        raise InputError("--ray does not go with standard input or output", "Leave it out, or name files.")
    if preview is not None:
        from dsmap.runtime.jobs.preview import write_preview

        if cluster is not None:
            raise InputError("--ray does not go with --preview", "Leave it out.")
        if report is not None:
            raise InputError("--report does not go with --preview", "Leave it out.")

        say(f"{preview}: {write_preview(request, preview)} images")
        return
    if cluster is None:
        with Display(request, verbose=verbose) as display:
            batch = run_request(request, display.show)
    else:
        from dsmap.tools.video.cluster_display import run_on_cluster

        batch = run_on_cluster(cluster, request)
    show_conclusion(batch)
    if code := exit_code(batch):
        raise typer.Exit(code)


def seconds_given(text: str | None, option: str) -> Fraction | None:
    """Seconds, exactly, from 83.5, 1:23.5 or 0:01:23.5; InputError that names the option for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"(\d+:([0-5]?\d:)?[0-5]?\d|\d+)(\.\d+)?", text, re.ASCII):
        raise InputError(f"{option} {text} is not a valid time", "Write seconds, such as 83.5, or H:MM:SS.")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def _cluster(ray: str | None, segment: str | None, cpus: float | None, gpus: float | None) -> "OnRay | None":
    """What runs the request on a cluster; None without --ray. Raises InputError."""
    given = {"--segment": segment, "--cpus-per-worker": cpus, "--gpus-per-worker": gpus}
    if ray is None:
        if unused := next((name for name, value in given.items() if value is not None), None):
            raise InputError(f"{unused} is for --ray, which was not passed", "Leave it out.")
        return None
    from dsmap.runtime.cluster.on_ray import OnRay

    if segment is not None and re.search("[0-9]s$", segment):
        segment = segment[:-1]
    seconds = seconds_given(segment, "--segment")
    chosen = {"segment": None if seconds is None else float(seconds), "cpus_per_worker": cpus, "gpus_per_worker": gpus}
    return OnRay(ray, **{name: value for name, value in chosen.items() if value is not None})


def exit_code(batch: "BatchReport") -> int:
    """0 when every result is whole, 130 after an interruption, 2 when all inputs were wrong, else 1."""
    if batch.interrupted:
        return INTERRUPTED
    errors = batch.errors
    if errors and len(errors) == batch.planned and all(isinstance(error, InputError) for error in errors):
        return InputError.exit_code
    return 0 if batch.complete else 1
