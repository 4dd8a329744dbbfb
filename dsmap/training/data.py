"""Batches of unpaired training images, as a pure function of (seed, step).

There is no random state: the images of batch `t`, their crops and flips depend only on (seed, t). A training resumed at
step t therefore sees exactly the same batches, with any number of workers.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from dsmap.common.distributed import Processes
from dsmap.common.images import read_rgb, resize_shorter_side
from dsmap.common.notify import Notify
from dsmap.config import DataConfig
from dsmap.errors import InputError
from dsmap.training.datasets import Domains
from dsmap.training.image_tensors import to_nchw
from dsmap.training.readers import MAX_AHEAD, Readers

# A larger share of broken images in a domain (and more than one image) stops the training.
BROKEN_SHARE = 0.1

# One stream of random numbers per purpose, so that none repeats another's.
_ORDER, _AUGMENT, _REPLACE = range(3)


class Broken(NamedTuple):
    """A training image that cannot be read: `side` is 0 for domain A and 1 for B, `fact` says why."""

    side: int
    path: Path
    fact: str


class Batch(NamedTuple):
    """The images of a training step, float32 (B, 3, h, w) RGB in [-1, 1], and their paths.

    Each of several processes has its own share. `broken` lists images that could not be read and were replaced.
    """

    step: int
    x_a_nchw: torch.Tensor
    x_b_nchw: torch.Tensor
    paths_a: tuple[Path, ...]
    paths_b: tuple[Path, ...]
    broken: tuple[Broken, ...]


class _Read(NamedTuple):
    """A batch as read: uint8 (B, h, w, 3), a quarter of the size of float32."""

    step: int
    a_rgb: npt.NDArray[np.uint8]
    b_rgb: npt.NDArray[np.uint8]
    paths_a: tuple[Path, ...]
    paths_b: tuple[Path, ...]
    broken: tuple[Broken, ...]


class UnpairedBatches(Dataset[Batch]):
    """`batches[t]` is training step t's Batch: any t >= 0, in any order, always the same images.

    Each domain has epochs of its own length, each shuffled anew. An image's shorter side is resized to `shorter_side`
    (times a factor drawn from `scale_jitter`), a random `crop_hw` is cut out, and half are flipped horizontally if
    `flip`. Together, several `processes` get the batch that one process would get with their total batch size.
    Raises InputError when the crop does not fit, or there is no replacement for a broken image.
    """

    def __init__(
        self,
        domains: Domains,
        *,
        shorter_side: int,
        crop_hw: tuple[int, int],
        batch_size: int,
        seed: int,
        flip: bool = True,
        scale_jitter: tuple[float, float] = (1.0, 1.0),
        processes: Processes | None = None,
    ) -> None:
        smallest = shorter_side * scale_jitter[0]
        if not 0 < scale_jitter[0] <= scale_jitter[1]:
            raise InputError(f"scale_jitter is {scale_jitter}.", "Use two factors above 0, the smaller first: 0.9 1.1.")
        if max(crop_hw) > smallest:
            raise InputError(
                f"The crop {crop_hw[0]}x{crop_hw[1]} does not fit: the shorter side is resized to {smallest:g}.",
                f"Use a crop of at most {int(smallest)}, or a longer shorter_side.",
            )
        if batch_size < 1 or seed < 0 or min(crop_hw) < 1:
            raise InputError(
                f"batch_size is {batch_size}, seed {seed}, crop {crop_hw}.",
                "batch_size and crop are 1 or more, seed 0 or more.",
            )
        self.domains = domains
        self.shorter_side, self.crop_hw, self.scale_jitter = shorter_side, crop_hw, scale_jitter
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.processes = processes or Processes()
        self._known_broken: dict[Path, str] = {}  # saves reading them again; does not change results
        self._reported: dict[Path, int] = {}  # broken images and their sides

    @classmethod
    def of(cls, domains: Domains, data: DataConfig, seed: int, processes: Processes | None = None) -> "UnpairedBatches":
        """The batches that the settings `data` describe."""
        return cls(
            domains,
            shorter_side=data.shorter_side,
            crop_hw=(data.crop, data.crop),
            batch_size=data.batch_size,
            seed=seed,
            flip=data.flip,
            scale_jitter=data.scale_jitter,
            processes=processes,
        )

    def __getitem__(self, step: int) -> Batch:
        return _as_batch(self._read(step))

    def loader(
        self,
        start: int,
        stop: int,
        *,
        workers: int = 0,
        ahead: int = MAX_AHEAD,
        pin_memory: bool = False,
        on_broken: Callable[[Broken], None] | None = None,
        stop_asked: Callable[[], bool] = lambda: False,
        say: Notify = lambda _line: None,
    ) -> Iterator[Batch]:
        """Batches start .. stop - 1 in order; each of `workers` processes (0: this one) reads `ahead` of them.

        `on_broken` is called once for each unreadable image over all calls. Raises InputError once there are too many,
        and DsmapError when a process dies. While waiting for a batch, iteration ends early if `stop_asked`, and `say`
        gets a line each minute.
        """
        for batch in self._batches(range(start, stop), workers, ahead, pin_memory, stop_asked, say):
            for broken in batch.broken:
                self._report(broken, on_broken)
            yield batch

    def _batches(
        self,
        steps: range,
        workers: int,
        ahead: int,
        pin_memory: bool,
        stop_asked: Callable[[], bool],
        say: Notify,
    ) -> Iterator[Batch]:
        # Another thread would use the first GPU by default.
        prepare = partial(_pinned, device=torch.cuda.current_device()) if pin_memory else _as_batch
        if not workers:
            yield from (prepare(self._read(step)) for step in steps)
            return
        readers = Readers(
            self._read,
            steps.start,
            steps.stop,
            count=workers,
            ahead=ahead,
            prepare=prepare,
            stop_asked=stop_asked,
            say=say,
        )
        with closing(readers):
            yield from readers

    def _read(self, step: int, opening: Callable[[Path], None] = lambda _path: None) -> _Read:
        """Batch `step`; `opening` is called before each image is read."""
        broken: list[Broken] = []
        a_rgb, paths_a = self._half(0, step, broken, opening)
        b_rgb, paths_b = self._half(1, step, broken, opening)
        return _Read(step, a_rgb, b_rgb, paths_a, paths_b, tuple(broken))

    def _report(self, broken: Broken, on_broken: Callable[[Broken], None] | None) -> None:
        """Report a broken image the first time it is met."""
        if broken.path in self._reported:
            return
        self._reported[broken.path] = broken.side
        if on_broken is not None:
            on_broken(broken)
        count = list(self._reported.values()).count(broken.side)
        if count > self._allowed(broken.side):
            raise self._too_many(broken.side, count, broken)

    def _half(
        self, side: int, step: int, broken: list[Broken], opening: Callable[[Path], None]
    ) -> tuple[npt.NDArray[np.uint8], tuple[Path, ...]]:
        """One domain's half of batch `step`; broken images are appended to `broken`."""
        crops, paths = [], []
        first = (step * self.processes.world_size + self.processes.rank) * self.batch_size
        for position in range(first, first + self.batch_size):
            path, image_rgb = self._image(side, position, broken, opening)
            crops.append(self._augment(image_rgb, np.random.default_rng((self.seed, _AUGMENT, side, position))))
            paths.append(path)
        return np.stack(crops), tuple(paths)

    def _image(
        self, side: int, position: int, broken: list[Broken], opening: Callable[[Path], None]
    ) -> tuple[Path, npt.NDArray[np.uint8]]:
        images = self.domains[side].train
        epoch, place = divmod(position, len(images))
        index = int(_order(self.seed, side, epoch, len(images))[place])
        replacements: Iterator[int] | None = None
        failed: set[int] = set()
        while True:
            path = images[index]
            if path not in self._known_broken:
                opening(path)
                try:
                    return path, read_rgb(path, at_least=round(self.shorter_side * self.scale_jitter[1]))
                except InputError as error:
                    self._known_broken[path] = error.fact
            failed.add(index)
            broken.append(Broken(side, path, self._known_broken[path]))
            if len(failed) > self._allowed(side) or len(failed) == len(images):
                raise self._too_many(side, len(failed), broken[-1])
            if replacements is None:  # drawn for this position only, so that (seed, step) still decides everything
                rng = np.random.default_rng((self.seed, _REPLACE, side, position))
                replacements = iter(rng.permutation(len(images)).tolist())
            index = next(candidate for candidate in replacements if candidate not in failed)

    def _augment(self, image_rgb: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        # All numbers are drawn, used or not: enabling one augmentation does not change the others.
        factor, top, left, mirror = rng.random(4)
        low, high = self.scale_jitter
        crop_h, crop_w = self.crop_hw
        # At least the crop's size, as rounding could fall short by a pixel.
        image_rgb = resize_shorter_side(
            image_rgb, max(round(self.shorter_side * (low + (high - low) * factor)), crop_h, crop_w)
        )
        height, width = image_rgb.shape[:2]
        y, x = int(top * (height - crop_h + 1)), int(left * (width - crop_w + 1))
        crop = image_rgb[y : y + crop_h, x : x + crop_w]
        return crop[:, ::-1] if self.flip and mirror < 0.5 else crop

    def _allowed(self, side: int) -> float:
        return max(1, BROKEN_SHARE * len(self.domains[side].train))

    def _too_many(self, side: int, count: int, last: Broken) -> InputError:
        domain = self.domains[side]
        return InputError(
            f"Too many broken images in domain {domain.name!r}: {count} of {len(domain.train)} so far, expected "
            f"at most {BROKEN_SHARE:.0%}. The last: {last.fact}",
            f"Repair or remove the broken files in {last.path.parent}.",
        )


def _as_batch(read: _Read) -> Batch:
    return Batch(read.step, to_nchw(read.a_rgb), to_nchw(read.b_rgb), read.paths_a, read.paths_b, read.broken)


def _pinned(read: _Read, *, device: int) -> Batch:
    """In pinned memory, from which the GPU `device` copies asynchronously."""
    batch = _as_batch(read)
    with torch.cuda.device(device):
        return batch._replace(x_a_nchw=batch.x_a_nchw.pin_memory(), x_b_nchw=batch.x_b_nchw.pin_memory())


@lru_cache(maxsize=8)
def _order(seed: int, side: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER, side, epoch)).permutation(count)
