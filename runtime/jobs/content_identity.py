"""Content hashes of files: the same after a copy, different after an edit, quick for any size."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

_BLOCK, _BLOCKS = 256 * 1024, 256  # 64 MiB in all


def content_identity(path: Path) -> dict[str, Any]:
    """The size and a SHA-256 of the content, in JSON's types. Raises OSError, also for what is not a regular file.

    Up to 64 MiB every byte is hashed. Of larger files it is 256 blocks of 256 KiB, spread evenly from start to end:
    that takes 0.1 to 3 s, where reading 50 GB from a disk or a network takes minutes. A video that was encoded or cut
    again differs in nearly every block and in its size. Only a change of the same length within the gaps goes
    unnoticed, and nobody makes one by accident. Times are not included: a copy has others.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb", buffering=0) as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a file")
        digest, size = hashlib.sha256(), found.st_size
        for start in _starts(size):
            file.seek(start)
            digest.update(file.read(_BLOCK) or b"")
    return {"bytes": size, "sha256": digest.hexdigest()}


def _starts(size: int) -> range | list[int]:
    """Where the blocks begin."""
    if size <= _BLOCK * _BLOCKS:
        return range(0, size, _BLOCK)
    return [(size - _BLOCK) * number // (_BLOCKS - 1) for number in range(_BLOCKS)]
