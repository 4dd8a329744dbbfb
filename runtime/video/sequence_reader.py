"""Reading numbered images as a video: `frames/%05d.png` or `frames/*.png`."""

import glob
import itertools
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.packet import Packet

from dsmap.common.images import IMAGE_SUFFIXES, image_size, kind_of, read_rgb
from dsmap.common.notify import Notify
from dsmap.errors import InputError
from dsmap.runtime.video.addresses import NetworkSettings, is_address
from dsmap.runtime.video.animation_reader import AnimationReader
from dsmap.runtime.video.frame import ArrayPool, Frame
from dsmap.runtime.video.hardware import OFF
from dsmap.runtime.video.image_frames import ImageFrames
from dsmap.runtime.video.pipes import is_piped_in
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.scaling import size_at_height
from dsmap.runtime.video.trim import Seconds, exact, trim_range

_NUMBER = re.compile(r"%(0?)(\d*)d")
_WILD = re.compile(r"[*?\[]")


class SequenceReader(ImageFrames):
    """Reads the images of `source` in natural order (2 before 10), each shown for 1/`rate` seconds.

    The interface is that of `VideoReader`: iterate over `Frame`s. `start` and `end` in seconds; times begin at 0.
    An image that cannot be read is skipped, leaving a gap: `failed_packets` counts them. `notes` reports gaps in the
    numbering. Raises InputError when there are no images, or their sizes differ.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        rate: Fraction | float | int = 25,
        height: int | None = None,
        start: Seconds | None = None,
        end: Seconds | None = None,
        frames: int | None = None,
        pool: ArrayPool | None = None,
    ) -> None:
        if rate <= 0:
            raise InputError(f"--rate is {rate}", "give images per second, such as 25")
        super().__init__(source, pool)
        self.rate = exact(rate)
        self.time_base = 1 / self.rate
        images = sequence_images(source)
        trim = trim_range(start, end, frames)
        first = math.ceil((trim.start or 0) * self.rate)
        last = len(images) if trim.end is None else math.ceil(trim.end * self.rate)
        self.images = images[first:last][: trim.frames]
        if not self.images:
            length = float(len(images) / self.rate)
            raise InputError(f"{source} has no image in the time asked for: it lasts {length:g} s", "ask for less")
        self.notes = _gaps(self.images)
        self.expected_frames = len(self.images)
        self.expected_seconds = float(len(self.images) / self.rate)
        self._check_sizes()
        self._size = self._first_size()
        self.width, self.height = size_at_height(*self._size, height)

    def __iter__(self) -> Iterator[Frame | Packet]:
        for index, path in enumerate(self.images):
            if self._cancelled:
                return
            try:
                image_rgb = read_rgb(path)
            except InputError:
                self.failed_packets += 1
                continue
            if (image_rgb.shape[1], image_rgb.shape[0]) != self._size:
                raise self._differs(path, image_rgb.shape[1], image_rgb.shape[0])
            yield Frame(self._scaled(image_rgb), index, 1)

    def _first_size(self) -> tuple[int, int]:
        fault: InputError | None = None
        for path in self.images:
            try:
                height, width = read_rgb(path).shape[:2]
                return width, height
            except InputError as error:
                fault = fault or error
        assert fault is not None
        raise fault

    def _check_sizes(self) -> None:
        """Check headers before any work. Sides may be swapped: the image may be rotated when it is read."""
        expected: tuple[int, int] | None = None
        for path in self.images:
            size = image_size(path)
            if size is None:
                continue
            if expected is not None and sorted(size) != sorted(expected):
                self._size = expected
                raise self._differs(path, *size)
            expected = expected or size

    def _differs(self, path: Path, width: int, height: int) -> InputError:
        return InputError(
            f"{path} is {width}x{height}, but the first image is {self._size[0]}x{self._size[1]}",
            "all images of a sequence must have one size: resize it, or take it out",
        )


def open_reader(
    source: str | Path,
    *,
    rate: Fraction | float | int | None = None,
    height: int | None = None,
    start: Seconds | None = None,
    end: Seconds | None = None,
    frames: int | None = None,
    programme: int | None = None,
    deinterlace: bool = False,
    ten_bits: bool = False,
    hwaccel: str = OFF,
    on_device: bool = False,
    pool: ArrayPool | None = None,
    network: NetworkSettings | None = None,
    notify: Notify | None = None,
) -> VideoReader | SequenceReader | AnimationReader:
    """A `SequenceReader` for a pattern of images (at `rate` per second, 25), an `AnimationReader` for an animated
    image, otherwise a `VideoReader`. Raises InputError for a still image, which is not a video of one frame.
    """
    if is_sequence(source):
        return SequenceReader(source, rate=rate or 25, height=height, start=start, end=end, frames=frames, pool=pool)
    kind = None if is_address(source) or is_piped_in(source) else kind_of(Path(source))
    if kind is not None and kind.role == "animation":
        return AnimationReader(source, height=height, start=start, end=end, frames=frames, pool=pool)
    if kind is not None and kind.role in ("image", "unread") and kind.format:
        advice = "Use translate_image." if kind.role == "image" else "Convert it to PNG or JPEG first."
        raise InputError(f"{source} is an image ({kind.format}), not a video", advice)
    return VideoReader(
        source,
        height=height,
        start=start,
        end=end,
        frames=frames,
        programme=programme,
        deinterlace=deinterlace,
        ten_bits=ten_bits,
        hwaccel=hwaccel,
        on_device=on_device,
        pool=pool,
        network=network,
        notify=notify,
    )


def is_sequence(source: str | Path) -> bool:
    """Whether `source` is a pattern of image names: with %d, %05d, *, ? or [...], and not an existing file."""
    if is_address(source):
        return False
    path = Path(source)
    patterned = _NUMBER.search(path.name) or _WILD.search(str(path))
    return bool(patterned) and path.suffix.lower() in IMAGE_SUFFIXES and not path.exists()


def sequence_images(source: str | Path) -> list[Path]:
    """The images that match the pattern `source`, in natural order. Raises InputError when there are none."""
    path = Path(source)
    number = _NUMBER.search(path.name)
    if number:
        digits = rf"\d{{{number[2]},}}" if number[1] and number[2] else r"\d+"
        name = re.compile(
            re.escape(path.name[: number.start()].replace("%%", "%"))
            + f"({digits})"
            + re.escape(path.name[number.end() :].replace("%%", "%"))
        )
        folder = path.parent
        found = [one for one in folder.iterdir() if name.fullmatch(one.name)] if folder.is_dir() else []
    else:
        found = [Path(one) for one in glob.glob(str(path))]
    images = sorted((one for one in found if one.is_file()), key=natural_key)
    if not images:
        raise InputError(f"{source} matches no image", "check the folder and the pattern, such as frames/%05d.png")
    return images


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that orders names by their numbers: 2 before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], str(path)


def _gaps(images: list[Path]) -> tuple[str, ...]:
    """A note on numbers missing between the first and the last."""
    numbers = []
    for path in images:
        found = re.findall(r"\d+", path.stem)
        if not found:
            return ()
        numbers.append(int(found[-1]))
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    stems = {re.sub(r"\d+(?=\D*$)", "", path.stem) for path in images}
    if missing <= 0 or len(stems) > 1:
        return ()
    after = next(one for one, two in itertools.pairwise(numbers) if two != one + 1)
    are = "number is" if missing == 1 else "numbers are"
    return (f"{missing} {are} missing between the images, the first after {after}: they follow without a pause",)
