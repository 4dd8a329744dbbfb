"""The commands: each parses its options, calls the function that does the work, and prints the result.

While a command is still being imported, Ctrl-C ends it silently: nothing has been done yet, and a traceback from the
middle of an import helps nobody. `shared.cli.run` gives Ctrl-C its usual meaning back.
"""

import os
import sys


def leave_at_once(number: int, frame: object) -> None:
    """The handler for Ctrl-C while a command is being imported."""
    os._exit(130)


def _is_command() -> bool:
    """Whether this process was started as one of the commands: Ctrl-C in other programs is left alone.

    Judged by the command line as typed: worker processes inherit the `sys.argv` of their parent.
    """
    program = next((word for word in sys.orig_argv[1:] if not word.startswith("-")), "")
    name = os.path.splitext(os.path.basename(program))[0]  # Windows adds .exe
    return name == "dsmap" or name.startswith("dsmap-") or program.startswith(f"{__name__}.")


if _is_command():
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, leave_at_once)
    except KeyboardInterrupt:  # which takes its time, too
        os._exit(130)
