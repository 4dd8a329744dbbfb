"""Every check and measurement that needs an NVIDIA GPU, in one command.

python -m dsmap.tools.gpu_check                      all of it, in about eight minutes; the report in gpu-check/
python -m dsmap.tools.gpu_check --model my-model --seconds 1800 --out report
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dsmap.errors import DsmapError, InputError
from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run
from dsmap.tools.shared.terminal import say

app = new_app()


@app.command(help="Run every check and benchmark that needs a GPU, and write gpu-check.md and gpu-check.json.")
@explained
def gpu_check(
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=path_given, metavar="FOLDER", help="For the report.")
    ] = Path("gpu-check"),
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="A bundled model or a bundle; may be repeated.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="No step begins after that; the most telling come first.")
    ] = 480.0,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="Leave out steps whose name has it; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report in the folder.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    from dsmap.common.output_files import check_folder_writable, check_outputs
    from dsmap.common.reports import write_report, write_text
    from dsmap.export.bundle_folder import check_bundle_folder
    from dsmap.runtime.backends.base import need_gpu
    from dsmap.runtime.bundle.bundle import Bundle
    from dsmap.runtime.bundle.bundled import DEFAULT_MODEL, find_model
    from dsmap.tools.gpu_check.report import markdown, verdict
    from dsmap.tools.gpu_check.run import PAPER, Run, facts, plan, run_plan

    if seconds <= 0:
        raise InputError(f"--seconds is {seconds:g}", "Pass a positive number, such as 480.")
    bundles = [(Bundle.read(find_model(name)), find_model(name)) for name in model or [DEFAULT_MODEL]]
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file", "Pass a folder.")
    out.mkdir(parents=True, exist_ok=True)
    check_folder_writable(out, "--out")
    page, report = out / "gpu-check.md", out / "gpu-check.json"
    models = [(folder, "the model's folder") for _, folder in bundles]
    for path in (page, report):
        check_outputs({"--out": path}, closed=models, overwrite=overwrite)
    check_bundle_folder(out / PAPER, overwrite=overwrite, option="--out")

    command = "python -m dsmap.tools.gpu_check " + shlex.join(sys.argv[1:])
    check = Run(command=command.strip(), facts=facts())

    def keep() -> None:
        write_report(report, check.as_dict())
        write_text(page, markdown(check))

    try:
        need_gpu()
    except DsmapError as error:
        check.no_gpu = error.fact
        keep()
        raise
    keep()
    steps = plan([(bundle.manifest.name, folder.absolute()) for bundle, folder in bundles], out / PAPER)
    run_plan(check, steps, seconds, skip or [], say, keep)
    say(f"{verdict(check)} Written to {out / 'gpu-check.md'} and gpu-check.json")
    if not check.passed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    run(app)
