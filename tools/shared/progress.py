"""Signs that work goes on: progress bars on a terminal, and seconds after a line that announces a long step."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO, TypeAlias, cast

from dsmap.tools.shared.terminal import Drawing, follow_lines, note, note_beside, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

_DRAWS_ANYWAY = ("FORCE_COLOR", "TTY_COMPATIBLE")  # variables
_SILENT = 10.0  # seconds after which a step without a terminal says that it goes on; then every minute


Clock: TypeAlias = Literal["left", "elapsed", "none"]


class Bar:
    """One bar at a time; every text in it, and above it, is made printable."""

    def __init__(self, drawn: "Progress") -> None:
        self._drawn = drawn
        self._task: Any = None

    def begin(self, title: str = "", *, total: float | None, completed: int = 0, text: str = "") -> None:
        """Show a new bar in place of the one before."""
        if self._task is not None:
            self._drawn.remove_task(self._task)
        self._task = self._drawn.add_task(shown(title), total=total, completed=completed, text=shown(text))

    def update(self, completed: int, *, total: float | None = None, text: str | None = None) -> None:
        """So many are done; `total` and `text` stay as they are where they are None."""
        changed: dict[str, Any] = {} if total is None else {"total": total}
        if text is not None:
            changed["text"] = shown(text)
        self._drawn.update(self._task, completed=completed, **changed)

    def say(self, line: str) -> None:
        """Print a line above it."""
        self._drawn.console.print(shown(line), soft_wrap=True, highlight=False, markup=False)


@contextmanager
def bar(
    *,
    title: bool = False,
    count: bool = True,
    text: bool = False,
    clock: Clock = "left",
    width: int = 40,
    transient: bool = True,
) -> Iterator[Bar | None]:
    """A bar of `width` columns; None where there is no terminal.

    It may have a title before it, the count and a text after it, and `clock`: the time left or passed, or none. A
    `transient` bar disappears at the end of the block, however it ends.
    """
    console = _terminal()
    if console is None:
        with _steps_hidden():
            yield None
        return
    from rich.progress import Progress

    columns = _columns(title=title, count=count, text=text, clock=clock, width=width)
    with _steps_hidden(), Progress(*columns, console=console, transient=transient) as drawn:
        yield Bar(drawn)


class Steps:
    """Within the block, shows that work goes on after a printed line that ends in " ...", until the next line.

    On a terminal a sign turns beside the seconds since then; elsewhere a line comes after ten seconds, then every
    minute. While a `bar` is drawn there is only the bar.
    """

    _current: "Steps | None" = None

    def __init__(self, silent: float = _SILENT) -> None:
        self._silent = silent
        self._live: Progress | None = None
        self._quiet: threading.Event | None = None
        self._hidden = False

    def __enter__(self) -> Self:
        Steps._current = self
        follow_lines(self._stop, self._after)
        return self

    def __exit__(self, *_error: object) -> None:
        Steps._current = None
        follow_lines(None, None)
        self._stop()

    def hide(self, hidden: bool) -> None:
        """Show nothing, or show again that work goes on."""
        self._hidden = hidden
        self._stop()

    def _after(self, line: str) -> None:
        if not line.endswith(" ...") or self._hidden:
            return
        console = _terminal()
        if console is not None:
            from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

            columns = SpinnerColumn(), TimeElapsedColumn()
            self._live = Progress(*columns, console=console, transient=True, refresh_per_second=4)
            self._live.add_task("")
            self._live.start()
            return
        self._quiet = threading.Event()
        threading.Thread(target=self._tell, args=(self._quiet, sys.stderr), daemon=True).start()

    def _tell(self, ended: threading.Event, stream: TextIO | None) -> None:
        began, wait = time.monotonic(), self._silent
        while not ended.wait(wait):
            note_beside(f"  ... {time.monotonic() - began:.0f} s", stream)
            wait = 6 * self._silent

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._quiet is not None:
            self._quiet.set()
            self._quiet = None


def _terminal() -> "Console | None":
    """stdout for bars, where it is a terminal or a variable makes rich take it for one."""
    # Asked first, as importing rich takes as long as translating a few frames.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    if not is_terminal and not any(os.environ.get(name) for name in _DRAWS_ANYWAY):
        return None
    from rich.console import Console

    console = Console(file=cast(TextIO, Drawing()))
    return console if console.is_terminal else None


@contextmanager
def _steps_hidden() -> "Iterator[None]":
    """A terminal draws one thing at a time."""
    steps = Steps._current
    if steps is not None:
        steps.hide(True)
    try:
        yield
    finally:
        if steps is not None:
            steps.hide(False)


@contextmanager
def progress(expected: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with a count, moved by calling what it gives with the number of steps that are done."""
    with bar() as drawn:
        if drawn is None:
            yield _counting(expected)
            return
        drawn.begin(total=expected)
        yield drawn.update


def _counting(expected: int | None) -> Callable[[int], None]:
    """Says now and then how many steps are done: after ten seconds, then every minute."""
    last, wait = time.monotonic(), _SILENT

    def update(done: int) -> None:
        nonlocal last, wait
        if time.monotonic() - last >= wait:
            last, wait = time.monotonic(), 6 * _SILENT
            note(f"  {done}{f' of {expected}' if expected else ''}")

    return update


def _columns(*, title: bool, count: bool, text: bool, clock: Clock, width: int) -> "Iterator[ProgressColumn]":
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if title:
        yield TextColumn("{task.description}", markup=False)
    yield BarColumn(width)
    if count:
        yield MofNCompleteColumn()
    if text:
        yield TextColumn("{task.fields[text]}", markup=False)
    if clock != "none":
        yield TimeElapsedColumn() if clock == "elapsed" else TimeRemainingColumn()
