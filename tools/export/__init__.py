"""dsmap-export: a checkpoint becomes a bundle that dsmap-video runs."""

from dsmap.tools.export.command import app, main

__all__ = ["app", "main"]
