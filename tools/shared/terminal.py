"""The one place where commands print: on stdout what they did, on stderr notes and errors.

File names, stream tags, server replies and names in bundles come from anybody. Here they lose whatever could move the
cursor, change colours, forge a line of ours (newlines too: a line is an argument) or show a password.
"""

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import typer

from dsmap.common.text import printable, sentence, without_passwords

_before: Callable[[], None] | None = None
_after: Callable[[str], None] | None = None


def follow_lines(before: Callable[[], None] | None, after: Callable[[str], None] | None) -> None:
    """From now on call `before` ahead of each line that is printed, and `after` with a whole line of `say`."""
    global _before, _after
    _before, _after = before, after


def say(*lines: object, colour: str = "", nl: bool = True) -> None:
    """Print each of `lines` on stdout. Without `nl` the last one stays open.

    Raises BrokenPipeError when the reader has gone. A closed terminal is not an error: the work goes on.
    """
    try:
        for number, line in enumerate(lines or ("",), start=1):
            whole = nl or number < len(lines)
            _print(line, sys.stdout, colour=colour, nl=whole)
            if _after is not None and whole:
                _after(str(line))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        _send_nowhere(sys.stdout)


def note(*lines: object) -> None:
    """Print each of `lines` on stderr. Never raises: the work goes on if nobody reads it."""
    for line in lines:
        _on_stderr(line)


def note_beside(line: object, stream: TextIO | None) -> None:
    """As `note`, for what comes from beside the work: nobody who follows the lines hears of it.

    `stream` is stderr as it was before the work, which may have redirected it meanwhile to silence a library.
    """
    _on_stderr(line, stream, followed=False)


def report_error(fact: object, advice: object, *more: object) -> None:
    """Print `error: FACT`, then `more` lines of it, then the advice as a sentence, on stderr. Never raises."""
    _on_stderr("error: ", colour="red", nl=False)  # plain where stderr is no terminal
    note(fact, *more, sentence(str(advice)))


def report_stop(by: str, advice: object) -> None:
    """Print that the work was stopped, which is no error, by whom, and what to do, on stderr. Never raises."""
    note(f"stopped by {by} before the end", sentence(str(advice)))


def show_traceback() -> None:
    """Print the traceback of the error that is being handled, for --debug; its own message follows from elsewhere."""
    error = sys.exc_info()[1]
    if error is not None:
        lines = traceback.format_exception(error)
        own = len(traceback.format_exception_only(error))
        note(*"".join(lines[:-own]).splitlines())


@functools.cache
def show_debug_lines() -> None:
    """Print what the package logs from now on, for --debug: such as where the nodes of a graph run."""
    import logging

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    logger = logging.getLogger("dsmap")
    logger.addHandler(Notes())
    logger.setLevel(logging.DEBUG)


class Drawing:
    """stdout for what draws by itself, such as bars: a terminal that was closed takes everything and shows nothing."""

    def __init__(self) -> None:
        self._stream = sys.stdout

    def write(self, text: str) -> int:
        """See `TextIO`."""
        try:
            return self._stream.write(text)
        except OSError:
            _send_nowhere(self._stream)
            return len(text)

    def flush(self) -> None:
        """See `TextIO`."""
        try:
            self._stream.flush()
        except OSError:
            _send_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def shown(text: object) -> str:
    """`text` as it may be shown on one line; for progress bars, which print by themselves."""
    return printable(without_passwords(str(text)))


def _on_stderr(
    line: object, stream: TextIO | None = None, *, colour: str = "", nl: bool = True, followed: bool = True
) -> None:
    stream = stream or sys.stderr
    try:
        _print(line, stream, colour=colour, nl=nl, followed=followed)
    except (OSError, ValueError):  # ValueError: it is closed
        _send_nowhere(stream)


def _print(line: object, stream: TextIO | None, *, colour: str, nl: bool, followed: bool = True) -> None:
    if followed and _before is not None:
        _before()
    if stream is None:  # a program without a console
        return
    typer.secho(shown(line), file=stream, fg=colour or None, bold=colour == "red" or None, nl=nl)


def _send_nowhere(stream: TextIO) -> None:
    """What is still in its buffer would fail again while Python ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):  # it has no file
        return
