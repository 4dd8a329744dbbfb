"""Tells a full device from TensorRT's other failures."""

import re

from dsmap.errors import DsmapError


def failure(fact: str, advice: str) -> DsmapError:
    """OutOfMemoryError where TensorRT's message says so, as it has no other sign of it; else DsmapError."""
    if re.search(r"out.?of.?memory|could not be allocated|bad_alloc|MemoryAllocation", fact, re.IGNORECASE):
        from dsmap.runtime.cuda.base import OutOfMemoryError  # imports numpy, and building needs none

        return OutOfMemoryError(fact, "Translate at a smaller size, with a smaller --height, or end other programs.")
    return DsmapError(fact, advice)
