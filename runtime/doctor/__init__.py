"""What dsmap-doctor looks at: one module per part of the machine, each check in an interpreter of its own.

Made for broken environments. Importing any module of this package imports nothing but the standard library and dsmap's
light modules; what can be missing or broken is imported inside the checks, which run in processes that may crash or
hang (see `dsmap.runtime.system.subprocess_call`). A check is a function that returns a `Finding`; `checkup` lists them.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from dsmap import errors

OK, WRONG, WARNING, ABSENT, NOT_TRIED = "ok", "wrong", "warning", "not here", "not tried"
"""How a check ends. Only `wrong` says that the model does not run; warnings are of what is optional, or works."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found."""

    state: str
    """ok, wrong, warning, not here (optional, and nobody needs it unless they want it) or not tried."""
    fact: str
    """One or two short clauses: versions and names, or what is wrong."""
    command: str = ""
    """The one command that mends it, ready to paste; empty when there is nothing to mend."""
    details: dict[str, Any] = field(default_factory=dict)
    """For the report: JSON values."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ok(fact: str, **details: Any) -> Finding:
    """It works."""
    return Finding(state=OK, fact=fact, details=details)


def wrong(fact: str, command: str, **details: Any) -> Finding:
    """It is needed and does not work. Of an optional check `checkup` makes a warning of it."""
    return Finding(state=WRONG, fact=fact, command=command, details=details)


def warning(fact: str, command: str, **details: Any) -> Finding:
    """It works in spite of it, or is optional and broken."""
    return Finding(state=WARNING, fact=fact, command=command, details=details)


def absent(fact: str, command: str = "", **details: Any) -> Finding:
    """It is optional and not here. `command` brings it."""
    return Finding(state=ABSENT, fact=fact, command=command, details=details)


def not_tried(fact: str) -> Finding:
    """What it needs is itself not here or broken."""
    return Finding(state=NOT_TRIED, fact=fact)


def first_line(error: object, limit: int = 200) -> str:
    """The first line of an error's text, or its type where it has none."""
    return errors.first_line(error)[:limit] or type(error).__name__
