"""The start of a command, without looking for garbage that cannot be there.

    with importing():
        from dsmap.runtime.jobs.batch import run_request

Python would look through everything that was imported again and again meanwhile, and once more when it ends: a fifth
of the processor time of a command that translates one frame.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


@contextmanager
def importing() -> Iterator[None]:
    """Around imports: nothing is collected within the block, and what is there at its end never is.

    However it ends, things are collected again, if they were before.
    """
    plugins, collects = os.environ.get(_NO_PLUGINS), gc.isenabled()
    os.environ.setdefault(_NO_PLUGINS, "1")  # or pydantic asks every installed package whether it has some
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
        if plugins is None:
            os.environ.pop(_NO_PLUGINS, None)
