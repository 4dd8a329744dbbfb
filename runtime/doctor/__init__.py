"""Checks of an installation, for dsmap-doctor: one module for each part of the machine.

A check is a function that returns a `Finding`; `checkup` lists and runs them. Made for broken environments: these
modules import only the standard library and dsmap's light modules. What can be missing or broken is imported inside a
check, which runs in a process of its own that may crash or hang (see `dsmap.runtime.system.subprocess_call`).
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from dsmap import errors

OK, FAILED, WARNING, MISSING, SKIPPED = "ok", "failed", "warning", "missing", "skipped"
"""States of a check. Only `failed` means that the model does not run; a warning is about
something optional, or something that works all the same."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found."""

    state: str
    """ok, failed, warning, missing (optional, and not installed) or skipped."""
    fact: str
    """One or two short clauses: versions and names, or what is wrong."""
    command: str = ""
    """The one command that fixes it, ready to paste; empty when there is nothing to fix."""
    details: dict[str, Any] = field(default_factory=dict)
    """For the report: JSON values."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ok(fact: str, **details: Any) -> Finding:
    """It works."""
    return Finding(state=OK, fact=fact, details=details)


def failed(fact: str, command: str, **details: Any) -> Finding:
    """Needed, and does not work. For an optional check `checkup` makes it a warning."""
    return Finding(state=FAILED, fact=fact, command=command, details=details)


def warning(fact: str, command: str, **details: Any) -> Finding:
    """Works all the same, or is optional and broken."""
    return Finding(state=WARNING, fact=fact, command=command, details=details)


def absent(fact: str, command: str = "", **details: Any) -> Finding:
    """Optional, and not installed. `command` installs it."""
    return Finding(state=MISSING, fact=fact, command=command, details=details)


def not_tried(fact: str) -> Finding:
    """What the check needs is missing or broken."""
    return Finding(state=SKIPPED, fact=fact)


def first_line(error: object, limit: int = 200) -> str:
    """The first line of an error's text, or its type where it has none."""
    return errors.first_line(error)[:limit] or type(error).__name__
