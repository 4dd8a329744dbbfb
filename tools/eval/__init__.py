"""dsmap-eval: how good results are, in numbers with intervals, as a table, as JSON and as a page of images."""

from dsmap.tools.eval.command import app, main

__all__ = ["app", "main"]
