"""dsmap-bench: how fast things are, measured in turns with what they are compared to."""

from dsmap.tools.bench.command import app, main

__all__ = ["app", "main"]
