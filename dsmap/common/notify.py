"""The type of callables that take a line about what is happening, for a person to read."""

from collections.abc import Callable

Notify = Callable[[str], None]
