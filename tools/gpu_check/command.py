"""The options of the GPU check."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dsmap.errors import DsmapError, InputError
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run
from dsmap.tools.shared.panels import OUTPUT
from dsmap.tools.shared.terminal import say

app = new_app()


@app.command(
    help="Check the GPU backends against the CPU and measure their speed; write gpu-check.md and gpu-check.json.",
    epilog="python -m dsmap.tools.gpu_check\npython -m dsmap.tools.gpu_check --model my-model --out report",
)
@explained
def gpu_check(
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Bundled model or bundle; repeatable.")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Begin no step after this time.")] = 480.0,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Skip steps with this word in their title; repeatable.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", parser=path_given, metavar="FOLDER", help="Folder for the report.", rich_help_panel=OUTPUT
        ),
    ] = Path("gpu-check"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing report.", rich_help_panel=OUTPUT)
    ] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    request = GpuCheckRequest(
        models=tuple(model or ()), seconds=seconds, skip=tuple(skip or ()), out=out.absolute(), overwrite=overwrite
    )
    if not run_check(request):
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class GpuCheckRequest:
    """What is to be checked, and where the report goes."""

    models: tuple[str, ...]
    """Names or folders; empty is the default model."""
    seconds: float
    """No step begins after this time."""
    skip: tuple[str, ...]
    """Words of titles of steps to leave out."""
    out: Path
    overwrite: bool

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise InputError(f"--seconds is {self.seconds:g}", "Pass a positive number, such as 480.")


def run_check(request: GpuCheckRequest) -> bool:
    """Whether every step that ran passed. The report is written anew after each step.

    Raises InputError for unknown models and an unusable folder, DsmapError without a GPU (the report says so too).
    """
    from dsmap.common.reports import write_report, write_text
    from dsmap.runtime.backends.base import need_gpu
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import DEFAULT_MODEL, find_model
    from dsmap.tools.gpu_check.plan import GpuCheckRun, facts, plan
    from dsmap.tools.gpu_check.report import markdown, verdict
    from dsmap.tools.gpu_check.run import run_plan

    bundles = [Bundle.read(find_model(name)) for name in request.models or (DEFAULT_MODEL,)]
    page, report = _report_files(request, [bundle.folder for bundle in bundles])
    command = "python -m dsmap.tools.gpu_check " + shlex.join(sys.argv[1:])
    check = GpuCheckRun(command=command.strip(), facts=facts())

    def save() -> None:
        write_report(report, check.as_dict())
        write_text(page, markdown(check))

    try:
        need_gpu()
    except DsmapError as error:
        check.no_gpu = error.fact
        save()
        raise
    save()
    steps = plan([(bundle.manifest.name, bundle.folder.absolute()) for bundle in bundles])
    run_plan(check, steps, request.seconds, request.skip, say, save)
    say(f"{verdict(check)} Written to {page} and {report.name}")
    return check.passed


def _report_files(request: GpuCheckRequest, models: list[Path]) -> tuple[Path, Path]:
    """The Markdown and the JSON file, which may be written."""
    from dsmap.common.output_files import check_folder_writable, check_outputs

    if request.out.exists() and not request.out.is_dir():
        raise InputError(f"--out {request.out} is a file", "Pass a folder.")
    request.out.mkdir(parents=True, exist_ok=True)
    check_folder_writable(request.out, "--out")
    page, report = request.out / "gpu-check.md", request.out / "gpu-check.json"
    for path in (page, report):
        closed = [(folder, "the model's folder") for folder in models]
        check_outputs({"--out": path}, closed=closed, overwrite=request.overwrite)
    return page, report


def main() -> None:
    """Entry point."""
    run(app)
