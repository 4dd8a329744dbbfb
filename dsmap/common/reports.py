"""Writes the JSON and text reports of commands, atomically. `check_outputs` checks their paths before the work."""

import json
from pathlib import Path
from typing import Any

from dsmap.common.atomic import atomic_write
from dsmap.errors import DsmapError


def write_report(report: Path, numbers: dict[str, Any], advice: str = "The numbers are above.") -> None:
    """Writes `numbers` as JSON. Raises DsmapError with `advice`."""
    write_text(report, json.dumps(numbers, indent=1) + "\n", advice)


def write_text(path: Path, text: str, advice: str = "The numbers are above.") -> None:
    """Writes a page or report and flushes it to the disk. Raises DsmapError with `advice`."""
    try:
        with atomic_write(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DsmapError(f"cannot write {path}: {error.strerror}", advice) from error
