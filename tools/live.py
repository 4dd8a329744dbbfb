"""`dsmap-live`: a camera, translated as it comes.

    dsmap-live --domain winter                                        # the first camera, in a window
    dsmap-live --domain winter --camera rtsp://door.local/stream --record door.mp4
    dsmap-live --domain winter --camera holiday.mp4 --no-window --frames 100 --report report.json

Nothing heavy is imported at the top: `--help` must be quick.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmap.common.reports import write_report
from dsmap.errors import InputError
from dsmap.tools.shared import cli
from dsmap.tools.shared.terminal import note, say

if TYPE_CHECKING:
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.live.capture import Capture
    from dsmap.runtime.live.report import LiveReport
    from dsmap.runtime.live.run import LiveSettings
    from dsmap.runtime.live.source import CaptureRequest, SourceName
    from dsmap.runtime.live.styles import Style
    from dsmap.runtime.live.translation import LoadTranslator
    from dsmap.runtime.live.virtual_camera import VirtualCamera
    from dsmap.runtime.live.window import Window
    from dsmap.runtime.translator import Translator

app = cli.new_app()

_UNWATCHED_PATIENCE = 60.0  # seconds; in front of a window somebody decides
_USUAL_FPS = 30.0
_SLOW = 0.9  # busy share from which the network is what holds frames up


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
    help="""Translate a camera's image to another domain, as it comes.

    Keys in the window: q or Esc quits, h shows all keys. A file stands in for a camera, at its own rate.

    
    dsmap-live --domain winter
    dsmap-live --domain winter --camera rtsp://door.local/stream --record door.mp4
    """
)
@cli.explained
def live(
    domain: cli.Domain,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            "--camera",
            metavar="<camera>",
            parser=cli.text_given,
            help="A camera's number (0) or name, an address (rtsp://, http://, ...) or a video file; twice for two.",
        ),
    ] = None,
    password_env: Annotated[
        str | None,
        typer.Option(
            "--camera-password-env",
            metavar="NAME",
            parser=cli.text_given,
            help="Take the password of an address (rtsp://user@host/...) from this environment variable.",
        ),
    ] = None,
    list_cameras: Annotated[
        bool,
        typer.Option("--list-cameras", help="List the cameras and exit.", callback=_list_cameras, is_eager=True),
    ] = False,
    model: cli.Model = "summer-winter",
    style: Annotated[
        list[str] | None,
        typer.Option(
            "--style",
            metavar="STYLE",
            parser=cli.text_given,
            help="A style of the model by its name, or an image whose style to take; may be repeated.",
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", min=0, help="A style at random, by this number; may be repeated.")
    ] = None,
    size: Annotated[
        Any, typer.Option("--size", metavar="<WxH>", parser=size_given, help="The image size to ask the camera for.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", min=1, max=1000, help="The frames per second to ask the camera for.")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", min=16, max=8192, help="Translate at this height; the aspect is kept.")
    ] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Swap left and right, as a mirror does.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record", metavar="<path>", parser=cli.path_given, help="Record to this .mp4, .mkv or .mov (no audio)."
        ),
    ] = None,
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", help="Be a camera for other programs (needs pyvirtualcam).")
    ] = False,
    no_window: Annotated[bool, typer.Option("--no-window", help="Show nothing: no display is needed.")] = False,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Stop after this many frames.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Stop this long after the first frame.")
    ] = None,
    loop: Annotated[
        bool | None,
        typer.Option(
            "--loop/--no-loop",
            help="Start a file over at its end; the default, unless nothing else would end the command.",
        ),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option("--patience", min=0, help="Seconds to wait for a lost camera; for ever with a window, else 60."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recording or report that exists.")] = False,
    report: cli.TimesReport = None,
    backend: cli.Backend = "auto",
    precision: cli.Precision = "auto",
    cuda_binding: cli.CudaBinding = "auto",
    trust_engines: cli.TrustEngines = False,
    debug: cli.Debug = False,
    version: cli.Version = False,
) -> None:
    began = time.monotonic()
    from dsmap.runtime.live.open_source import find_source
    from dsmap.runtime.live.run import LiveSettings
    from dsmap.runtime.live.source import CaptureRequest
    from dsmap.runtime.live.translation import Preparation
    from dsmap.runtime.video.addresses import with_passwords

    names = [find_source(text) for text in with_passwords(camera or ["0"], password_env, "--camera-password-env")]
    bundle = _open_bundle(model)
    styles = _styles(style or [], seed or [], bundle, domain)
    settings = LiveSettings(
        preparation=Preparation(height=height, mirror=mirror),
        styles=styles,
        record=record,
        overwrite=overwrite,
        frames=frames,
        seconds=seconds,
        patience=_UNWATCHED_PATIENCE if patience is None and no_window else patience,
    )
    if (size or fps) and not any(name.kind == "camera" for name in names):
        raise InputError("--size and --fps are for cameras; files and streams have their own", "use --height to scale")
    _check_outputs(names, styles, bundle.folder, record, report, overwrite=overwrite)
    window = _window(no_window)
    virtual = _virtual_camera(fps or _USUAL_FPS) if virtual_camera else None
    endless = loop if loop is not None else not no_window or bool(frames or seconds)
    with _captures(names, CaptureRequest(size=size, fps=fps), loop=endless) as cameras:

        def load(target: str) -> "Translator":
            from dsmap.runtime.translator import Translator

            return Translator.load(
                bundle,
                domain=target,
                backend=backend,
                precision=precision,
                cuda_binding=cuda_binding,
                trust_engines=trust_engines,
            )

        result = _run(settings, cameras, load, domain, window, virtual, began)
    if report:
        write_report(report, result.as_dict(), "check the disk")
    _conclude(result)


def _open_bundle(model: str) -> "Bundle":
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import find_model

    return Bundle.open(find_model(model))


def _styles(texts: list[str], seeds: list[int], bundle: "Bundle", domain: str) -> "tuple[Style, ...]":
    """What --style and --seed ask for, and the other styles of the model. Raises InputError."""
    from dsmap.runtime.live.styles import style_list
    from dsmap.runtime.styles.resolver import StyleResolver

    resolver = StyleResolver(bundle.manifest, domain)
    given = [*(resolver.resolve(text, "--style") for text in texts), *map(resolver.resolve, seeds)]
    return tuple(style_list(given, {name: style.named for name, style in bundle.manifest.styles.items()}))


def _check_outputs(
    names: "list[SourceName]",
    styles: "tuple[Style, ...]",
    bundle: Path,
    record: Path | None,
    report: Path | None,
    *,
    overwrite: bool,
) -> None:
    """All that can be wrong with files, before anything is opened. Raises InputError."""
    from dsmap.common.output_files import check_outputs
    from dsmap.runtime.live.recorder import check_recording

    inputs = [(style.image, "the --style image") for style in styles if style.image is not None]
    inputs += [(Path(name.text), "the --camera file") for name in names if name.kind == "file"]
    closed = [(bundle, "the model's folder")]
    check_outputs({"--record": record, "--report": report}, inputs, closed=closed, overwrite=overwrite)
    if record:
        check_recording(record)


def _window(no_window: bool) -> "Window":
    from dsmap.runtime.live.window import CvWindow, NoWindow

    if no_window:
        return NoWindow()
    from dsmap.runtime.live.display import check_display

    check_display()
    return CvWindow("dsmap-live")


def _virtual_camera(fps: float) -> "VirtualCamera":
    from dsmap.runtime.live.virtual_camera import VirtualCamera

    return VirtualCamera(fps)


@contextlib.contextmanager
def _captures(
    names: "list[SourceName]", asked: "CaptureRequest", *, loop: bool
) -> "Iterator[list[tuple[SourceName, Capture]]]":
    """The cameras, opening while the model loads."""
    from dsmap.runtime.live.capture import Capture
    from dsmap.runtime.live.open_source import opener

    cameras = [(name, Capture(name.shown, opener(name, asked, loop=loop), note)) for name in names]
    for _, capture in cameras:
        capture.start()
    try:
        yield cameras
    finally:
        for _, capture in cameras:
            capture.stop()


def _run(
    settings: "LiveSettings",
    cameras: "list[tuple[SourceName, Capture]]",
    load: "LoadTranslator",
    domain: str,
    window: "Window",
    virtual: "VirtualCamera | None",
    began: float,
) -> "LiveReport":
    from dsmap.runtime.live.run import LiveRun
    from dsmap.runtime.live.translation import Direction

    direction = Direction.load(load, domain, settings.styles)
    for _, capture in cameras:
        if capture.error is not None:
            direction.translator.close()
            raise capture.error
    say(*_header(direction.translator))
    run = LiveRun(settings, cameras, direction, load, window=window, notify=note, virtual_camera=virtual, began=began)
    return run.run()


def _header(translator: "Translator") -> list[str]:
    return [
        f"{translator.model_name}: {translator.source} -> {translator.target}",
        f"backend: {translator.backend_name}, {translator.backend_description} ({translator.backend_reason})",
    ]


def _conclude(result: "LiveReport") -> None:
    """The session in a line, and what could be done about a slow one; 130 after Ctrl-C, the error when one ended it."""
    if result.statistics.frames or result.error is None:
        say(result.line())
    if result.statistics.busy > _SLOW and result.size is not None and result.dropped:
        width, height = result.size
        say(f"the model is the limit at {width}x{height}; a smaller --height makes it faster")
    if result.error is not None:
        raise result.error
    if result.stopped_by == "signal":
        raise typer.Exit(130)


if __name__ == "__main__":
    main()
