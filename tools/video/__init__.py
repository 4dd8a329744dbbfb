"""`dsmap-video`: translate videos, pictures, folders, image sequences and streams to another domain."""

from dsmap.tools.video.command import app, main

__all__ = ["app", "main"]
