"""`dsmap-video`: translate videos, images, folders, image sequences and streams to another domain."""

from dsmap.tools.video.command import app, main

__all__ = ["app", "main"]
