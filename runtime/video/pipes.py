"""Standard input and output as places of videos: `-`, as in `dsmap video - -o -`.

The video has the real standard output for itself: from the moment that it is asked for, whatever else this process
prints, libraries included, goes to standard error.
"""

import functools
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from dsmap.errors import InputError

PIPE = "-"
PIPE_SUFFIX = ".mkv"
"""Of the container that goes to standard output: Matroska."""
INPUT_NAME, OUTPUT_NAME = "standard input", "standard output"

_POLL = 0.1  # seconds after which whoever waits looks whether it should stop
_WRITTEN_AT_ONCE = 4096  # bytes that a pipe takes without blocking when it takes any; PIPE_BUF on Linux
_POLLS = sys.platform != "win32"  # where pipes cannot be waited for, only read and written


def is_piped_in(source: str | Path) -> bool:
    """Whether `source` is standard input. A file of that name is written `./-`."""
    return source == PIPE


def is_piped_out(output: Path) -> bool:
    """Whether `output` is standard output."""
    return output == Path(PIPE)


def suffix_of(output: Path) -> str:
    """The suffix of a result, by which its container is chosen."""
    return PIPE_SUFFIX if is_piped_out(output) else output.suffix


@functools.cache
def claim_output() -> int:
    """The file descriptor of the real standard output. From now on everything that is printed goes to stderr.

    Raises InputError where it is a terminal.
    """
    advice = "pipe it on: ... | ffplay -, or name a file with -o"
    _check_piped(sys.stdout, OUTPUT_NAME, "which cannot show a video", advice)
    sys.stdout.flush()
    claimed = os.dup(1)
    os.dup2(2, 1)
    _binary(claimed)
    return claimed


@functools.cache
def claim_input() -> int:
    """The file descriptor of the real standard input. From now on nothing else in this process reads it.

    Raises InputError where it is a terminal.
    """
    _check_piped(sys.stdin, INPUT_NAME, "not a video", "pipe a video in: ffmpeg ... -f matroska - | ...")
    claimed = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _binary(claimed)
    return claimed


def _check_piped(stream: TextIO | None, name: str, terminal: str, advice: str) -> None:
    """Raises InputError where `stream` is a terminal, in these words, or closed."""
    if stream is None or stream.closed:
        raise InputError(f"{name} is closed", advice)
    if stream.isatty():
        raise InputError(f"{name} is a terminal, {terminal}", advice)


def _binary(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(descriptor, os.O_BINARY)


class PipeInput:
    """Standard input as a file that PyAV reads: what has come is given at once. It cannot seek."""

    def __init__(self) -> None:
        self._descriptor = claim_input()
        self.begin = b""
        """The first bytes, for messages."""
        self._cancelled = False

    def read(self, size: int) -> bytes:
        """At least one byte and at most `size`; nothing at the end, and after `cancel`."""
        while not self._cancelled:
            if _POLLS and not select.select([self._descriptor], [], [], _POLL)[0]:
                continue
            data = os.read(self._descriptor, size)
            if len(self.begin) < 16:
                self.begin += data[:16]
            return data
        return b""

    def cancel(self) -> None:
        """End a `read` that waits, and give nothing from now on. Any thread may call it."""
        self._cancelled = True


class StalledError(OSError):
    """A stop was asked for, and the reader of a pipe takes nothing. An OSError, as PyAV passes no interrupts on."""


class PipeOutput:
    """Standard output as a file that PyAV writes. Raises BrokenPipeError when the reader has gone.

    `stopped`: asked while the reader takes nothing; StalledError is raised then. It cannot seek.
    """

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._descriptor, self._stopped = claim_output(), stopped

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        rest = memoryview(data)
        while rest:
            if _POLLS and not select.select([], [self._descriptor], [], _POLL)[1]:
                if self._stopped():
                    raise StalledError(f"nobody reads {OUTPUT_NAME}")
                continue
            rest = rest[os.write(self._descriptor, rest[:_WRITTEN_AT_ONCE] if _POLLS else rest) :]
        return len(data)
