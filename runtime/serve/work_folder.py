"""The folder for uploads and results: private, bounded, and gone when the server is.

A server that was killed cannot remove its folder; the next one does. A folder in use is locked.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from dsmap.common.state_files import lock_folder
from dsmap.errors import DsmapError
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.request import ServeLimits

_PREFIX = "dsmap-serve-"
_NAME = re.compile(f"{_PREFIX}[a-z0-9_]{{8}}")  # as mkdtemp makes them
_MARKER = ".dsmap-serve"  # in every folder that a server may remove


class Room:
    """Room that is kept for an upload: for what has not been written yet, since the rest lies in the folder."""

    def __init__(self, size: int) -> None:
        self.left = size

    def fill(self, size: int) -> None:
        """`size` bytes more have been written."""
        self.left = max(0, self.left - size)


class WorkFolder:
    """A context manager; every user of the server gets folders in it with random names."""

    def __init__(self, limits: ServeLimits, base: Path | None = None) -> None:
        """`base`: None: the system's folder for temporary files (TMPDIR)."""
        self._limits = limits
        self._base = Path(base or tempfile.gettempdir())
        self._rooms: list[Room] = []
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
        (self.path / _MARKER).touch(mode=0o600)  # after the lock: a folder with it is in use, or left behind
        return self

    def __exit__(self, *_error: object) -> None:
        self._exits.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def new(self, kind: str) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.path))

    @contextlib.contextmanager
    def room_for(self, size: int) -> Iterator[Room]:
        """Keeps room for `size` bytes in the block. Raises RequestError (507) where there is none."""
        self.check_room(size)
        room = Room(size)
        self._rooms.append(room)
        try:
            yield room
        finally:
            self._rooms.remove(room)

    def check_room(self, size: int = 0) -> None:
        """Raises RequestError (507) unless `size` bytes more may be written, beside those that room is kept for."""
        self._check(size + sum(room.left for room in tuple(self._rooms)))

    def check_written(self) -> None:
        """Raises RequestError (507) when what has been written is too much already."""
        self._check(0)

    def _check(self, wanted: int) -> None:
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
            if _NAME.fullmatch(folder.name) and _is_ours(folder):
                with lock_folder(folder):
                    pass
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return own and stat.S_ISDIR(found.st_mode) and (folder / _MARKER).is_file()
