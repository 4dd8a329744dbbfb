"""The folder for uploads and results: private, bounded, and gone when the server is.

A server that was killed cannot remove its folder; the next one does. A folder in use is locked.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from dsmap.common.state_files import lock_folder
from dsmap.errors import DsmapError
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.request import ServeLimits

_PREFIX = "dsmap-serve-"
_MAKING_SECONDS = 60


class WorkFolder:
    """A context manager; every user of the server gets folders in it with random names."""

    def __init__(self, limits: ServeLimits, base: Path | None = None) -> None:
        """`base`: None: the system's folder for temporary files (TMPDIR)."""
        self._limits = limits
        self._base = Path(base or tempfile.gettempdir())
        self._promised = 0
        self._exits = ExitStack()

    def __enter__(self) -> "WorkFolder":
        remove_left_folders(self._base)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._base))  # 0700
        except OSError as error:
            raise DsmapError(
                f"no folder for uploads can be made in {self._base}: {error.strerror}", "Set TMPDIR to another folder."
            ) from error
        self._exits.enter_context(lock_folder(self.path))
        return self

    def __exit__(self, *_error: object) -> None:
        self._exits.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def new(self, kind: str) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.path))

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Keeps room for `size` bytes in the block. Raises RequestError (507) where there is none."""
        self.check_room(size)
        self._promised += size
        try:
            yield
        finally:
            self._promised -= size

    def check_room(self, size: int = 0) -> None:
        """Raises RequestError (507) unless `size` bytes more may be written."""
        wanted = size + self._promised
        used, free = self.used_bytes(), shutil.disk_usage(self.path).free
        if used + wanted > self._limits.disk_bytes or wanted > free - self._limits.disk_reserve:
            raise RequestError(
                507, "the server has no room for another upload", "Try again later, or send a smaller file."
            )

    def used_bytes(self) -> int:
        """Of all files in the folder."""
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(OSError):  # it was deleted meanwhile
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


def remove_left_folders(base: Path) -> None:
    """Removes the folders of this user's servers that do not run any more."""
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, DsmapError):  # a running server's, or somebody else's
            if _is_ours(folder) and not _is_being_made(folder):
                with lock_folder(folder):
                    pass
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _is_being_made(folder: Path) -> bool:
    """Whether another server may be about to lock it."""
    return not (folder / ".lock").exists() and time.time() - folder.stat().st_mtime < _MAKING_SECONDS
