"""What every command shares: how errors are told, `--debug` and `--version`.

    app = new_app()

    @app.command()
    @explained
    def train(config: str, debug: Debug = False, version: Version = False) -> None: ...

    def main() -> None:
        app()

Errors go to stderr as two lines, fact and advice. Exit codes: 2 wrong input, 1 failure, 130 Ctrl-C. Light to import.
"""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from dsmap import __version__
from dsmap.errors import DsmapError

P = ParamSpec("P")


# What the base install lacks, and the extra that brings it.
_EXTRAS = {"torch": "train,export", "yaml": "train,export", "safetensors": "train,export", "onnx": "export",
           "onnxscript": "export", "onnxruntime": "cpu"}  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dsmap {__version__}")
        raise typer.Exit


Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
]


def new_app() -> typer.Typer:
    """A typer app with plain, quick help (rich's takes a fifth of a second) and Python's own tracebacks."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def explained(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a command that has a `debug: Debug` parameter: errors become two lines and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _never_fail_on_names()
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            tell("stopped before the end", "run the same command to start again")
            raise typer.Exit(130) from None
        except DsmapError as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            tell(error.fact, error.advice)
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
                tell(f"{error.name} is not installed", f"install it with pip install 'dsmap[{_EXTRAS[error.name]}]'")
                raise typer.Exit(1) from None
            tell(f"unexpected {type(error).__name__}: {_first_line(error)}", "run again with --debug to see where")
            raise typer.Exit(1) from None

    return run


def tell(fact: str, advice: str) -> None:
    """Print `error: FACT` and the advice on stderr."""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)  # plain where stderr is no terminal
    typer.echo(fact, err=True)
    typer.echo(advice, err=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _never_fail_on_names() -> None:
    """File names may hold bytes that the terminal's encoding does not know."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
