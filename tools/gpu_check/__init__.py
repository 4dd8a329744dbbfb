"""Check and measure the GPU backends: `python -m dsmap.tools.gpu_check`.

- `command`: the options.
- `plan`: the steps, their results, and the whole run.
- `run`: runs the steps, each in a process of its own.
- `steps`: what such a process does.
- `report`: the report as Markdown.
"""

from dsmap.tools.gpu_check.command import app, main

__all__ = ["app", "main"]
