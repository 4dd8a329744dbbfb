"""`dsmap-video`: translate a video, a picture or a folder of pictures to another domain.

    dsmap-video holiday.mp4 --domain winter                          # holiday-winter.mp4 beside the input
    dsmap-video holiday.mp4 --domain winter --style snow.jpg --side-by-side -o compare.mp4
    dsmap-video photos/ --domain summer --height 480 --report report.json

Nothing heavy is imported at the top: `--help` must be quick.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsmap.errors import DsmapError, InputError
from dsmap.tools import _cli

if TYPE_CHECKING:
    from dsmap.runtime.job_report import InputFacts, JobReport, Progress
    from dsmap.runtime.translator import Translator

app = _cli.new_app()


def main() -> None:
    """Entry point of the command."""
    _cli.run(app)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done, with every name resolved."""

    kind: Literal["video", "picture", "folder"]
    source: Path
    output: Path
    report: Path | None
    height: int | None
    side_by_side: bool
    overwrite: bool


@app.command()
@_cli.explained
def video(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", parser=_cli.path_given, help="A video, a picture or a folder of pictures."),
    ],
    domain: Annotated[str, typer.Option("--domain", "-d", help="The domain to translate to, for example winter.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            parser=_cli.path_given,
            help="Result: .mp4, .mkv or .mov; .png, .jpg or .webp; or a folder.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="<str>", parser=_cli.text_given, help="A model's name, or its folder."),
    ] = "summer-winter",
    style: Annotated[
        Path | None,
        typer.Option("--style", metavar="<path>", parser=_cli.path_given, help="A picture whose style to take."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draw a style at random, by this number.")] = None,
    height: Annotated[
        int | None, typer.Option("--height", min=16, max=8192, help="Translate at this height; the aspect is kept.")
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Input on the left, result on the right.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="<path>", parser=_cli.path_given, help="Write numbers and times to this JSON file."
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="What runs the network; auto takes the first that runs here.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or int8, where the model has it; auto takes what suits the backend.")
    ] = "auto",
    debug: _cli.Debug = False,
    version: _cli.Version = False,
) -> None:
    """Translate a video, a picture or a folder of pictures to another domain.

    Audio is copied, every timestamp is kept, video comes out as H.264. The default style is the domain's mean.

    \b
    dsmap-video holiday.mp4 --domain winter
    dsmap-video photos/ --domain summer --height 480 -o summer-photos
    """
    job = _plan(source, domain, output, report, height=height, side_by_side=side_by_side, overwrite=overwrite)
    _check_names(job, style, model)
    facts = _check(job)
    style_source = _style(style, seed)
    translator = _load(model, domain=domain, backend=backend, style=style_source, precision=precision)
    if facts.width:  # pictures of a folder: each before its turn
        translator.check_size(facts.height, facts.width)
    typer.echo(_header(translator, job, facts))
    result = _run(job, translator, facts)
    if job.report:
        _write_report(job.report, result, translator)
    _conclude(result)


def _plan(
    source: Path,
    domain: str,
    output: Path | None,
    report: Path | None,
    *,
    height: int | None,
    side_by_side: bool,
    overwrite: bool,
) -> Job:
    from dsmap.images import PICTURE_SUFFIXES
    from dsmap.runtime.output_files import default_output

    if not source.exists():
        raise InputError(f"{source} does not exist", "check the spelling and the folder")
    kind: Literal["video", "picture", "folder"] = "video"
    if source.is_dir():
        kind = "folder"
    elif source.suffix.lower() in PICTURE_SUFFIXES:
        kind = "picture"
    default = default_output(source, domain, {"video": ".mp4", "picture": ".png", "folder": ""}[kind])
    if output is None:
        output = default
    elif output.is_dir() and kind != "folder":
        output = output / default.name
    return Job(
        kind=kind,
        source=source,
        output=output,
        report=report,
        height=height,
        side_by_side=side_by_side,
        overwrite=overwrite,
    )


def _check_names(job: Job, style: Path | None, model: str) -> None:
    """No output may be an input or another output: --overwrite is for earlier results. Raises InputError."""
    from dsmap.images import list_pictures
    from dsmap.runtime.models import find_model
    from dsmap.runtime.output_files import check_kept_apart, identity
    from dsmap.runtime.picture_jobs import written_name

    pictures = list_pictures(job.source) if job.kind == "folder" else []
    named = [(style, "the --style picture")] if style is not None else []
    named += [(path, "a picture of the input folder") for path in pictures]
    named += [(job.source, "the input folder itself" if job.kind == "folder" else "the input itself")]
    inputs = {identity(path): name for path, name in named}
    results = [job.output, *(job.output / written_name(path) for path in pictures)]
    bundle = find_model(model)
    for result in results:
        check_kept_apart(result, inputs, bundle, option="-o")
    if job.report:
        check_kept_apart(job.report, inputs, bundle, option="--report")
        if identity(job.report) == identity(job.output):
            raise InputError("--report and -o name the same file", "give the report another name")
        if identity(job.report) in map(identity, results):
            raise InputError(f"{job.report} is the name of a result", "give the report another name")


def _check(job: Job) -> "InputFacts":
    """All that can be wrong, before the model is loaded."""
    from dsmap.runtime.jobs import check_video
    from dsmap.runtime.output_files import check_output_file
    from dsmap.runtime.picture_jobs import check_folder, check_picture

    if job.report:
        check_output_file(job.report, job.source, overwrite=job.overwrite, option="--report")
    if job.kind == "folder":
        return check_folder(job.source, job.output, overwrite=job.overwrite)
    check = check_video if job.kind == "video" else check_picture
    return check(job.source, job.output, height=job.height, overwrite=job.overwrite)


def _style(style: Path | None, seed: int | None) -> "int | Path | None":
    if style is not None and seed is not None:
        raise InputError("--style and --seed cannot be used together", "choose one: a picture's style, or a random one")
    if style is not None:
        from dsmap.images import read_picture_rgb

        read_picture_rgb(style)  # before the model loads: it raises when the picture cannot be read
    return style if style is not None else seed


def _load(model: str, *, domain: str, backend: str, style: "int | Path | None", precision: str) -> "Translator":
    from dsmap.runtime.translator import Translator

    return Translator.load(model, domain=domain, backend=backend, style=style, precision=precision)


def _header(translator: "Translator", job: Job, facts: "InputFacts") -> str:
    size = f"{facts.width}x{facts.height}" if facts.width else "each at its own size"
    count = f", {facts.frames} {'frames' if job.kind == 'video' else 'pictures'}" if (facts.frames or 0) > 1 else ""
    audio = f", {facts.audio_streams} audio copied" if facts.audio_streams else ""
    lines = [
        f"{translator.model_name}: {translator.source} -> {translator.target}, {size}{count}{audio}",
        f"backend: {translator.backend_name}, {translator.backend_description} ({translator.backend_reason})",
    ]
    if facts.left_out:
        lines.append(f"left out, as the output has no place for them yet: {', '.join(facts.left_out)}")
    return "\n".join(lines)


def _run(job: Job, translate: "Translator", facts: "InputFacts") -> "JobReport":
    from dsmap.runtime.jobs import translate_video
    from dsmap.runtime.picture_jobs import translate_folder, translate_picture

    options: dict[str, Any] = {"height": job.height, "side_by_side": job.side_by_side, "overwrite": job.overwrite}
    if job.kind == "picture":
        return translate_picture(job.source, job.output, translate, **options)
    run: Callable[..., JobReport] = translate_video if job.kind == "video" else translate_folder
    with _progress(facts.frames) as progress:
        return run(job.source, job.output, translate, **options, progress=progress)


@contextlib.contextmanager
def _progress(expected: int | None) -> "Iterator[Progress | None]":
    """A bar with frames per second and time left; nothing when the output is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[fps]} fps"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=expected, fps="-")

        def update(done: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=done, total=max(done, total) if total else None, fps=f"{speed:.1f}" if speed else "-"
            )

        yield update


def _write_report(path: Path, result: "JobReport", translator: "Translator") -> None:
    about = {
        "model": translator.model_name,
        "source": translator.source,
        "target": translator.target,
        "backend": translator.backend_name,
        "backend_description": translator.backend_description,
        "backend_reason": translator.backend_reason,
        "precision": translator.precision,
    }
    try:
        path.write_text(json.dumps(about | result.as_dict(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DsmapError(
            f"the report {path} could not be written: {error.strerror}", "the result itself is done"
        ) from error


def _conclude(result: "JobReport") -> None:
    """Say where the result is, and what is wrong with it; exit code 130 or 1 when it is not whole."""
    if result.frames == 0 and result.interrupted:
        _cli.tell("stopped before the first frame was done", "nothing was written")
        raise typer.Exit(130)
    typer.echo(
        f"{result.output}: {result.frames} of {result.frames_expected or result.frames} done in {result.seconds:.1f} s"
        f" ({result.fps:.1f} per second)"
    )
    if result.interrupted:
        _cli.tell("stopped before the end", f"{result.output} holds what was done")
        raise typer.Exit(130)
    if result.failed:
        names = "\n".join(result.failed)
        _cli.tell(
            f"{len(result.failed)} of {result.frames_expected} pictures could not be translated:\n{names}",
            "replace or remove them and run again",
        )
        raise typer.Exit(1)
    if not result.complete:
        _cli.tell(
            f"the input is damaged or cut off: {result.frames} of {result.frames_expected} frames could be translated",
            f"{result.output} holds them and plays; get a whole copy of the input for the rest",
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
