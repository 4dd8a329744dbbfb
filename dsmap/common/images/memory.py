"""Whether an image fits into memory, before it is decoded: a file of half a megabyte may hold gigabytes of pixels."""

from dsmap.common.memory import available_bytes
from dsmap.errors import InputError

BYTES_PER_PIXEL = 20
"""What reading takes at its peak, the result included: 6 to 9 were measured for plain images, 16 for 16 bits with alpha
and up to 19 for HEIC."""
MAX_PIXELS = 2**30
"""OpenCV's own limit."""
_NEVER_ASKED = 4_000_000  # pixels: asking what is free takes as long as reading a small image
_GB = 1e9


def check_image_memory(width: int, height: int, *, share: int = 1) -> None:
    """Raises InputError when an image of that size cannot be read into the memory that is available.

    `share`: the decoder leaves out all but one of so many pixels.
    """
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise InputError(
            f"{width}x{height} pixels are more than any image here may have ({MAX_PIXELS / 1e6:.0f} megapixels)",
            "Scale it down with another tool first, or leave it out.",
        )
    if pixels <= _NEVER_ASKED:
        return
    needed, available = pixels * BYTES_PER_PIXEL // share, available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{width}x{height} pixels need about {needed / _GB:.1f} GB of memory, "
            f"{max(0, available) / _GB:.1f} GB are available",
            "Close other programs, scale it down with another tool first, or leave it out.",
        )
