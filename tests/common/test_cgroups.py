"""Limits of Linux control groups as trees of files: version 1, version 2, both at once, nested, in containers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsmap.common.cpu import allowed_cores, cpu_quota, usable_cpus
from dsmap.common.memory import available_bytes

GB = 10**9
UNLIMITED = "9223372036854771712"


class Machine:
    """/proc and /sys/fs/cgroup of a machine with 64 GB."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.groups = folder / "proc", folder / "cgroup"
        self.write("proc/meminfo", "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n", folder)

    def write(self, path: str, text: object, below: Path | None = None) -> None:
        file = (below or self.groups) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def own(self, *lines: str) -> None:
        self.write("self/cgroup", "\n".join(lines), self.proc)

    def mounted(self, *lines: str) -> None:
        self.write("self/mountinfo", "\n".join(lines), self.proc)

    def first(self, group: str, limit: object, used: int = 0, **more: object) -> None:
        files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, **more}
        for name, value in files.items():
            self.write(f"memory{group}/{name.replace('__', '.')}", value)

    def second(self, group: str, limit: object, used: int = 0, high: object = "max") -> None:
        for name, value in {"max": limit, "current": used, "high": high}.items():
            self.write(f"{group}/memory.{name}".lstrip("/"), value)

    @property
    def free(self) -> int | None:
        return available_bytes(self.proc, self.groups)

    @property
    def quota(self) -> float | None:
        return cpu_quota(self.proc, self.groups)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_without_limits(machine):
    assert machine.free == 60_000_000 * 1024
    assert machine.quota is None
    machine.own("4:memory:/a", "2:cpu,cpuacct:/a", "0::/")
    machine.first("/a", UNLIMITED)
    machine.write("cpu,cpuacct/a/cpu.cfs_quota_us", -1)
    machine.write("cpu,cpuacct/a/cpu.cfs_period_us", 100_000)
    assert machine.free == 60_000_000 * 1024
    assert machine.quota is None


def test_version_1(machine):
    machine.own("4:memory:/docker/abc", "3:cpuacct,cpu:/docker/abc", "0::/")
    machine.first("/docker/abc", 2 * GB, 100_000_000)
    machine.write("memory/docker/abc/memory.stat", "cache 7\ntotal_inactive_file 40000000")
    machine.first("", UNLIMITED, 30 * GB)
    machine.write("cpuacct,cpu/docker/abc/cpu.cfs_quota_us", 150_000)
    machine.write("cpuacct,cpu/docker/abc/cpu.cfs_period_us", 100_000)
    assert machine.free == 2 * GB - 100_000_000 + 40_000_000
    assert machine.quota == 1.5


def test_version_1_with_the_limit_above(machine):
    machine.own("4:memory:/jobs/7/step", "2:cpu:/jobs/7/step")
    machine.first("/jobs/7/step", UNLIMITED, 1)
    machine.first("/jobs/7", 3 * GB, GB)
    machine.write("cpu/jobs/7/step/cpu.cfs_quota_us", -1)
    machine.write("cpu/jobs/7/step/cpu.cfs_period_us", 100_000)
    machine.write("cpu/jobs/cpu.cfs_quota_us", 400_000)
    machine.write("cpu/jobs/cpu.cfs_period_us", 200_000)
    assert machine.free == 2 * GB
    assert machine.quota == 2
    machine.write("memory/jobs/7/memory.use_hierarchy", 0)  # binds only what is in the group itself
    assert machine.free == 60_000_000 * 1024


def test_version_1_in_a_container_that_shows_its_own_group_as_the_root(machine):
    """The name is the one outside, and the limit of a group above is told by a sum only."""
    machine.own("4:memory:/docker/abc", "2:cpu:/docker/abc")
    machine.mounted(
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory",
        "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct",
    )
    machine.first("", UNLIMITED, GB // 2)
    machine.write("memory/memory.stat", f"hierarchical_memory_limit {GB}\ntotal_inactive_file 0")
    machine.write("cpu,cpuacct/cpu.cfs_quota_us", 50_000)
    machine.write("cpu,cpuacct/cpu.cfs_period_us", 100_000)
    assert machine.free == GB // 2
    assert machine.quota == 0.5
    assert usable_cpus(machine.proc, machine.groups) == 1
    (machine.proc / "self" / "mountinfo").unlink()
    assert machine.free == GB // 2


def test_version_2_with_limits_above(machine):
    machine.own("0::/user.slice/job.scope/inner")
    machine.second("/user.slice/job.scope/inner", "max", 1)
    machine.second("/user.slice/job.scope", 8 * GB, GB, high=5 * GB)
    machine.second("/user.slice", 20 * GB, 2 * GB)
    machine.write("user.slice/job.scope/inner/cpu.max", "max 100000")
    machine.write("user.slice/cpu.max", "300000 100000")
    assert machine.free == 4 * GB  # beyond memory.high everything waits
    assert machine.quota == 3


def test_version_2_in_a_container(machine):
    machine.own("0::/")
    machine.second("/", GB, GB // 4)
    machine.write("cpu.max", "120000 100000")
    assert machine.free == GB - GB // 4
    assert machine.quota == 1.2
    assert usable_cpus(machine.proc, machine.groups) == min(2, usable_cpus())
    machine.own("0::/../../elsewhere")  # seen from another namespace
    assert machine.free == GB - GB // 4


def test_both_versions_at_once(machine):
    machine.own("4:memory:/a", "1:name=systemd:/b", "0::/b")
    machine.first("/a", 7 * GB, GB)
    machine.write("unified/b/memory.max", 3 * GB)
    machine.write("unified/b/memory.current", GB)
    machine.write("unified/cpu.max", "100000 100000")
    assert machine.free == 2 * GB
    assert machine.quota == 1


@pytest.mark.parametrize("text", ["", "max", "100000", "x y", "100000 0"])
def test_what_is_no_limit(machine, text):
    machine.own("0::/", "nonsense")
    machine.write("cpu.max", text)
    machine.write("memory.max", text)
    machine.write("memory.current", "x")
    assert machine.quota is None
    assert machine.free == 60_000_000 * 1024


def test_threads_are_as_many_as_may_compute():
    """What OpenMP is told before anything starts it; a user's own word stands."""
    program = "from dsmap.common import cpu; cpu.usable_cpus = lambda: 1; cpu.limit_threads(); import os; "
    program += "print(os.environ.get('OMP_NUM_THREADS'))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for given, expected in ({}, "1" if (os.cpu_count() or 1) > 1 else "None"), ({"OMP_NUM_THREADS": "7"}, "7"):
        done = subprocess.run([sys.executable, "-c", program], env=environment | given, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
    assert allowed_cores() is None or allowed_cores() == usable_cpus()
