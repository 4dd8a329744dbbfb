"""How much memory this process may still take. A leaf: training and runtime both ask before they begin."""

from pathlib import Path


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take: Linux's estimate, or less in a container or under a limit (`ulimit -v`).

    None where it is not known.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return min([free, *_cgroup_room(proc, cgroups), *_room_below_ulimit(proc)])


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


def _room_below_ulimit(proc: Path) -> list[int]:
    """What is left of a limit on this process's address space, where there is one."""
    import resource  # Unix only, like /proc

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return []
    try:
        used = int((proc / "self" / "statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return []
    return [max(0, limit - used)]
