"""What a refiner learns from: parts of pictures, of their translations at full size, and of those of a lower height.

Each picture is translated once at full size and twice at a lower one; patches of all that lie in one file on the disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsmap.common.images import read_rgb
from dsmap.common.notify import Notify
from dsmap.errors import InputError
from dsmap.training.generator_run import report_images

Pixels = npt.NDArray[np.uint8]

PATCH = 160
"""Pixels of a side; what a smaller picture lacks is mirrored."""
_PATCHES = 4  # of one picture at each of its two heights
_LEAST, _MOST = 256, 720  # shorter side that pictures are brought to: larger ones would take long to translate
_LARGEST_ZOOM = 2.0
_RATIOS = (1.5, 4.0)
_BLOCK = 4


class RefinerTeacher(Protocol):
    """Translates in one direction, at any size."""

    source: str
    target: str

    def translate(self, frame_rgb: Pixels, seed: int | None) -> Pixels:
        """The translation of a frame, in the default style or in a random one."""

    def enlarge(self, frame_rgb: Pixels, small_rgb: Pixels, translated_rgb: Pixels) -> Pixels:
        """The translation of a smaller frame at the frame's size, as it is to be refined."""


@dataclass(frozen=True)
class Patches:
    """Patches of pictures, enlarged translations and translations at full size."""

    rgb: Pixels
    """uint8 (N, 3, P, P, 3), the three along the second axis."""

    def __len__(self) -> int:
        return len(self.rgb)

    def tensors(self, places: Sequence[int], flips: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """Levels (n, 3, P, P) of the patches at `places`, some of them mirrored: frame, base, aim."""
        chosen = [self.rgb[at][:, :, ::-1] if flip else self.rgb[at] for at, flip in zip(places, flips, strict=True)]
        levels = torch.from_numpy(np.ascontiguousarray(np.stack(chosen))).permute(1, 0, 4, 2, 3).float()
        return levels[0], levels[1], levels[2]


def make_patches(
    teacher: RefinerTeacher, paths: Sequence[Path], file: Path, seed: int, say: Notify = lambda _line: None
) -> Patches:
    """Translates pictures and writes patches of them to `file`, an .npy; half of them in random styles.

    Pictures that cannot be read are left out. `say` gets a line about each of them, and about how many are done.
    Raises InputError where there are not enough that can.
    """
    chance, count = np.random.default_rng(seed), 0
    shape = (len(paths) * 2 * _PATCHES, 3, PATCH, PATCH, 3)
    patches = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    for path in report_images(paths, say):
        try:
            picture_rgb = read_rgb(path, at_least=_MOST)
        except InputError as error:
            say(f"skipped a broken image: {error.fact}")
            continue
        frame_rgb = _at_a_size(picture_rgb, chance)
        if min(frame_rgb.shape[:2]) >= 2 * _BLOCK * _BLOCK:
            for one in _patches_of(teacher, frame_rgb, chance):
                patches[count] = one
                count += 1
    if not count:
        raise InputError(
            f"there are {len(paths)} images of {teacher.source}, none of which can be used",
            "Pass images of at least 32x32 pixels.",
        )
    return Patches(patches[:count])


def _at_a_size(picture_rgb: Pixels, chance: np.random.Generator) -> Pixels:
    """The picture at a height of some frame, in whole blocks: edges are as soft as in video there."""
    height, width = picture_rgb.shape[:2]
    side = min(height, width)
    low, high = min(side, _LEAST), min(max(side, _LEAST) * _LARGEST_ZOOM, _MOST, side * _LARGEST_ZOOM)
    factor = chance.uniform(low, max(low, high)) / side
    size = tuple(max(_BLOCK, round(length * factor) // _BLOCK * _BLOCK) for length in (width, height))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture_rgb, size, interpolation=kind), np.uint8)


def _patches_of(teacher: RefinerTeacher, frame_rgb: Pixels, chance: np.random.Generator) -> Iterator[Pixels]:
    """Patches (3, PATCH, PATCH, 3) of one picture."""
    height, width = frame_rgb.shape[:2]
    style = None if chance.random() < 0.5 else int(chance.integers(1 << 31))
    aim_rgb = teacher.translate(frame_rgb, style)
    high, wide = min(PATCH, height), min(PATCH, width)
    lacks = [(0, 0), (0, PATCH - high), (0, PATCH - wide), (0, 0)]
    for _ in range(2):
        ratio = chance.uniform(*_RATIOS)
        size = max(_BLOCK, round(width / ratio)), max(_BLOCK, round(height / ratio))
        small_rgb = np.asarray(cv2.resize(frame_rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        base_rgb = teacher.enlarge(frame_rgb, small_rgb, teacher.translate(small_rgb, style))
        for _ in range(_PATCHES):
            top, left = chance.integers(height - high + 1), chance.integers(width - wide + 1)
            rows, columns = slice(top, top + high), slice(left, left + wide)
            yield np.pad(np.stack([rgb[rows, columns] for rgb in (frame_rgb, base_rgb, aim_rgb)]), lacks, "symmetric")
