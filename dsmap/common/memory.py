"""The memory that is available to this process."""

from pathlib import Path

from dsmap.common.cgroups import CGROUPS, PROC, Group, groups_of

_UNLIMITED = 1 << 60  # version 1 says "no limit" as a number of about 2 ** 63


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that this process may still use: Linux's estimate, or less in a container or under `ulimit -v`.

    None where that is unknown.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return min([free, *_cgroup_room(proc, cgroups), *_room_below_ulimit(proc)])


def _cgroup_room(proc: Path, cgroups: Path) -> list[int]:
    """Bytes left below the limits of our control groups and of every group above them."""
    groups = groups_of("memory", proc, cgroups)
    first, second = ([group for group in groups if group.version == version] for version in (1, 2))
    # A group of version 1 limits those below it only if it says so.
    binding = first[:1] + [group for group in first[1:] if group.number("memory.use_hierarchy") != 0]
    return [*(room for group in binding for room in _room_version_1(group)),
            *(room for group in second for room in _room_version_2(group))]  # fmt: skip


def _room_version_2(group: Group) -> list[int]:
    used = group.number("memory.current")
    if used is None:
        return []
    reclaimable = group.statistics("memory.stat").get(
        "inactive_file", 0
    )  # cached files are dropped when memory is needed
    # Above memory.high nothing is killed, but everything is slowed down.
    limits = (group.number("memory.max"), group.number("memory.high"))
    return [max(0, limit - used + reclaimable) for limit in limits if limit is not None]


def _room_version_1(group: Group) -> list[int]:
    used = group.number("memory.usage_in_bytes")
    if used is None:
        return []
    statistics = group.statistics("memory.stat")
    reclaimable = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
    # The second is the lowest limit of all groups above, including those that a container does not see.
    limits = (group.number("memory.limit_in_bytes"), statistics.get("hierarchical_memory_limit"))
    return [max(0, limit - used + reclaimable) for limit in limits if limit is not None and limit < _UNLIMITED]


def _room_below_ulimit(proc: Path) -> list[int]:
    """Bytes left below the limit on this process's address space, if there is one."""
    import resource  # Unix only, like /proc

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return []
    try:
        used = int((proc / "self" / "statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return []
    return [max(0, limit - used)]
