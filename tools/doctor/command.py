"""dsmap-doctor: is everything here that the model needs, and what is the command that mends it?

dsmap-doctor                                  numbered checks, one line each
dsmap-doctor --model my-model --report r.json
"""

import sys
from pathlib import Path
from typing import Annotated

from dsmap.tools.doctor.page import DEFAULT_MODEL, look, look_without_typer

try:
    import typer

    from dsmap.tools.shared.cli import Debug, Version, explained, new_app, path_given, run, text_given
    from dsmap.tools.shared.terminal import say
except Exception as error:  # this command alone works without typer, to tell that it is broken
    sys.exit(look_without_typer(error))

app = new_app()


@app.command(
    help="""Look at everything that dsmap uses, and tell the command that mends what is wrong.

    Exit code 0 when all that the model needs works, whatever optional things are not here; else 1.
    """
)
@explained
def doctor(
    model: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", parser=text_given, help="A bundled model, or a bundle of your own.")
    ] = DEFAULT_MODEL,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", parser=path_given, help="Write what was found as JSON.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
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
