"""dsmap-doctor: is everything here that the model needs, and what is the command that mends it?"""

from dsmap.tools.doctor.command import app, main

__all__ = ["app", "main"]
