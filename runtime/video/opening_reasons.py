"""Why an encoder does not open, in words for people, from what libav logs meanwhile."""

import re
from collections.abc import Sequence

_ERROR = 16  # libav's level; lower numbers are worse

# NVENC's: what libav says first, as an error or only as a warning, is of use to few people.
_KNOWN = (
    (r"OpenEncodeSessionEx failed: (?:unsupported|no encode) device", "this GPU has no encoder (NVENC)"),
    (
        r"OpenEncodeSessionEx failed: out of memory",
        "no session of the GPU's encoder is free: other programs encode too, or its memory is full",
    ),
    (r"Codec not supported", "the encoder (NVENC) of this GPU does not have that codec"),
    (r"(?:Width|Height) \d+ exceeds (\d+)", r"at most \1 pixels a side on this GPU"),
    (r"Frame Dimension less than the minimum", "smaller than the GPU's encoder takes"),
    (
        r"Cannot load (\S*nv\S*enc\S*)",
        r"the driver's \1 cannot be loaded (containers need NVIDIA_DRIVER_CAPABILITIES=video)",
    ),
    (r"minimum required Nvidia driver for nvenc is (\S+)", r"the NVIDIA driver is too old: NVENC needs \1 or newer"),
)


def reason_in(log: Sequence[tuple[int, str, str]]) -> str:
    """The reason in libav's `log` of (level, name, message); its first error where none is known, empty without one."""
    lines = [(level, message.strip()) for level, _, message in log if message.strip()]
    for pattern, reason in _KNOWN:
        for _, line in lines:
            if found := re.search(pattern, line):
                return found.expand(reason)
    return next((line for level, line in lines if level <= _ERROR), "")
