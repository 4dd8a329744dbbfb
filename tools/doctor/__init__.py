"""`dsmap-doctor`: checks the installation and prints the command that fixes each fault."""

from dsmap.tools.doctor.command import app, main

__all__ = ["app", "main"]
