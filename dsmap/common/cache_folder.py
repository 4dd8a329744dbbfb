"""The user's cache folder, and private folders in it for files that are run as code.

TensorRT engines are programs, and NVIDIA's documentation says never to load one from somebody else. So their folders
belong to the user, nobody else may write to them, and no link leads there. On Windows, where folders in %LOCALAPPDATA%
are private anyway, none of this is checked.
"""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from dsmap.errors import DsmapError

VARIABLE = "DSMAP_CACHE"
_PRIVATE = 0o700
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OURS = {
    "coreml",
    "cpu-contest",
    "engines",
    "features",
    "migraphx",
    "models",
    "openvino-npu",
    "rtx-kernels",
    "torch-kernels",
    "web-runtime",
}
"""What dsmap keeps in the cache (cpu-contest: before version 1). A folder with nothing else in it is dsmap's own."""


def user_cache_folder() -> Path:
    """$DSMAP_CACHE, or dsmap's folder where the system keeps caches. It may not exist yet."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "dsmap" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dsmap"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "dsmap"  # the standard: relative is ignored


def private_folder(name: str) -> Path:
    """The folder `name` in the user's cache, created if it is missing, which nobody else can read or write.

    Raises DsmapError, with what to do, if it or the cache is a link, another user's, or was writable by others.
    """
    cache = user_cache_folder()
    folder = cache / name
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        for path in (cache, folder):
            if os.path.lexists(path):
                check_private(name)  # before anything is made in it
            with suppress(FileExistsError):
                path.mkdir(_PRIVATE)
    except OSError as error:
        raise DsmapError(
            f"cannot make the cache folder {folder}: {error.strerror or error}",
            f"Set {VARIABLE} to a folder of yours that can be written to.",
        ) from error
    check_private(name)
    return folder


def check_private(name: str) -> None:
    """Raises DsmapError as `private_folder` does, for a folder that exists; nothing is created.

    Folders of ours that others could read, but not write, are made private.
    """
    cache = user_cache_folder()
    for path in (cache, cache / name):
        if os.path.lexists(path) and (fault := folder_fault(path)):
            raise fault
    if hasattr(os, "getuid"):
        for path in (cache, cache / name):
            if os.path.lexists(path) and (path != cache or _holds_only_ours(cache)):
                _close(path)


def folder_fault(path: Path) -> DsmapError | None:
    """Why code from `path` must not be run, and what to do; None for a folder that only this user can write to."""
    elsewhere = f"set {VARIABLE} to a folder of yours"
    try:
        found = path.lstat()
    except OSError as error:
        return DsmapError(f"cannot read the cache folder {path}: {error.strerror}", f"Check it, or {elsewhere}.")
    fact = f"the cache folder {path}"
    if stat.S_ISLNK(found.st_mode):
        return DsmapError(
            f"{fact} is a link, and what lies there is run as code", f"Remove the link, or {elsewhere} itself."
        )
    if not stat.S_ISDIR(found.st_mode):
        return DsmapError(f"{fact} is not a folder", f"Remove it, or {elsewhere}.")
    if not hasattr(os, "getuid"):
        return None
    if found.st_uid != os.geteuid():
        return DsmapError(
            f"{fact} belongs to another user (number {found.st_uid}, not {os.geteuid()}), and what lies there is run"
            " as code",
            f"Set {VARIABLE} to a folder of yours.",
        )
    if found.st_mode & _BY_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        return DsmapError(
            f"others may write to the cache folder {path} (mode {mode:04o}), and what lies there is run as code",
            f"If nobody else has used it: chmod 700 {path}. Else remove it, or {elsewhere}.",
        )
    return None


def _holds_only_ours(cache: Path) -> bool:
    """Whether $DSMAP_CACHE is for dsmap alone: the mode of any other folder, such as one's home, is not changed."""
    return all(name in _OURS for name in os.listdir(cache))


def _close(path: Path) -> None:
    if stat.S_IMODE(path.lstat().st_mode) & 0o077:
        try:
            path.chmod(_PRIVATE)
        except OSError as error:
            raise DsmapError(
                f"cannot close the cache folder {path} to others: {error.strerror}",
                f"Set {VARIABLE} to a folder of yours.",
            ) from error
