"""The errors people see: one line of fact, one line of what to do.

A leaf: it imports nothing, and every part of the project may use it.
"""


class DsmapError(Exception):
    """A failure that is explained to the person at the keyboard. The command exits with `exit_code` (1).

    `fact` says what happened, with got and expected where there are two. `advice` says what to do about it.
    """

    exit_code = 1

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(f"{fact}\n{advice}")
        self.fact = fact
        self.advice = advice

    def __reduce__(self) -> tuple[type["DsmapError"], tuple[str, str]]:
        return type(self), (self.fact, self.advice)  # it takes two arguments but keeps one: pickling needs to be told


class InputError(DsmapError):
    """What was passed in is wrong: a missing file, an unknown name, a bad setting. Exit code 2."""

    exit_code = 2


def first_line(error: object) -> str:
    """The first line of an error's text that is not blank; empty where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
