"""What a folder holds for us, and what of it is left out: counted and named by kind, never passed over in silence."""

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
_MOST_KINDS = 8  # in one line


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The files directly in a folder, each list sorted by name."""

    folder: Path
    images: tuple[Path, ...] = ()
    animations: tuple[Path, ...] = ()
    """Images that move: GIF, WebP, PNG or AVIF of several frames."""
    videos: tuple[Path, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    """Kinds of what is none of these, and how many there are: (".txt", 2), ("dead link", 1)."""


def list_folder(folder: Path) -> FolderListing:
    """What lies directly in `folder`. Raises OSError as listing does.

    Left out, for images and videos alike: hidden files (AppleDouble's too), what systems leave behind (Thumbs.db),
    unfinished downloads and backups, dead links, what is no regular file, and what is neither image nor video.
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
    """`list_folder` for those who want still images alone: animations and videos count as left out."""
    found = list_folder(folder)
    left_out = Counter(dict(found.left_out))
    left_out.update(f"animated {path.suffix.lower()}" for path in found.animations)
    left_out.update(_suffix(path) for path in found.videos)
    return FolderListing(folder=folder, images=found.images, left_out=_ordered(left_out))


def left_out_line(left_out: Iterable[tuple[str, int]], folder: Path | None = None) -> str:
    """One line such as "5 files left out of photos: 2 .heic, 1 dead link"; empty where nothing was left out."""
    kinds = list(left_out)
    if not kinds:
        return ""
    total = sum(count for _, count in kinds)
    shown = [f"{count} {_plural(name, count)}" for name, count in kinds[:_MOST_KINDS]]
    if len(kinds) > _MOST_KINDS:
        shown.append(f"{sum(count for _, count in kinds[_MOST_KINDS:])} others")
    of = f" of {printable(folder)}" if folder is not None else ""
    return f"{total} file{'s' * (total > 1)} left out{of}: {', '.join(shown)}"


def role_of(path: Path, *, regular: bool = False) -> tuple[Role, str]:
    """What the entry `path` of a folder is, and, where it is left out, as what: "hidden file", ".txt" and so on.

    `regular`: it is known to be a regular file.
    """
    why = is_passed_over(path.name) or ("" if regular else _no_file(path))
    kind = None if why else kind_of(path)
    if kind is None or kind.role == "unread":
        return "unread", why or _named(path, kind)
    return kind.role, ""


def is_passed_over(name: str) -> str:
    """Why a file of this name is never looked at: "hidden file" and so on; empty for others."""
    if name.startswith("._"):
        return "AppleDouble file"
    if name.lower() in _SYSTEM_FILES:
        return "system file"
    if name.startswith("."):
        return "hidden file"
    return "unfinished or backup file" if name.lower().endswith(_UNFINISHED) else ""


def _no_file(path: Path) -> str:
    """What a path that is no regular file is; empty for one that is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "dead link" if path.is_symlink() else "unreadable file"
    if stat.S_ISDIR(mode):
        return "subfolder"
    return "" if stat.S_ISREG(mode) else "pipe or device"


def _named(path: Path, kind: Kind | None) -> str:
    """What a file that is left out is called: its suffix, or what it is where the suffix says something else."""
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
