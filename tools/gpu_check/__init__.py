"""Every check and measurement that needs an NVIDIA GPU, in one command."""

from dsmap.tools.gpu_check.command import app, main

__all__ = ["app", "main"]
