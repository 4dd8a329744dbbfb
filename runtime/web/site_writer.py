"""Writes the files of a site into a new folder; those that an earlier site has already are not written again."""

import os
from pathlib import Path


class SiteWriter:
    """Fills the folder `part`. What is the same in `before`, byte by byte, is linked from there and not written."""

    def __init__(self, part: Path, before: Path | None = None) -> None:
        self.part, self._before = part, before
        self.new_bytes = 0
        """How many bytes were written."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, or links it. Raises OSError."""
        path = self.part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # never through a link into the earlier site
        if not self._linked(name, path, data):
            path.write_bytes(data)
            self.new_bytes += len(data)

    def _linked(self, name: str, path: Path, data: bytes) -> bool:
        if self._before is None:
            return False
        there = self._before / name
        try:
            if there.is_symlink() or there.stat().st_size != len(data) or there.read_bytes() != data:
                return False
            os.link(there, path)
        except OSError:  # it is not there, or this file system has no links
            return False
        return True
