"""JSON reports of commands: told before the work when they cannot be written."""

import json
from pathlib import Path
from typing import Any

from dsmap.common.files import check_folder_writable, whole_file
from dsmap.errors import DsmapError, InputError


def check_report(report: Path) -> None:
    """Raises InputError unless the report can be written: told before minutes of work."""
    if report.is_dir():
        raise InputError(f"--report {report} is a folder", "Pass a file's name, such as report.json.")
    check_folder_writable(report.absolute().parent, "--report")


def write_report(report: Path, numbers: dict[str, Any], advice: str = "The numbers are above.") -> None:
    """Writes `numbers` as JSON; DsmapError, with what to do, when that fails after all."""
    try:
        with whole_file(report) as beside:
            beside.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DsmapError(f"cannot write {report}: {error.strerror}", advice) from error
