"""Whether a translation fits into the memory that is free: a process that takes too much is killed without a word."""

import math
from pathlib import Path

from dsmap.errors import InputError

# Measured at the peak of a translation by ONNX Runtime, for each pixel and each unit of the network's width `dim`.
_BYTES_PER_PIXEL_AND_WIDTH = 31
_ADVICE_SHARE = 0.9  # the height that is advised leaves some memory: what is free changes between two runs
_SMALLEST_HEIGHT = 16
_GB = 1e9


def translation_bytes(height: int, width: int, *, batch: int, dim: int) -> int:
    """About how much memory the translation of a batch of frames takes; `height` and `width` as the graphs get them."""
    return height * width * batch * dim * _BYTES_PER_PIXEL_AND_WIDTH


def check_memory(
    height: int, width: int, *, batch: int, dim: int, multiple_of: int, available: int, minimum: int = 1
) -> None:
    """Raises InputError when frames of that size (before padding) need more than `available` bytes; advises a height.

    `multiple_of` and `minimum`: the sizes that the graphs take.
    """

    def needed(lines: int) -> int:
        columns = round(width * lines / height)
        padded = (max(minimum, -(-side // multiple_of) * multiple_of) for side in (lines, columns))
        return translation_bytes(*padded, batch=batch, dim=dim)

    if needed(height) <= available:
        return
    room = available * _ADVICE_SHARE
    lines = int(height * math.sqrt(max(0.0, room) / needed(height)))
    while lines >= _SMALLEST_HEIGHT and needed(lines) > room:
        lines -= 1
    frames = f"{batch} frames" if batch > 1 else "a frame"
    smaller = f"Translate at a smaller size, --height {lines} or less, or" if lines >= _SMALLEST_HEIGHT else "First"
    raise InputError(
        f"{frames} of {width}x{height} needs about {needed(height) / _GB:.1f} GB of memory;"
        f" {max(0, available) / _GB:.1f} GB are available",
        f"{smaller} close other programs.",
    )


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take: Linux's estimate, or less in a container. None where it is not known."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return min([free, *_cgroup_room(proc, cgroups)])


def _cgroup_room(proc: Path, cgroups: Path) -> list[int]:
    """What is left of the limit of our control group (version 2) and of every group around it, where there is one."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    name = next((line[len("0::") :] for line in lines if line.startswith("0::")), None)
    if name is None:
        return []
    own = cgroups / name.lstrip("/")
    folders = [own, *(folder for folder in own.parents if folder.is_relative_to(cgroups))]
    return [room for folder in folders if (room := _room_below_limit(folder)) is not None]


def _room_below_limit(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is no limit
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return limit - used + _reclaimable(group)


def _reclaimable(group: Path) -> int:
    """Cached files count as used, but make room when memory is asked for."""
    try:
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(fields.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
