"""Stages of one frame of a clip: scale it, translate it, finish it, bring it to the size that is written."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator
from dsmap.runtime.jobs.report import Pixels, check_translated
from dsmap.runtime.refine.choice import is_refined, size_inside
from dsmap.runtime.refine.refiners import refiner_for, yuv_refiner
from dsmap.runtime.video.frame import Frame, Residual, add_residual
from dsmap.runtime.video.frame_to_rgb import FrameToRgb
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.planes import yuv_planes
from dsmap.runtime.video.rgb_to_frame import new_yuv_frame
from dsmap.runtime.video.scaling import scaled


class Translated(NamedTuple):
    """A frame as the network got it, and its translation: uint8 (H, W, 3), of one size."""

    small_rgb: Pixels
    rgb: Pixels


ToWrite = npt.NDArray[Any] | VideoFrame | DeviceResult
"""A finished frame: RGB, or one for an encoder in the memory of the host or of a device."""


class FrameSteps:
    """The stages for the frames of one clip, `width` x `height` pixels, from its first frame on.

    `lines`: translate at that height (None: see `size_inside`); the result has the frame's own size again if `upscale`,
    else the smaller one.
    `refine`: how it is brought to that size, one of `REFINE_CHOICES`; InputError for "learnt" without a refiner.
    `side_by_side`: the frame on the left of the result.
    """

    def __init__(
        self,
        translator: FrameTranslator,
        width: int,
        height: int,
        *,
        lines: int | None = None,
        upscale: bool = True,
        refine: str = "auto",
        side_by_side: bool = False,
    ) -> None:
        self._translator = translator
        translator.start_clip()
        self._side_by_side = side_by_side
        self.inside = size_inside(width, height, lines, refine if upscale else "off")
        """(width, height) that the network works at."""
        self._written = (width, height) if upscale else self.inside
        self._refine = refiner_for(refine, translator) if is_refined(refine, self.inside, self._written) else None
        self._refine_yuv = yuv_refiner(self._refine)
        self._to_small = FrameToRgb(*self.inside, Orientation(), shape=Fraction(width, height), averages=True)

    @property
    def takes_yuv(self) -> bool:
        """Whether `begin` and `finish` take frames as they were decoded too, where those can stay Y'CbCr: they are
        refined, and nothing else is done to them.
        """
        return self._refine_yuv is not None and not self._side_by_side and not self._translator.finishes

    @property
    def in_flight(self) -> int:
        """How many frames may be between `begin` and the wait for them."""
        return self._translator.in_flight

    @property
    def written(self) -> tuple[int, int]:
        """(width, height) of the frames that `finish` gives."""
        return self._written[0] * (2 if self._side_by_side else 1), self._written[1]

    def begin_later(self, first: Pixels | VideoFrame) -> None:
        """Shows the clip's first frame to the translator, when the work begins at a later one."""
        self._translator.start_clip(self._small(first))

    def begin(self, frame: Pixels | VideoFrame, at: ClipTime = FIRST_FRAME) -> Callable[[], Translated]:
        """Begins the translation of a frame, RGB or one that `takes_yuv` is about, and gives what waits for it."""
        small_rgb = self._small(frame)
        wait = self._translator.submit(small_rgb, at=at)
        return lambda: Translated(small_rgb, check_translated(wait(), small_rgb))

    def begin_device(
        self, frame: DeviceFrame, at: ClipTime = FIRST_FRAME, *, keep: bool = False
    ) -> Callable[[], Pixels | DeviceResult]:
        """As `begin`, for a frame in a device's memory, which the translator takes; its result needs no finish.

        `keep`: the result stays in that memory.
        """
        return self._translator.submit_device(frame, at=at, keep=keep)

    def finish_frame(self, frame: Frame, translated: Translated | Pixels | DeviceResult) -> ToWrite:
        """The frame to write, of one that was read: `finish`, or `finish_yuv` for frames that stay Y'CbCr."""
        if not isinstance(translated, Translated):
            return translated
        if frame.yuv is not None:
            return self.finish_yuv(frame.yuv, translated)
        return self.finish(frame.rgb, translated, frame.residual)

    def finish_yuv(self, frame: VideoFrame, translated: Translated) -> VideoFrame:
        """As `finish`, for a frame that `takes_yuv` is about; the result is one for an encoder."""
        assert self._refine_yuv is not None
        result = new_yuv_frame(*self._written)
        self._refine_yuv(yuv_planes(frame), translated.small_rgb, translated.rgb, yuv_planes(result))
        return result

    def finish(self, frame_rgb: Pixels, translated: Translated, residual: Residual | None = None) -> npt.NDArray[Any]:
        """The frame to write; called in order of the frames.

        With a `residual`, what `frame_rgb` lacks of the input's own depth, it is uint16: the input's steps between two
        levels of 8 bits are added to the translation, which has none of its own.
        """
        parts = [scaled(frame_rgb, self._written)] if self._side_by_side else []
        parts.append(self._finished(frame_rgb, translated.small_rgb, translated.rgb))
        if residual is not None:
            steps = residual
            if (residual.shape[1], residual.shape[0]) != self._written:
                steps = np.rint(scaled(residual.astype(np.float32), self._written)).astype(np.int8)
            return np.hstack([add_residual(part, steps) for part in parts])
        return np.hstack(parts) if self._side_by_side else parts[0]

    def _small(self, frame: Pixels | VideoFrame) -> Pixels:
        return self._to_small(frame) if isinstance(frame, VideoFrame) else scaled(frame, self.inside)

    def _finished(self, frame_rgb: Pixels, small_rgb: Pixels, rgb: Pixels) -> Pixels:
        """The translation at the size that is written; stabilized after it was refined, which leaves less flicker."""
        if self._refine is not None:
            return self._translator.finish(frame_rgb, self._refine(frame_rgb, small_rgb, rgb))
        return scaled(self._translator.finish(small_rgb, rgb), self._written)

    def cancel(self) -> None:
        """Ends what is under way as soon as possible, where the translator can."""
        self._translator.cancel()
