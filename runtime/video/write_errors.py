"""Errors for videos and animated images that cannot be written."""

import errno
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av

from dsmap.errors import DsmapError
from dsmap.runtime.video.pipes import OUTPUT_NAME

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full_disk(error: av.FFmpegError | OSError) -> bool:
    """Whether the disk is full; libav's errors carry the system's error numbers too."""
    return error.errno in _DISK_FULL


def write_error(path: Path, error: av.FFmpegError | OSError, *, frames: int, advice: str) -> DsmapError:
    """The error to raise for `error` after `frames` written frames. `advice`: unless the disk is full."""
    if is_full_disk(error) and path == Path(OUTPUT_NAME):
        return DsmapError(
            f"{OUTPUT_NAME} has no room for the result (after {frames} frames)", "free some space where it goes to"
        )
    if is_full_disk(error):
        return DsmapError(
            f"the disk is full: {path.parent} has no room for the result (after {frames} frames)",
            "free some space, or pass -o with a folder on another disk",
        )
    return DsmapError(f"{path} could not be written: {error.strerror or error}", advice)
