"""Measure speed: the command dsmap-bench.

`command` has the options of `train`, `model`, `video` and `live`; each measures in the module of its name. `forms` has
the forms of a network that `model` compares, `plain_step` the plain training iteration that `train` compares with.
"""

from dsmap.tools.bench.command import app, main

__all__ = ["app", "main"]
