"""What happens to one frame of a clip: scale it, translate it, steady it, bring it to the size that is written."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dsmap.runtime.jobs.report import Pixels, Translate, check_translated
from dsmap.runtime.video.frame import Residual, add_residual
from dsmap.runtime.video.scaling import scaled, size_at_height

StyleAt = Callable[[float, float | None], Any]
"""A style code (S,) from seconds since the clip's first frame, and the share of the clip, 0 to 1 (None: unknown)."""


class Steady(Protocol):
    """Called in order of the frames with (input, output), uint8 (H, W, 3) RGB; gives the output, steadied."""

    def __call__(self, input_rgb: Pixels, output_rgb: Pixels) -> Pixels: ...


class Translated(NamedTuple):
    """A frame as the network got it and as it gave it back."""

    small_rgb: Pixels
    rgb: Pixels


class FrameSteps:
    """The steps for frames of `width` x `height` (pixels).

    `lines`: translate at that height; the result has the frame's own size again if `upscale`, else the smaller one.
    `side_by_side`: the frame on the left. A `Translator` gets several frames at once, any other callable one.
    """

    def __init__(
        self,
        translate: Translate,
        width: int,
        height: int,
        *,
        lines: int | None = None,
        upscale: bool = True,
        side_by_side: bool = False,
        style_at: StyleAt | None = None,
        steady: Steady | None = None,
    ) -> None:
        self._translate, self._style_at, self._steady = translate, style_at, steady
        if forget := getattr(translate, "forget_source_style", None):
            forget()  # it was another clip's
        self._side_by_side = side_by_side
        self.inside = size_at_height(width, height, lines)
        """(width, height) that the network works at."""
        self._written = (width, height) if upscale else self.inside

    @property
    def in_flight(self) -> int:
        """How many frames may be between `begin` and the wait for them."""
        return int(getattr(self._translate, "in_flight", 1))

    @property
    def written(self) -> tuple[int, int]:
        """(width, height) of the pictures that `finish` gives."""
        return self._written[0] * (2 if self._side_by_side else 1), self._written[1]

    def begin_later(self, first_rgb: Pixels) -> None:
        """Shows the clip's first frame where the work begins at a later one."""
        if read := getattr(self._translate, "read_source_style", None):
            read(scaled(first_rgb, self.inside))

    def begin(self, frame_rgb: Pixels, seconds: float = 0.0, share: float | None = None) -> Callable[[], Translated]:
        """Begins the translation and gives what waits for it."""
        small_rgb = scaled(frame_rgb, self.inside)
        submit = getattr(self._translate, "submit", None)
        if submit is None:
            done = self._translate(small_rgb)
            return lambda: Translated(small_rgb, check_translated(done, small_rgb))
        style = () if self._style_at is None else (self._style_at(seconds, share),)
        wait = submit(small_rgb, *style)
        return lambda: Translated(small_rgb, check_translated(wait(), small_rgb))

    def finish(self, frame_rgb: Pixels, translated: Translated, residual: Residual | None = None) -> npt.NDArray[Any]:
        """The picture to write; called in order of the frames.

        With a `residual`, what `frame_rgb` lacks of the input's own depth, it is uint16: the input's steps between two
        levels of 8 bits are added to the translation, which has none of its own.
        """
        rgb = translated.rgb
        if self._steady is not None:
            rgb = self._steady(translated.small_rgb, rgb)
        pictures = [scaled(frame_rgb, self._written)] if self._side_by_side else []
        pictures.append(scaled(rgb, self._written))
        if residual is not None:
            steps = residual
            if (residual.shape[1], residual.shape[0]) != self._written:
                steps = np.rint(scaled(residual.astype(np.float32), self._written)).astype(np.int8)
            return np.hstack([add_residual(picture, steps) for picture in pictures])
        return np.hstack(pictures) if self._side_by_side else pictures[0]

    def cancel(self) -> None:
        """Ends what is under way as soon as possible, where the translator can."""
        if cancel := getattr(self._translate, "cancel", None):
            cancel()
