"""A live table of bars on a terminal: a line above, and a row for each thing that is going on; nothing elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

from dsmap.tools.shared.terminal import Drawing, shown

if TYPE_CHECKING:
    from rich.live import Live

_ROWS = 12
_DRAWN_EVERY = 0.2  # seconds
_WIDTH, _TITLE = 30, 40


class Row(NamedTuple):
    """One bar."""

    title: str
    done: int
    expected: int | None


class LiveTable:
    """Every text in it is made printable."""

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._drawn = 0.0

    def draw(self, head: Callable[[], str], rows: Callable[[], Sequence[Row]]) -> None:
        """Draw it again, if the last time was long enough ago; only then are the two called."""
        if time.monotonic() - self._drawn < _DRAWN_EVERY:
            return
        self._drawn = time.monotonic()
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table, every = Table.grid(padding=(0, 2)), rows()
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=_TITLE)
        table.add_column()
        table.add_column(no_wrap=True, justify="right")
        for row in every[:_ROWS]:
            count = f"{row.done}/{row.expected}" if row.expected else str(row.done)
            table.add_row(Text(shown(row.title)), ProgressBar(row.expected, row.done, width=_WIDTH), Text(count))
        more = [Text(f"and {len(every) - _ROWS} more")] if len(every) > _ROWS else []
        self._live.update(Group(Text(head()), table, *more), refresh=True)

    @contextmanager
    def away(self) -> Iterator[None]:
        """The table is away within the block, in which lines may be printed."""
        self._live.update("", refresh=True)
        self._live.stop()
        yield
        self._live.start()


@contextmanager
def live_table() -> Iterator[LiveTable | None]:
    """A table that disappears at the end of the block, however it ends; None where there is no terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=cast(TextIO, Drawing()))
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveTable(live)
