"""Progress bars on a terminal; nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias, cast

from dsmap.tools.shared.terminal import Drawing, shown

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


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
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=cast(TextIO, Drawing()))
    if not console.is_terminal:
        yield None
        return
    columns = _columns(title=title, count=count, text=text, clock=clock, width=width)
    with Progress(*columns, console=console, transient=transient) as drawn:
        yield Bar(drawn)


@contextmanager
def progress(expected: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with a count, moved by calling what it gives with the number of steps that are done."""
    with bar() as drawn:
        if drawn is None:
            yield lambda done: None
            return
        drawn.begin(total=expected)
        yield drawn.update


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
