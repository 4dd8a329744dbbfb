"""Writing an image sequence: one numbered image per frame.

    frames/%05d.png  ->  frames/00001.png, frames/00002.png, ...

Images have no clock: timestamps, audio and everything else besides the frames are dropped.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from dsmap.common.atomic import rename_no_replace, sync_folder, sync_tree
from dsmap.common.files import is_regular
from dsmap.common.images import IMAGE_SUFFIXES, WRITTEN_SUFFIXES, write_rgb
from dsmap.common.output_files import check_folder_writable, check_name, identity, keep_beside
from dsmap.common.part_files import part_folder
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.video.animation_writer import AnimationWriter
from dsmap.runtime.video.piped_writer import PipedWriter
from dsmap.runtime.video.pipes import is_piped_out
from dsmap.runtime.video.writer import VideoWriter

_NUMBER = re.compile(r"%(0[1-9])?d")
_WRITTEN = WRITTEN_SUFFIXES


def is_sequence(output: Path) -> bool:
    """Whether the name asks for an image sequence: an image's name with a placeholder for the number."""
    return output.suffix.lower() in IMAGE_SUFFIXES and _NUMBER.search(output.name) is not None


def check_sequence(output: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise InputError unless images of that pattern may be written. Their folder may not exist yet.

    With `overwrite` earlier ones are replaced, but never one that is among `inputs`.
    """
    check_name(output, "-o")
    if len(_NUMBER.findall(output.name)) != 1 or "%" in _NUMBER.sub("", output.name):
        raise InputError(
            f"{output.name} is not a pattern for numbered images", "put one number in it: -o frames/%05d.png"
        )
    if output.suffix.lower() not in _WRITTEN:
        raise InputError(f"cannot write images as {output.suffix}", f"use one of {', '.join(_WRITTEN)}")
    if "%" in str(output.parent):
        raise InputError(f"the folder {output.parent} has a % in its name", "put the number into the image's name")
    folder = output.parent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", "name a folder for the images with -o")
    check_folder_writable(folder if folder.exists() else folder.parent, "-o")
    there = written_images(output)
    if there and not overwrite:
        raise InputError(
            f"{there[0]} exists already",
            "pass --overwrite to replace the sequence, or another name with -o",
        )
    if taken := next((path for path in there if path.is_dir() and not path.is_symlink()), None):
        raise InputError(f"{taken} is a folder", "move it away, or name another folder with -o")
    read = {identity(path) for path in inputs} if there else set()
    if taken := next((path for path in there if identity(path) in read), None):
        raise InputError(f"{taken} is one of the inputs", "name another folder with -o")


def open_writer(
    path: Path,
    *,
    overwrite: bool = False,
    animation: bool = False,
    plays: int = 0,
    stopped: Callable[[], bool] = bool,
    **options: Any,
) -> "VideoWriter | SequenceWriter | AnimationWriter":
    """The writer that `path`'s name asks for. `options`: those of `VideoWriter`; images need none.

    `animation`: an animated image, to be played `plays` times. `stopped`: see `PipedWriter`.
    """
    if animation:
        size = {name: options[name] for name in ("width", "height", "time_base")}
        return AnimationWriter(path, overwrite=overwrite, plays=plays, **size)
    if is_piped_out(path):
        return PipedWriter(stopped, **options)
    return SequenceWriter(path, overwrite=overwrite) if is_sequence(path) else VideoWriter(path, **options)


class SequenceWriter:
    """Writes frames as images, numbered from 1. They all get their names in `close()`.

    Until then they are in a temporary folder inside or beside the final one. `path`: the pattern. Raises InputError
    like `check_sequence`, DsmapError when an image cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_sequence(path, overwrite=overwrite)
        self.path = path
        self.frames = 0
        self.dropped_packets = 0
        self._overwrite = overwrite
        self._closed = False
        folder = path.parent.absolute()
        try:
            self._part = part_folder(folder / "frames" if folder.exists() else folder)
        except OSError as error:
            raise DsmapError(
                f"cannot write into {folder}: {error.strerror}", "check the folder and the disk"
            ) from error

    def write(self, rgb: npt.NDArray[np.uint8], pts: int, duration: int = 0) -> None:
        """Write one frame: uint8 (H, W, 3). Its time is not kept."""
        write_rgb(self._part / self._name(self.frames + 1), rgb, durable=False)  # all are flushed in `close`
        self.frames += 1

    def copy(self, packet: Packet) -> None:
        """Do nothing: images have no sound."""

    def close(self, *, drop_audio_after_video: bool = False, interrupted: bool = False) -> None:
        """Flush the images to disk and give them their names: all of them, or after Ctrl-C those that were done.

        Raises DsmapError when that fails, saying where they are. Later calls do nothing.
        """
        if self._closed:
            return
        self._closed = True
        folder = self.path.parent
        try:
            sync_tree(self._part)
            self._name_all(folder, interrupted=interrupted)
        except OSError as error:
            place = keep_beside(self._part, folder / "frames" if self._part.parent == folder.absolute() else folder)
            named = any(is_regular(folder / self._name(number)) for number in range(1, self.frames + 1))
            also = " or under their names" if named and self._overwrite else ""
            fact = f"the finished images could not be named {self.path}: {error.strerror}"
            raise DsmapError(fact, f"they are complete and lie in {place}{also}") from error

    def discard(self) -> None:
        """Remove the images of an unfinished sequence; a closed one stays."""
        if not self._closed:
            self._closed = True
            shutil.rmtree(self._part, ignore_errors=True)

    def _name_all(self, folder: Path, *, interrupted: bool) -> None:
        if not folder.exists():
            try:
                rename_no_replace(self._part, folder)
            except FileExistsError:  # made this moment: the images go into it
                pass
            else:
                sync_folder(folder.absolute().parent)
                return
        earlier = written_images(self.path)
        if earlier and not self._overwrite:
            raise FileExistsError(0, f"another process has created {earlier[0].name} meanwhile")
        names = [self._name(number) for number in range(1, self.frames + 1)]
        self._move(names, folder)
        if not interrupted:
            for path in self._beyond(earlier):
                path.unlink()  # an earlier, longer result: its end does not belong to this one
        self._part.rmdir()
        sync_folder(folder)

    def _move(self, names: Sequence[str], folder: Path) -> None:
        """Rename all of them, or after an error none, unless earlier ones were replaced."""
        moved: list[str] = []
        try:
            for name in names:
                if self._overwrite:
                    (self._part / name).replace(folder / name)
                else:
                    rename_no_replace(self._part / name, folder / name)
                    moved.append(name)
        except OSError:
            for name in moved:
                rename_no_replace(folder / name, self._part / name)
            raise

    def _beyond(self, earlier: Sequence[Path]) -> list[Path]:
        """The earlier images that continue this sequence without a gap."""
        known = {path.name: path for path in earlier if is_regular(path)}
        number, found = self.frames + 1, []
        while path := known.get(self._name(number)):
            found.append(path)
            number += 1
        return found

    def _name(self, number: int) -> str:
        return self.path.name % number


def written_images(pattern: Path) -> list[Path]:
    """Existing images of the pattern, by number."""
    if not pattern.parent.is_dir():
        return []
    start, _, end = _NUMBER.sub("\0", pattern.name).partition("\0")
    named = re.compile(rf"{re.escape(start)}(\d+){re.escape(end)}")
    found = [(int(match[1]), path) for path in pattern.parent.iterdir() if (match := named.fullmatch(path.name))]
    return [path for number, path in sorted(found) if pattern.name % number == path.name]


def is_image_of(pattern: Path, path: Path) -> bool:
    """Whether a sequence of the pattern may write an image with this name."""
    start, _, end = _NUMBER.sub("\0", pattern.name).partition("\0")
    match = re.fullmatch(rf"{re.escape(start)}(\d+){re.escape(end)}", path.name, re.ASCII)
    same_folder = identity(pattern.parent) == identity(path.parent)
    return same_folder and match is not None and pattern.name % int(match[1]) == path.name
