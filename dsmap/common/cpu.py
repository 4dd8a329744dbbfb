"""The processors that this process may use, by its affinity and by the CPU time of its control groups."""

import math
import os
from pathlib import Path

from dsmap.common.cgroups import CGROUPS, PROC, Group, groups_of

CPUS_VARIABLE = "DSMAP_CPUS"
"""Of the environment: the cores for this process, where it shares the machine with others like it."""


def usable_cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """The number of threads of this process that can run at once, 1 or more.

    A quota of one and a half processors counts as two, as in Java and Go. $DSMAP_CPUS lowers the number.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get(CPUS_VARIABLE, "")
    if wanted.isascii() and wanted.isdigit():
        allowed = min(allowed, int(wanted))
    quota = cpu_quota(proc, cgroups)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cpu_quota(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """The CPU time that the control groups give this process, in processors; None without a limit."""
    quotas = [quota for group in groups_of("cpu", proc, cgroups) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _quota(group: Group) -> float | None:
    if group.version == 1:
        limit, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")  # -1: no limit
        return limit / period if limit and period and limit > 0 and period > 0 else None
    try:
        share, length = (group.folder / "cpu.max").read_text().split()
        return int(share) / int(length)
    except (OSError, ValueError, ZeroDivisionError):  # "max"
        return None


def allowed_cores() -> int | None:
    """The number of cores this process may use, for engines, which do not check; None: all of the machine's."""
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or usable) else None


def limit_threads() -> None:
    """Limits the threads of OpenMP (torch, numpy, MKL) to those that can run, unless the user has set a number.

    Call it before these are imported: they respect the affinity, but not control groups.
    """
    usable = allowed_cores()
    if usable is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable))
