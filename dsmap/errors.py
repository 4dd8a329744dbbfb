"""Errors for people: one line of fact, one line of advice.

A leaf: it imports nothing, and every part of the project may use it.
"""


class DsmapError(Exception):
    """A failure with an explanation for the user. The command exits with `exit_code` (1).

    `fact` says what happened, with got and expected where there are two. `advice` says what to do about it.
    """

    exit_code = 1

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(f"{fact}\n{advice}")
        self.fact = fact
        self.advice = advice

    def __reduce__(self) -> tuple[type["DsmapError"], tuple[str, str]]:
        return type(self), (self.fact, self.advice)  # pickling would pass the one argument it keeps


class InputError(DsmapError):
    """Invalid input: a missing file, an unknown name, a bad setting. Exit code 2."""

    exit_code = 2


def first_line(error: object) -> str:
    """The first non-blank line of an error's text, or an empty string."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
