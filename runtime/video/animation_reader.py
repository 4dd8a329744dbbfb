"""Reading animated images (GIF, WebP, PNG, AVIF) as videos: every frame with its time, on white, in sRGB."""

import io
import itertools
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
from av.packet import Packet

from dsmap.common.files import read_regular
from dsmap.common.images.animation import scan_animation
from dsmap.common.images.colour import kind_of_pixels, to_srgb
from dsmap.common.images.gif import GifFrames
from dsmap.common.images.header import read_header
from dsmap.common.images.pixels import finish_pixels
from dsmap.common.images.size import check_image_memory
from dsmap.errors import InputError
from dsmap.runtime.video.frame import ArrayPool, Frame, Pixels
from dsmap.runtime.video.image_frames import ImageFrames
from dsmap.runtime.video.scaling import size_at_height
from dsmap.runtime.video.trim import Seconds, TrimRange, trim_range

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_MAX_BYTES = 2**31
_WEBP_ALPHA = 0x10
_TIME_BASE = Fraction(1, 90_000)  # divisible by hundredths, milliseconds and common frame rates


class AnimationReader(ImageFrames):
    """Reads the frames of the animated image `source`; the interface is that of `VideoReader`.

    Frames are composed as browsers show them (disposal, blending, transparency on white). `start` and `end` in seconds;
    times begin at 0. `plays`: how often it is played, 0 for endlessly. `failed_packets` counts frames that are
    announced but do not decode. Raises InputError when no frame decodes, or one does not fit into memory.
    """

    time_base = _TIME_BASE

    def __init__(
        self,
        source: str | Path,
        *,
        height: int | None = None,
        start: Seconds | None = None,
        end: Seconds | None = None,
        frames: int | None = None,
        pool: ArrayPool | None = None,
    ) -> None:
        super().__init__(source, pool)
        self.path = path = Path(source)
        data = read_regular(path, limit=_MAX_BYTES, what="the animated image")
        self._header = read_header(data)
        try:
            check_image_memory(self._header.width, self._header.height)
        except InputError as error:
            raise InputError(f"Cannot read {source}: {error.fact}.", error.advice) from error
        self._animation = scan_animation(io.BytesIO(data), self._header.format)
        self.plays = self._animation.plays
        self._choose(trim_range(start, end, frames), self._animation.durations)
        self._opened = _open(path, data)
        self._gif = GifFrames(data) if self._header.format == "GIF" else None
        if self._header.format in ("GIF", "AVIF"):
            self._header.icc = self._opened.info.get("icc_profile")
        first = self._frame(self._first)
        if first is None:
            raise InputError(f"no frame of {source} can be decoded", "It is damaged: get an intact copy.")
        self._convert, notes = to_srgb(self._header, kind_of_pixels(self._header, first))
        played = {0: "loops forever", 1: "plays once"}.get(self.plays, f"plays {self.plays} times")
        self.notes = (f"animated {self._header.format}, {played}", *notes)
        self.width, self.height = size_at_height(first.shape[1], first.shape[0], height)

    def _choose(self, trim: TrimRange, durations: tuple[Fraction, ...]) -> None:
        """Choose the frames within `trim`."""
        begins = itertools.accumulate(durations[:-1], initial=Fraction(0))
        wanted = [
            index
            for index, begin in enumerate(begins if durations else ())
            if begin >= (trim.start or 0) and (trim.end is None or begin < trim.end)
        ][: trim.frames]
        length = sum(durations, Fraction(0))
        if not wanted:
            fact = f"{self.name} has no frame in the time asked for: it lasts {float(length):g} s"
            raise InputError(fact, "ask for less")
        self._wanted, self._first = wanted, wanted[0]
        self._durations = [durations[index] for index in wanted]
        seconds = sum(self._durations, Fraction(0))
        self.expected_frames, self.expected_seconds = len(wanted), float(seconds)
        self.rate = min(max(len(wanted) / seconds, Fraction(1)), Fraction(240)).limit_denominator(1000)

    def __iter__(self) -> Iterator[Frame | Packet]:
        at = Fraction(0)
        for index, duration in zip(self._wanted, self._durations, strict=True):
            if self._cancelled:
                return
            stored = self._frame(index)
            if stored is None:
                self.failed_packets += 1
            else:
                rgb = self._scaled(finish_pixels(stored, self._convert, bgr=False))
                begin = round(at / _TIME_BASE)
                yield Frame(rgb, begin, round((at + duration) / _TIME_BASE) - begin)
            at += duration

    def _frame(self, index: int) -> Pixels | None:
        """Frame `index`, composed: uint8 (H, W, 4) RGBA or (H, W, 3) RGB; None where it does not decode."""
        try:
            if self._gif is not None:
                return self._gif.frame(index)
            self._opened.seek(index + self._animation.default_image)
            self._opened.load()
            has_alpha = "A" in self._opened.getbands() or "transparency" in self._opened.info
            return np.asarray(self._opened.convert("RGBA" if has_alpha else "RGB"))
        except MemoryError:
            raise
        except Exception:  # whatever Pillow raises for damage
            return None


def _open(path: Path, data: bytes) -> "PillowImage":
    from PIL import Image

    if data[12:16] == b"VP8X":
        # Frames need not cover the canvas, whether or not the file declares transparency.
        data = data[:20] + bytes([data[20] | _WEBP_ALPHA]) + data[21:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_image_memory knows better
        try:
            return Image.open(io.BytesIO(data))
        except Exception as error:  # whatever Pillow raises for damage
            raise InputError(f"{path} cannot be read: {error}", "It is damaged: get an intact copy.") from error
