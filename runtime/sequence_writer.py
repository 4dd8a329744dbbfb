"""Writes an image sequence: one numbered picture per frame, instead of a video.

    frames/%05d.png  ->  frames/00001.png, frames/00002.png, ...

Pictures have no clock: timestamps, audio and everything else beside the frames stay behind.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from dsmap.common.files import check_folder_writable
from dsmap.errors import DsmapError, InputError
from dsmap.images import PICTURE_SUFFIXES, write_picture
from dsmap.runtime.output_files import part_path
from dsmap.runtime.video_writer import VideoWriter

_NUMBER = re.compile(r"%(0[1-9])?d")
_WRITTEN = (".png", ".jpg", ".jpeg", ".webp")


def is_sequence(output: Path) -> bool:
    """Whether the name asks for an image sequence: a picture's, with a place for the number."""
    return output.suffix.lower() in PICTURE_SUFFIXES and _NUMBER.search(output.name) is not None


def check_sequence(output: Path, *, overwrite: bool) -> None:
    """Raise InputError unless pictures of that pattern may be written: into a folder, which may be missing itself."""
    if len(_NUMBER.findall(output.name)) != 1 or "%" in _NUMBER.sub("", output.name):
        raise InputError(
            f"{output.name} is no pattern for numbered pictures", "put one number in it: -o frames/%05d.png"
        )
    if output.suffix.lower() not in _WRITTEN:
        raise InputError(f"cannot write pictures as {output.suffix}", f"use one of {', '.join(_WRITTEN)}")
    if "%" in str(output.parent):
        raise InputError(f"the folder {output.parent} has a % in its name", "put the number into the picture's name")
    folder = output.parent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", "name a folder for the pictures with -o")
    check_folder_writable(folder if folder.exists() else folder.parent, "-o")
    if not overwrite and (there := _existing(output)):
        raise InputError(
            f"{there[0]} exists already",
            "pass --overwrite to replace the sequence, or another name with -o",
        )


def open_writer(path: Path, *, overwrite: bool = False, **options: Any) -> "VideoWriter | SequenceWriter":
    """The writer that `path`'s name asks for. `options`: those of `VideoWriter`, of which pictures need none."""
    return SequenceWriter(path, overwrite=overwrite) if is_sequence(path) else VideoWriter(path, **options)


class SequenceWriter:
    """Writes frames as pictures, numbered from 1. They appear under their names together, in `close()`.

    Until then they grow in a folder of their own, in the one they will be in or beside it. `path`: the pattern. Raises
    InputError as `check_sequence` does, DsmapError when a picture cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_sequence(path, overwrite=overwrite)
        self.path = path
        self.frames = 0
        self.dropped_packets = 0
        self._overwrite = overwrite
        folder = path.parent.absolute()
        self._part = part_path(folder / "frames" if folder.exists() else folder)
        try:
            self._part.mkdir()
        except OSError as error:
            raise DsmapError(
                f"{self._part} cannot be made: {error.strerror}", "check the folder and the disk"
            ) from error

    def write(self, rgb: npt.NDArray[np.uint8], pts: int, duration: int = 0) -> None:
        """Write one frame: uint8 (H, W, 3). Its time is not kept."""
        write_picture(self._part / self._name(self.frames + 1), rgb)
        self.frames += 1

    def copy(self, packet: Packet) -> None:
        """Pictures have no sound: nothing is done."""

    def close(self, *, drop_audio_after_video: bool = False, interrupted: bool = False) -> None:
        """Give the pictures their names: all of them, or after Ctrl-C those that were done.

        Raises DsmapError when that fails; it says where they are.
        """
        folder = self.path.parent
        try:
            if not folder.exists():
                self._part.rename(folder)
                return
            earlier = _existing(self.path)
            if earlier and not self._overwrite:
                raise FileExistsError(0, f"somebody else has made {earlier[0].name} meanwhile")
            names = [self._name(number) for number in range(1, self.frames + 1)]
            for name in names:
                (self._part / name).replace(folder / name)
            for path in earlier:
                if path.name not in names:
                    path.unlink()  # a longer result than this one: its end does not belong to it
            self._part.rmdir()
        except OSError as error:
            fact = f"the finished pictures could not be named {self.path}: {error.strerror}"
            raise DsmapError(fact, f"they are whole, and lie in {self._part} or under their names") from error

    def discard(self) -> None:
        """Remove the pictures of an unfinished sequence."""
        shutil.rmtree(self._part, ignore_errors=True)

    def _name(self, number: int) -> str:
        return self.path.name % number


def _existing(pattern: Path) -> list[Path]:
    """The pictures of that pattern that are there, by number."""
    if not pattern.parent.is_dir():
        return []
    start, _, end = _NUMBER.sub("\0", pattern.name).partition("\0")
    named = re.compile(rf"{re.escape(start)}(\d+){re.escape(end)}")
    found = [(int(match[1]), path) for path in pattern.parent.iterdir() if (match := named.fullmatch(path.name))]
    return [path for number, path in sorted(found) if pattern.name % number == path.name]
