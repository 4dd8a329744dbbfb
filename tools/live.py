"""`dsmap-live`: translate a camera in real time.

    dsmap-live --domain winter                                        # the first camera, in a window
    dsmap-live --domain winter --camera rtsp://door.local/stream --record door.mp4
    dsmap-live --domain winter --camera holiday.mp4 --no-window --frames 100 --report report.json

Nothing heavy is imported at the top: `--help` must be quick.
"""

import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmap.common.reports import write_report
from dsmap.errors import InputError
from dsmap.tools.shared import cli
from dsmap.tools.shared.panels import HARDWARE, INPUT, MODEL, OUTPUT
from dsmap.tools.shared.start import importing
from dsmap.tools.shared.terminal import note, say

if TYPE_CHECKING:
    from dsmap.runtime.live.report import LiveReport
    from dsmap.runtime.live.request import LiveRequest
    from dsmap.runtime.translator import Translator

app = cli.new_app()

_PATIENCE_WITHOUT_WINDOW = 60.0  # seconds; in front of a window somebody decides
_MODEL_BOUND = 0.9  # busy share from which the model is what limits the frame rate


def main() -> None:
    """Entry point of the command."""
    cli.run(app)


def size_given(text: str) -> tuple[int, int]:
    """For --size: WxH."""
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if not match or not (int(match[1]) and int(match[2])):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, for example 1280x720")
    return int(match[1]), int(match[2])


def _list_cameras(wanted: bool) -> None:
    if not wanted:
        return
    from dsmap.runtime.live.cameras import list_cameras

    cameras = list_cameras()
    say(*(f"{index}  {name}".rstrip() for index, name in cameras.items()) if cameras else ["no camera was found"])
    raise typer.Exit


@app.command(
    help="""Translate a camera in real time.

    Keys in the window: q or Esc quits, h shows all keys. A video file can stand in for a camera.
    """,
    epilog="dsmap-live --domain winter\ndsmap-live --domain winter --camera rtsp://door.local/stream --record door.mp4",
)
@cli.explained
def live(
    domain: cli.Domain = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            "--camera",
            metavar="CAMERA",
            parser=cli.text_given,
            help="Number, name, address or video file; repeatable.",
        ),
    ] = None,
    list_cameras: Annotated[
        bool,
        typer.Option("--list-cameras", help="List the cameras and exit.", callback=_list_cameras, is_eager=True),
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record", metavar="FILE", parser=cli.path_given, help="Record (no sound): .mp4 .m4v .mkv .mov .webm."
        ),
    ] = None,
    no_window: Annotated[bool, typer.Option("--no-window", help="Run without a display.")] = False,
    password_env: Annotated[
        str | None,
        typer.Option(
            "--camera-password-env",
            metavar="NAME",
            parser=cli.text_given,
            help="Environment variable with the password.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    size: Annotated[
        Any,
        typer.Option(
            "--size", metavar="WxH", parser=size_given, help="Request this size from the camera.", rich_help_panel=INPUT
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="N",
            min=1,
            max=1000,
            help="Request this frame rate.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Mirror the image left to right.", rich_help_panel=INPUT)
    ] = False,
    loop: Annotated[
        bool | None,
        typer.Option("--loop/--no-loop", help="Loop a video file.", rich_help_panel=INPUT),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            min=0,
            help="Wait this long for a lost camera.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    model: cli.Model = "summer-winter",
    style: Annotated[
        list[str] | None,
        typer.Option(
            "--style",
            metavar="STYLE",
            parser=cli.text_given,
            help="Named style, image, seed:N or mean; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", metavar="N", min=0, help="Random style with this seed; repeatable.", rich_help_panel=MODEL
        ),
    ] = None,
    style_spread: cli.StyleSpread = 1.0,
    virtual_camera: Annotated[
        bool,
        typer.Option("--virtual-camera", help="Publish the result as a virtual camera.", rich_help_panel=OUTPUT),
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", min=1, help="Stop after this many frames.", rich_help_panel=OUTPUT),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            metavar="SECONDS",
            min=0.1,
            help="Stop this long after the first frame.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing recording or report.", rich_help_panel=OUTPUT)
    ] = False,
    report: cli.TimesReport = None,
    height: Annotated[
        int | None,
        typer.Option(
            "--height",
            metavar="N",
            min=16,
            max=8192,
            help="Translate at this height.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    refine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Full size from --height: guided, learnt, auto or off (default).",
            show_default=False,
            rich_help_panel=HARDWARE,
        ),
    ] = "off",
    target_fps: Annotated[
        float,
        typer.Option(
            "--target-fps",
            metavar="N",
            min=1,
            max=240,
            help="Without --height: the largest that is so fast (default: 15).",
            show_default=False,
            rich_help_panel=HARDWARE,
        ),
    ] = cli.LIVE_FPS,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    hwaccel: cli.HwAccel = "off",
    cuda_binding: cli.CudaBinding = "auto",
    trust_engines: cli.TrustEngines = False,
    remote: cli.Remote = None,
    verbose: cli.Verbose = False,
    debug: cli.Debug = False,
    version: cli.Version = False,
) -> None:
    began = time.monotonic()
    with importing():
        from dsmap.runtime.jobs.options import ModelOptions
        from dsmap.runtime.live.open_source import find_source
        from dsmap.runtime.live.request import LiveRequest, run_live
        from dsmap.runtime.live.run import LiveSettings
        from dsmap.runtime.live.source import CaptureRequest
        from dsmap.runtime.live.styles import session_styles
        from dsmap.runtime.live.translation import Preparation
        from dsmap.runtime.open_model import open_model
        from dsmap.runtime.refine.choice import check_refine
        from dsmap.runtime.refine.learnt import check_has_refiner
        from dsmap.runtime.video.addresses import with_passwords
        from dsmap.runtime.video.hardware import OFF, check_hwaccel

    sources = tuple(map(find_source, with_passwords(camera or ["0"], password_env, "--camera-password-env")))
    options = ModelOptions(
        model=model,
        domain=domain,
        backend=backend,
        precision=precision,
        cuda_binding=cuda_binding,
        trust_engines=trust_engines,
        remote=remote,
    )
    bundle = open_model(options.model, options.remote)
    domain = bundle.manifest.domain_named(domain)
    if check_refine(refine) == "learnt":
        check_has_refiner(bundle.manifest, domain)
    request = LiveRequest(
        sources=sources,
        capture=CaptureRequest(size=size, fps=fps),
        hwaccel=check_hwaccel(hwaccel),
        loop=loop if loop is not None else not no_window or bool(frames or seconds),
        bundle=bundle,
        domain=domain,
        backend=backend,
        precision=precision,
        cuda_binding=cuda_binding,
        trust_engines=trust_engines,
        style_spread=style_spread,
        settings=LiveSettings(
            preparation=Preparation(height=height, target_fps=target_fps, mirror=mirror, refine=refine),
            styles=session_styles(bundle.manifest, domain, style or [], seed or []),
            record=record,
            overwrite=overwrite,
            frames=frames,
            seconds=seconds,
            patience=_PATIENCE_WITHOUT_WINDOW if patience is None and no_window else patience,
        ),
        window=not no_window,
        virtual_camera=virtual_camera,
    )
    if (size or fps) and not any(name.kind == "camera" for name in sources):
        raise InputError("--size and --fps are for cameras; files and streams have their own", "use --height to scale")
    if hwaccel != OFF and all(name.kind == "camera" for name in sources):
        raise InputError("--hwaccel is for video files and streams, not for cameras", "leave it out")
    _check_outputs(request, report)
    result = run_live(request, notify=note, on_loaded=partial(_say_what_runs, verbose=verbose), began=began)
    if report:
        write_report(report, result.as_dict(), "check the disk")
    _conclude(result)


def _check_outputs(request: "LiveRequest", report: Path | None) -> None:
    """Check all files before anything is opened. Raises InputError."""
    from dsmap.common.output_files import check_outputs
    from dsmap.runtime.live.recorder import check_recording

    record, closed = request.settings.record, request.bundle.closed_folders
    outputs = {"--record": record, "--report": report}
    check_outputs(outputs, request.input_files, closed=closed, overwrite=request.settings.overwrite)
    if record:
        check_recording(record)


def _say_what_runs(translator: "Translator", *, verbose: bool) -> None:
    say(f"{translator.model_name}: {translator.source} -> {translator.target}")
    say(f"backend: {translator.backend_title}")
    if verbose:
        say(f"  {translator.backend_name}: {translator.backend_description} ({translator.backend_reason})")


def _limit_line(width: int, height: int) -> str:
    """That the model is what takes the time, and what would help: at the smallest height to choose from, nothing."""
    from dsmap.runtime.live.working_height import HEIGHTS

    advice = "; a smaller --height makes it faster" if height > HEIGHTS[0] else ""
    return f"the model is the limit at {width}x{height}{advice}"


def _conclude(result: "LiveReport") -> None:
    """The session in a line, and a way to make a slow one faster; 130 after Ctrl-C, the error when one ended it."""
    if result.statistics.frames or result.error is None:
        say(result.line())
    if result.statistics.busy > _MODEL_BOUND and result.translated_at is not None and result.dropped:
        say(_limit_line(*result.translated_at))
    if result.error is not None:
        raise result.error
    if result.stopped_by == "signal":
        raise typer.Exit(130)


if __name__ == "__main__":
    main()
