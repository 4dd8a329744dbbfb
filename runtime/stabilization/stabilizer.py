"""Steadies translated frames: each is mixed with the frame before it, moved along the input's motion.

A network translates each frame by itself, so fine detail flickers though the input does not. What moves where is known
from the input. The steadied frame before is moved along and mixed in where that motion is to be trusted. Three
things keep it from leaving trails:

- trust: the flow forth and back must lead home, and the moved input must look like the input now;
- a bound: what is mixed in lies within the colours that the new frame has in the 3x3 pixels around, and a few levels
  more (the history clamping of temporal anti-aliasing);
- after a cut it starts anew.

So that it follows slow changes to the last level, the steadied frame is kept in float32.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dsmap.errors import InputError
from dsmap.runtime.frame_translator import FrameTranslator, TranslatorWrapper
from dsmap.runtime.stabilization.flow import (
    FAST,
    Floats,
    Flow,
    FlowFinder,
    Pixels,
    grey_at,
    pixel_grid,
    squared_length,
    warped,
)

USUAL_STRENGTH = 0.8
_STRONGEST = 0.95

# Flow is found on smaller pictures, of this share of the lines but at least so many: on small ones with a finer scale
# of the search it is better, and quicker, than on large ones with the preset's.
_LINES, _LEAST_LINES, _FINEST_SCALE = 0.4, 160, 1
# Where the moved input is this far from the input now (grey levels, mean of 3x3), trust is 1/e.
_GREY_LEVELS = 10.0
# Where flow forth and back miss each other by this (squared pixels, and share of the flow's square), trust is 1/e.
_MISS, _MISS_SHARE = 1.0, 0.05
_BOUND = 8  # levels that what is mixed in may lie outside the colours around
_CUT = 0.15  # less trust than this on average: another scene
_AROUND = np.ones((3, 3), np.uint8)


class _Before(NamedTuple):
    grey: Pixels
    steady: Floats


class Stabilizer:
    """Steadies the frames of one clip, called with each in order.

        stabilizer = Stabilizer()
        for frame_rgb in clip:
            steady_rgb = stabilizer(frame_rgb, translator(frame_rgb))

    It adds no delay: frames that come later are not looked at. Use it from one thread at a time.
    """

    def __init__(self, strength: float = USUAL_STRENGTH) -> None:
        """`strength`: the share of the frame before where motion is trusted fully, 0 (off) to 0.95.

        Changes that motion does not explain come through with a delay of about strength / (1 - strength) frames: 4 for
        the usual 0.8. Raises InputError for another number.
        """
        check_stabilizer_strength(strength)
        self.strength = float(strength)
        self.cuts = 0
        """How often it started anew in mid-clip."""
        self._find_flow = FlowFinder(FAST, _FINEST_SCALE)
        self._before: _Before | None = None

    def reset(self) -> None:
        """Forget the frames before: for another clip."""
        self._before = None

    def __call__(self, input_rgb: Pixels, output_rgb: Pixels) -> Pixels:
        """The steadied output, uint8 RGB (H, W, 3).

        Both are uint8 RGB (H, W, 3) of one size; they are not kept, nor changed. The first frame, and one after a
        cut or of another size, comes back as it is. Raises InputError for anything else.
        """
        _check(input_rgb, output_rgb)
        if not self.strength:
            return output_rgb
        grey = grey_at(input_rgb, max(_LEAST_LINES, round(_LINES * input_rgb.shape[0])))
        before = self._before
        if before is None or before.steady.shape != output_rgb.shape:
            return self._anew(grey, output_rgb)
        flow = self._find_flow(grey, before.grey)
        trust = _trust(flow, grey, before.grey)
        if cv2.mean(trust)[0] < _CUT:
            self.cuts += 1
            return self._anew(grey, output_rgb)
        height, width = output_rgb.shape[:2]
        places, share = _at_size(flow, trust * np.float32(self.strength), width, height)
        # Cubic: moved again and again, a picture blurs with linear interpolation.
        history = _bounded(warped(before.steady, places, cv2.INTER_CUBIC), output_rgb)
        steady = cv2.blendLinear(history, output_rgb.astype(np.float32), share, 1 - share)
        self._before = _Before(grey, np.asarray(steady, np.float32))
        return np.asarray(cv2.convertScaleAbs(steady), np.uint8)  # rounds; nothing is below 0

    def _anew(self, grey: Pixels, output_rgb: Pixels) -> Pixels:
        self._before = _Before(grey, output_rgb.astype(np.float32))
        return output_rgb


class StabilizedTranslator(TranslatorWrapper):
    """A translator whose results are stabilized. The stabilizer is reset when a clip starts."""

    def __init__(self, inner: FrameTranslator, stabilizer: Stabilizer) -> None:
        super().__init__(inner)
        self.stabilizer = stabilizer

    def start_clip(self, first_rgb: Pixels | None = None) -> None:
        """As `FrameTranslator.start_clip`."""
        super().start_clip(first_rgb)
        self.stabilizer.reset()

    def finish(self, input_rgb: Pixels, output_rgb: Pixels) -> Pixels:
        """The stabilized result."""
        return self.stabilizer(input_rgb, super().finish(input_rgb, output_rgb))


def check_stabilizer_strength(strength: float, option: str = "the stabilizer's strength") -> None:
    """Raises InputError, naming `option`, unless it is a number from 0 to 0.95."""
    if not 0 <= strength <= _STRONGEST:  # not so for NaN either
        raise InputError(f"{option} is {strength:g}", f"Use 0 (off) to {_STRONGEST}; {USUAL_STRENGTH} is usual.")


def _check(input_rgb: Pixels, output_rgb: Pixels) -> None:
    shape = output_rgb.shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or {input_rgb.dtype, output_rgb.dtype} != {np.dtype(np.uint8)}:
        raise InputError(f"got {output_rgb.dtype} {shape}, expected uint8 (H, W, 3)", "Pass RGB frames, not empty.")
    if input_rgb.shape != shape:
        raise InputError(
            f"the input is {input_rgb.shape} and its translation {shape}", "Pass two frames of the same size."
        )


def _trust(flow: Flow, grey: Pixels, before_grey: Pixels) -> Floats:
    """(h, w) float32, 1 where the pixel is surely the moved one, 0 where it surely is not."""
    unlike = cv2.blur(cv2.absdiff(grey, warped(before_grey, flow.places_hw2)).astype(np.float32), (3, 3))
    allowed = squared_length(flow.back_hw2) * np.float32(_MISS_SHARE) + np.float32(_MISS)
    doubt = np.square(unlike / np.float32(_GREY_LEVELS)) + squared_length(flow.back_hw2 + flow.forth_hw2) / allowed
    trust = cv2.exp(-doubt)
    trust[flow.inside_hw == 0] = 0
    return np.asarray(cv2.erode(trust, _AROUND), np.float32)  # a pixel beside an edge has its colours mixed


def _at_size(flow: Flow, trust: Floats, width: int, height: int) -> tuple[Floats, Floats]:
    """Places and trust for frames of that size."""
    lines, columns = trust.shape
    if (columns, lines) == (width, height):
        return flow.places_hw2, trust
    scale = np.array([width / columns, height / lines], np.float32)
    back = np.asarray(cv2.resize(flow.back_hw2 * scale, (width, height)), np.float32)
    return back + pixel_grid(width, height), np.asarray(cv2.resize(trust, (width, height)), np.float32)


def _bounded(history: Floats, output_rgb: Pixels) -> Floats:
    """`history` within the colours of the 3x3 pixels of `output_rgb` around each, and `_BOUND` levels more."""
    lowest = cv2.subtract(cv2.erode(output_rgb, _AROUND), (_BOUND,) * 4)  # type: ignore[call-overload]
    highest = cv2.add(cv2.dilate(output_rgb, _AROUND), (_BOUND,) * 4)  # type: ignore[call-overload]
    bounded = cv2.min(cv2.max(history, lowest.astype(np.float32)), highest.astype(np.float32))
    return np.asarray(bounded, np.float32)
