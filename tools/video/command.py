"""`dsmap-video`: translate videos, images, folders, image sequences and streams to another domain.

    dsmap-video holiday.mp4 --domain winter                          # holiday-winter.mp4 beside the input
    dsmap-video holiday.mp4 --domain winter --style snow.jpg --side-by-side -o compare.mp4
    dsmap-video clips/ more.mov --domain winter -o results --codec hevc --crf 22
    dsmap-video frames/%05d.png --domain winter -o winter.mp4 --rate 24

Nothing heavy is imported at the top: `--help` must be quick.
"""

from pathlib import Path
from typing import Annotated

import typer

from dsmap.tools.shared import cli
from dsmap.tools.shared.terminal import say
from dsmap.tools.video.plan import (
    check_all,
    check_names,
    check_use,
    choose_style,
    open_bundle,
    plan,
    result_folders,
    seconds_given,
    tell_left_out,
)
from dsmap.tools.video.run import Network, Work, conclude, report_jobs, run_jobs

app = cli.new_app()


def main() -> None:
    """Entry point of the command."""
    cli.run(app)


@app.command(
    help="""Translate videos, images or folders of them to another domain.

    Audio, subtitles and chapters are copied, every timestamp is kept, video comes out as H.264. The default style is
    the domain's mean.

    
    dsmap-video holiday.mp4 --domain winter
    dsmap-video photos/ --domain summer --height 480 -o summer-photos
    dsmap-video a.mp4 b.mkv --domain winter --codec hevc -o results
    """
)
@cli.explained
def video(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            parser=cli.text_given,
            help="Videos, images, folders of either, image sequences (frames/%05d.png), addresses (rtsp://, http://).",
        ),
    ],
    domain: cli.Domain,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            parser=cli.path_given,
            help="Result: .mp4, .mkv, .mov, .webm; .png, .jpg, .webp, .avif; animated .gif, .webp, .apng; or a folder.",
        ),
    ] = None,
    model: cli.Model = "summer-winter",
    style: Annotated[
        str | None,
        typer.Option(
            "--style",
            metavar="STYLE",
            parser=cli.text_given,
            help="A style of the model by its name, such as fresh-snow, or an image whose style to take.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draw a style at random, by this number.")] = None,
    style_from: Annotated[
        str | None, typer.Option(metavar="STYLE", help="Begin with this style: a name, an image, a seed, or mean.")
    ] = None,
    style_to: Annotated[str | None, typer.Option(metavar="STYLE", help="And end with this one.")] = None,
    style_cycle: Annotated[
        list[str] | None, typer.Option(metavar="STYLE,STYLE...", help="Go through these styles, and round again.")
    ] = None,
    style_period: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long one round of --style-cycle takes; 10 without it.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="1 is the translation, 0 the input as the network rebuilds it.")
    ] = 1.0,
    stabilize: Annotated[
        bool, typer.Option("--stabilize", help="Steady what flickers, by the motion in the input.")
    ] = False,
    height: Annotated[
        int | None,
        typer.Option(
            "--height", min=16, max=8192, help="Translate at this height; the result is brought back to the input's."
        ),
    ] = None,
    no_upscale: Annotated[bool, typer.Option("--no-upscale", help="Leave the result at --height.")] = False,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Input on the left, result on the right.")
    ] = False,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Begin here: seconds, or H:MM:SS.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="End here.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Translate at most so many frames.")] = None,
    programme: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of a transport stream with several programmes, the one with this number."),
    ] = None,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Make whole frames of the two fields of interlaced video (bwdif).")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1000, help="Frames a second of an image sequence; 25 without it.")
    ] = None,
    codec: Annotated[
        str,
        typer.Option(
            help="h264, hevc, av1, vp9, lossless; 10 bits: hevc10, av1-10, prores; h264_nvenc, hevc_nvenc, av1_nvenc."
        ),
    ] = "auto",
    crf: Annotated[int | None, typer.Option(help="Quality: lower is better and larger.")] = None,
    preset: Annotated[str | None, typer.Option(help="Speed against size, in the codec's own words.")] = None,
    audio: Annotated[
        str,
        typer.Option(metavar="copy|convert|none", help="Copy the sound as it is, encode it as AAC, or leave it out."),
    ] = "copy",
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave out Exif, GPS positions, titles, dates and data streams.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run was; results that are there stay.")
    ] = False,
    password_env: Annotated[
        str | None,
        typer.Option(
            "--password-env",
            metavar="NAME",
            parser=cli.text_given,
            help="Take the password of an address (rtsp://user@host/...) from this environment variable.",
        ),
    ] = None,
    report: cli.TimesReport = None,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    cuda_binding: cli.CudaBinding = "auto",
    trust_engines: cli.TrustEngines = False,
    debug: cli.Debug = False,
    version: cli.Version = False,
) -> None:
    options = {
        "height": height,
        "upscale": not no_upscale,
        "side_by_side": side_by_side,
        "start": seconds_given(start, "--start"),
        "end": seconds_given(end, "--end"),
        "frames": frames,
        "programme": programme,
        "deinterlace": deinterlace,
        "rate": rate,
        "codec": codec,
        "crf": crf,
        "preset": preset,
        "audio": audio,
        "strip_metadata": strip_metadata,
        "overwrite": overwrite,
        "resume": resume,
    }
    bundle = open_bundle(model)
    styles = choose_style(style, seed, style_from, style_to, style_cycle or [], style_period, bundle, domain)
    jobs = plan(sources, output, domain, codec, password_env)
    left_out = tell_left_out(sources)
    check_use(jobs, options, styles, stabilize=stabilize)
    network = Network(
        bundle=bundle,
        domain=domain,
        backend=backend,
        precision=precision,
        cuda_binding=cuda_binding,
        trust_engines=trust_engines,
        strength=strength,
        stabilize=stabilize,
    )
    check_names(jobs, styles, bundle.folder, report, overwrite=overwrite)
    with result_folders(jobs):
        checked = check_all(jobs, options)
        if not checked:
            if report is not None:
                report_jobs(report, left_out, [], several=True)
            return
        work = Work(network, styles, checked, options)
        say(*work.header())
        outcomes = run_jobs([(one.job, one.frames) for one in checked], work.run)
    if report is not None:
        report_jobs(report, work.facts() | left_out, outcomes, several=len(jobs) > 1)
    conclude(outcomes, len(checked))
