"""Temporary folders that go with the process, also when it is asked to end."""

import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A new folder `dsmap-NAME-...` in TMPDIR, which is removed in the end.

    Python removes nothing when SIGTERM or SIGHUP end the process. In the main thread, and where nobody else handles
    them, they raise SystemExit within the block instead, with the exit code that a shell reports; a second one ends the
    process at once.
    """
    with _ending_in_order(), tempfile.TemporaryDirectory(prefix=f"dsmap-{name}-") as folder:
        yield Path(folder)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    numbers = [number for key in ("SIGTERM", "SIGHUP") if (number := getattr(signal, key, None)) is not None]
    in_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in numbers if in_main and signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, _frame: FrameType | None) -> None:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)
        sys.exit(128 + number)

    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
