"""Lists the images, animations and videos in a folder, and counts by kind what is left out."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dsmap.common.images.kinds import Kind, Role, kind_of
from dsmap.common.text import printable

_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r"})
_UNFINISHED = (".part", ".tmp", ".temp", ".crdownload", ".partial", ".download", ".bak", ".old", ".swp", "~")
_MAX_KINDS = 8  # in one line


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The files directly in a folder, each list sorted by name."""

    folder: Path
    images: tuple[Path, ...] = ()
    animations: tuple[Path, ...] = ()
    """GIF, WebP, PNG or AVIF files of several frames."""
    videos: tuple[Path, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    """Kinds of everything else, and how many there are: (".txt", 2), ("dead link", 1)."""


def list_folder(folder: Path) -> FolderListing:
    """The files directly in `folder`. Raises OSError as listing does.

    Left out are hidden files (also AppleDouble's), system files (Thumbs.db), unfinished downloads and backups, dead
    links, anything but regular files, and files that are neither image nor video.
    """
    lists: dict[str, list[Path]] = {"image": [], "animation": [], "video": []}
    left_out: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            role, why = role_of(folder / entry.name, regular=entry.is_file(follow_symlinks=False))
            if why:
                left_out[why] += 1
            else:
                lists[role].append(folder / entry.name)
    return FolderListing(
        folder=folder,
        images=tuple(sorted(lists["image"])),
        animations=tuple(sorted(lists["animation"])),
        videos=tuple(sorted(lists["video"])),
        left_out=_ordered(left_out),
    )


def list_images(folder: Path) -> list[Path]:
    """The still images directly in `folder`, sorted by name: see `list_folder`."""
    return list(list_folder(folder).images)


def list_stills(folder: Path) -> FolderListing:
    """`list_folder` for still images only: animations and videos count as left out."""
    found = list_folder(folder)
    left_out = Counter(dict(found.left_out))
    left_out.update(f"animated {path.suffix.lower()}" for path in found.animations)
    left_out.update(_suffix(path) for path in found.videos)
    return FolderListing(folder=folder, images=found.images, left_out=_ordered(left_out))


def left_out_line(left_out: Iterable[tuple[str, int]], folder: Path | None = None) -> str:
    """A line such as "5 files left out of photos: 2 .heic, 1 dead link"; empty if nothing was left out."""
    kinds = list(left_out)
    if not kinds:
        return ""
    total = sum(count for _, count in kinds)
    shown = [f"{count} {_plural(name, count)}" for name, count in kinds[:_MAX_KINDS]]
    if len(kinds) > _MAX_KINDS:
        shown.append(f"{sum(count for _, count in kinds[_MAX_KINDS:])} others")
    of = f" of {printable(folder)}" if folder is not None else ""
    return f"{total} file{'s' * (total > 1)} left out{of}: {', '.join(shown)}"


def role_of(path: Path, *, regular: bool = False) -> tuple[Role, str]:
    """The role of the entry `path` of a folder, and, if it is left out, its kind: "hidden file", ".txt" and so on.

    `regular`: it is known to be a regular file.
    """
    why = ignored_kind(path.name) or ("" if regular else _irregular_kind(path))
    kind = None if why else kind_of(path)
    if kind is None or kind.role == "unread":
        return "unread", why or _named(path, kind)
    return kind.role, ""


def ignored_kind(name: str) -> str:
    """Why a file of this name is always left out: "hidden file" and so on; empty for others."""
    if name.startswith("._"):
        return "AppleDouble file"
    if name.lower() in _SYSTEM_FILES:
        return "system file"
    if name.startswith("."):
        return "hidden file"
    return "unfinished or backup file" if name.lower().endswith(_UNFINISHED) else ""


def _irregular_kind(path: Path) -> str:
    """The kind of a path that is not a regular file; empty for one that is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "dead link" if path.is_symlink() else "unreadable file"
    if stat.S_ISDIR(mode):
        return "subfolder"
    return "" if stat.S_ISREG(mode) else "pipe or device"


def _named(path: Path, kind: Kind | None) -> str:
    """The kind of a file that is left out: its suffix, or its format where the suffix says something else."""
    suffix = _suffix(path)
    if kind is None or kind.format in ("camera raw", "JPEG XL", "PDF", "Photoshop"):
        return suffix
    return kind.format


def _suffix(path: Path) -> str:
    return printable(path.suffix.lower()) or "without a suffix"


def _plural(name: str, count: int) -> str:
    return name if count == 1 or name.startswith((".", "animated", "without")) else _PLURALS.get(name, f"{name}s")


_PLURALS = {"pipe or device": "pipes or devices", "unfinished or backup file": "unfinished or backup files"}


def _ordered(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
