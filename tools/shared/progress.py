"""How far a long step is: a bar on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from dsmap.tools.shared.terminal import Drawing, shown

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


class Bar:
    """One bar at a time, of rich's; every text in it, and above it, is made printable."""

    def __init__(self, drawn: "Progress") -> None:
        self._drawn = drawn
        self._task: Any = None

    def begin(self, title: str = "", *, total: float | None, completed: int = 0, **fields: str) -> None:
        """Show a new bar in place of the one before."""
        if self._task is not None:
            self._drawn.remove_task(self._task)
        texts: dict[str, Any] = {name: shown(text) for name, text in fields.items()}
        self._task = self._drawn.add_task(shown(title), total=total, completed=completed, **texts)

    def update(self, completed: int, *, total: float | None = None, title: str | None = None, **fields: str) -> None:
        """So many are done; `total` and `title` stay where they are None."""
        changed: dict[str, Any] = {name: shown(text) for name, text in fields.items()}
        if total is not None:
            changed["total"] = total
        if title is not None:
            changed["description"] = shown(title)
        self._drawn.update(self._task, completed=completed, **changed)

    def say(self, line: str) -> None:
        """Print a line above it."""
        self._drawn.console.print(shown(line), soft_wrap=True, highlight=False, markup=False)

    @property
    def speed(self) -> float | None:
        """Steps per second; None before it is known."""
        return self._drawn.tasks[0].speed


@contextmanager
def bar(*columns: "ProgressColumn", transient: bool = True) -> Iterator[Bar | None]:
    """A bar with rich's `columns`, which goes when the step ends, however it ends; None where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=cast(TextIO, Drawing()))
    if not console.is_terminal:
        yield None
        return
    with Progress(*columns, console=console, transient=transient) as drawn:
        yield Bar(drawn)


@contextmanager
def progress(expected: int | None) -> Iterator[Callable[[int], None]]:
    """Gives what is told how many are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    with bar(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as shown_bar:
        if shown_bar is None:
            yield lambda done: None
            return
        shown_bar.begin(total=expected)
        yield shown_bar.update
