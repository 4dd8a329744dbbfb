"""The callable that takes a line about what happens, for a person to read."""

from collections.abc import Callable

Notify = Callable[[str], None]
