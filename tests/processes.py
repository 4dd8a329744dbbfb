"""Processes that tests look at from outside."""

from pathlib import Path


def is_alive(process: int | str) -> bool:
    """Whether that process is there, and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
