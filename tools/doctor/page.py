"""Prints and writes what dsmap-doctor finds, with the standard library alone: typer may be broken."""

import argparse
import platform
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any, Protocol

from dsmap import __version__
from dsmap.common.output_files import check_outputs
from dsmap.common.reports import write_report
from dsmap.common.text import printable, sentence
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.doctor.checkup import CHECKS, CheckResult, DoctorCheck, examine, runs_the_model

DEFAULT_MODEL = "summer-winter"  # as in runtime.models, which needs pydantic
# Of the page, in columns: where titles, words and facts begin.
_WIDTH, _HEAD, _TITLE, _WORD = 80, 8, 18, 10
_FACTS = _HEAD + _TITLE + 1 + _WORD
_COLOURS = {"ok": "green", "failed": "red", "warning": "yellow"}


class Say(Protocol):
    """Prints lines, as `shared.terminal.say` does."""

    def __call__(self, *lines: str, colour: str = "", nl: bool = True) -> None: ...


def look(model: str, report: Path | None, say: Say, *, overwrite: bool) -> bool:
    """Runs the checks, prints each, writes the report. Whether the model runs here; InputError for an unknown one."""
    check_outputs({"--report": report}, closed=[(Path(model), "the model's folder")], overwrite=overwrite)
    if model != DEFAULT_MODEL:
        _check_model_exists(model)

    def begin(number: int, check: DoctorCheck) -> None:
        say(f"[{number:2}/{len(CHECKS)}] {check.title + ' ':.<{_TITLE}} ", nl=False)
        sys.stdout.flush()

    results = []
    for result in examine(model, begin):
        _print_finding(result, say)
        results.append(result)
    runs = runs_the_model(results)
    _print_summary(results, runs, model, say)
    if report is not None:
        write_report(report, _numbers(results, runs, model))
        say(f"report: {report}")
    return runs


def _check_model_exists(model: str) -> None:
    """Raises InputError for a name that is neither a model nor a path; whether it is sound is for the checks."""
    try:
        from dsmap.runtime.bundle.bundled import find_model
    except Exception:  # a package is broken: the checks report which
        return
    if not find_model(model).exists():
        raise InputError(f"{model} does not exist", "Pass a model's name or the folder of a bundle to --model.")


def _print_finding(result: CheckResult, say: Say) -> None:
    """The rest of a check's line: a word, the fact in its column, the command on a line of its own."""
    finding = result.finding
    say(f"{finding.state:<{_WORD}}", colour=_COLOURS.get(finding.state, ""), nl=False)
    lines = textwrap.wrap(finding.fact, _WIDTH - _FACTS, break_on_hyphens=False, break_long_words=False) or [""]
    say(lines[0], *(" " * _FACTS + line for line in lines[1:]))
    if finding.command:
        say(f"{' ' * _HEAD}-> {finding.command}")


def _print_summary(results: list[CheckResult], runs: bool, model: str, say: Say) -> None:
    """Print the verdict, and what to do first."""

    def numbers(state: str) -> str:
        found = [str(result.number) for result in results if result.finding.state == state]
        return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))

    if runs:
        others = numbers("warning")
        say(f"{model} runs here.", colour="green", nl=False)
        say(f" Fix when you need it: {others}." if others else "")
        return
    first = numbers("failed") or numbers("skipped")
    order = ", the first one first" if "and" in first else ""
    say(f"{model} does not run here.", colour="red", nl=False)
    again = "" if model == DEFAULT_MODEL else f" --model {shlex.quote(model)}"
    say(f" Fix {first}{order}; then run dsmap-doctor{again} again.")


def _numbers(results: list[CheckResult], runs: bool, model: str) -> dict[str, Any]:
    return {
        "dsmap": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "model": model,
        "runs_the_model": runs,
        "checks": [result.as_dict() for result in results],
    }


def look_without_typer(error: Exception) -> int:
    """The same command where typer, or a package that it needs, cannot be loaded; returns the exit code."""

    def say(*lines: str, colour: str = "", nl: bool = True) -> None:
        sys.stdout.write("\n".join(map(printable, lines)) + ("\n" if nl else ""))

    parser = argparse.ArgumentParser(prog="dsmap-doctor")
    parser.add_argument("--model", metavar="NAME|FOLDER", default=DEFAULT_MODEL)
    parser.add_argument("--report", metavar="FILE.json", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--debug", action="store_true")
    options = parser.parse_args()
    first = (str(error).splitlines() or [type(error).__name__])[0]
    say(f"No other dsmap command starts: typer cannot be loaded ({first}).")
    try:
        look(options.model, options.report, say, overwrite=options.overwrite)
    except DsmapError as refusal:
        sys.stderr.write(f"error: {printable(refusal.fact)}\n{printable(sentence(refusal.advice))}\n")
        return refusal.exit_code
    except KeyboardInterrupt:
        return 130
    return 1
