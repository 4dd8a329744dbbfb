"""Estimates the memory of a translation, checks that it is free, and gives memory back to the system."""

import ctypes
import math
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from dsmap.errors import InputError

# Measured at the peak of a translation by ONNX Runtime, for each pixel and each unit of the network's width there.
_BYTES_PER_PIXEL_AND_WIDTH = 37
_IMAGE_ITSELF = 2  # units of width, beside maps of blocks: 496 to 516 bytes a pixel were measured at width 48 / 4
_USUAL_DIM = 64  # the published network's width, for a bundle that does not say
_ADVICE_SHARE = 0.9  # the height that is advised leaves some memory: what is free changes between two runs
_MIN_HEIGHT = 16
_GB = 1e9


def memory_width(architecture: Mapping[str, Any]) -> int:
    """The width that memory goes by, from the configuration in a bundle: `dim`, over the pixels of a block."""
    dim, patch = architecture.get("dim"), architecture.get("patch", 1)
    if not all(isinstance(number, int) and number > 0 for number in (dim, patch)):
        return _USUAL_DIM
    assert isinstance(dim, int)
    return dim if patch == 1 else -(-dim // patch**2) + _IMAGE_ITSELF


def translation_bytes(height: int, width: int, *, batch: int, dim: int) -> int:
    """About how much memory the translation of a batch of frames takes; `height` and `width` as the graphs get them."""
    return height * width * batch * dim * _BYTES_PER_PIXEL_AND_WIDTH


def frames_that_fit(height: int, width: int, *, dim: int, available: int | None, most: int) -> int:
    """How many frames of that size, at most `most`, fit into `available` bytes together; 1 where even that is much."""
    if available is None:
        return most
    return max(1, min(most, int(available * _ADVICE_SHARE) // translation_bytes(height, width, batch=1, dim=dim)))


def check_memory(
    height: int,
    width: int,
    *,
    batch: int,
    bytes_of: Callable[[int, int], int],
    multiple_of: int,
    available: int,
    minimum: int = 1,
    may_tile: bool = False,
) -> None:
    """Raises InputError when frames of that size (before padding) need more than `available` bytes; advises a height.

    `bytes_of(height, width)`: what a batch takes. `multiple_of` and `minimum`: the sizes that the graphs take.
    `may_tile`: whether --tile is advised too.
    """

    def needed(lines: int) -> int:
        columns = round(width * lines / height)
        padded = (max(minimum, -(-side // multiple_of) * multiple_of) for side in (lines, columns))
        return bytes_of(*padded)

    if needed(height) <= available:
        return
    room = available * _ADVICE_SHARE
    lines = int(height * math.sqrt(max(0.0, room) / needed(height)))
    while lines >= _MIN_HEIGHT and needed(lines) > room:
        lines -= 1
    frames = f"{batch} frames at once" if batch > 1 else "a frame"
    smaller = f"Translate at a smaller size, --height {lines} or less, or" if lines >= _MIN_HEIGHT else "First"
    raise InputError(
        f"{frames} of {width}x{height} need{'' if batch > 1 else 's'} about {needed(height) / _GB:.1f} GB of memory;"
        f" {max(0, available) / _GB:.1f} GB are available",
        f"{smaller} {'pass --tile, or ' if may_tile else ''}close other programs.",
    )


def return_free_memory() -> None:
    """Gives memory that was freed, but that the C library keeps in pieces, back to the system. Nothing without glibc.

    Arrays of some megabytes leave hundreds of such pieces.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
