"""The start of a command, without looking for garbage that cannot be there.

    with importing():
        from dsmap.runtime.jobs.batch import run_request

Python would look through everything that was imported again and again meanwhile, and once more when it ends: a fifth
of the processor time of a command that translates one frame.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Around imports: nothing is collected within the block, and what is there at its end never is."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
