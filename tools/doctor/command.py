"""The options of dsmap-doctor."""

import sys
from pathlib import Path
from typing import Annotated

from dsmap.tools.doctor.page import DEFAULT_MODEL, look, look_without_typer

try:
    import typer

    from dsmap.tools.shared.cli import Debug, Model, Version, explained, new_app, path_given, run
    from dsmap.tools.shared.terminal import say
except Exception as error:  # only this command works without typer, to report that it is broken
    sys.exit(look_without_typer(error))

app = new_app()


@app.command(
    help="""Check what is installed and what is missing, and show the command that fixes each problem.

    Exit code 0 when everything that the model needs works, even if optional things are missing; else 1, or 2 for
    wrong input.
    """,
    epilog="dsmap-doctor\ndsmap-doctor --model my-model --report doctor.json",
)
@explained
def doctor(
    model: Model = DEFAULT_MODEL,
    report: Annotated[Path | None, typer.Option(metavar="FILE", parser=path_given, help="Write a JSON report.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    if not look(model, report, say, overwrite=overwrite):
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    try:
        run(app)
    except Exception as error:  # typer loads pydantic only when it reads the arguments
        sys.exit(look_without_typer(error))
