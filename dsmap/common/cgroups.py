"""Linux control groups (version 1, version 2, and both at once): the folders with this process's limits.

A limit may be set at any level, so every folder from the process's own group up to the visible root counts. Inside a
container the visible root is often the container's own group, while the kernel still gives the group's name outside:
folders that do not exist are skipped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


class Group(NamedTuple):
    """A control group's folder, and the version of its files."""

    folder: Path
    version: int

    def number(self, name: str) -> int | None:
        """The number in the file `name`; None if it is missing, or says that there is no limit."""
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):  # "max"
            return None

    def statistics(self, name: str) -> dict[str, int]:
        """The numbers in a file of `key number` lines; empty if it is missing."""
        try:
            pairs = (line.split() for line in (self.folder / name).read_text().splitlines())
            return {key: int(value) for key, value in pairs}
        except (OSError, ValueError):
            return {}


def groups_of(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> list[Group]:
    """The groups whose limits of `controller` (memory, cpu) apply to this process, its own first.

    Empty if there are none, or none are visible.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found: dict[Path, Group] = {}
    for line in lines:
        number, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            version, roots = 1, [cgroups / controllers, *(cgroups / part for part in controllers.split(","))]
        elif number == "0" and not controllers:
            version, roots = 2, [cgroups, cgroups / "unified"]
        else:
            continue
        for mount_root, root in _mounts(version, controller, proc, cgroups) or [("/", root) for root in roots]:
            for folder in _upwards(root, name, mount_root):
                found.setdefault(folder, Group(folder, version))
    return list(found.values())


def _upwards(root: Path, name: str, mount_root: str) -> Iterator[Path]:
    """The folder of the group `name` below `root`, and all above it; `mount_root` is the group mounted at `root`."""
    shown = mount_root.rstrip("/")
    inside = name.removeprefix(shown) if f"{name}/".startswith(f"{shown}/") else name
    parts = [part for part in inside.split("/") if part not in ("", ".")]
    if ".." in parts:  # the process has been moved out of the container's own root
        parts = []
    folder = root.joinpath(*parts)
    for path in (folder, *folder.parents):
        if path.is_dir():
            yield path
        if path == root:
            return


def _mounts(version: int, controller: str, proc: Path, cgroups: Path) -> list[tuple[str, Path]]:
    """(group at its root, place) of every mount of the hierarchy; empty if that is unknown."""
    try:
        lines = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        mount, _, kind = line.partition(" - ")
        fields, kinds = mount.split(), kind.split()
        if len(fields) < 5 or not kinds or kinds[0] != ("cgroup" if version == 1 else "cgroup2"):
            continue
        if version == 1 and controller not in kinds[-1].split(","):
            continue
        place = Path(fields[4])
        if place.is_relative_to(CGROUPS):
            place = cgroups / place.relative_to(CGROUPS)
        found.append((fields[3], place))
    return found
