"""Stabilization of translated frames: each is blended with the previous one, warped along the motion of the input.

A network translates each frame by itself, so fine detail flickers even where the input does not. The motion is known
from the input: the previous stabilized frame is warped along it, and blended in where the motion can be trusted. Three
rules prevent trails:

- trust: the backward and the forward flow must agree, and the warped input must resemble the current one;
- clamping: what is blended in stays within the colours of the new frame's 3x3 neighbourhood, plus a few levels (the
  history clamping of temporal anti-aliasing);
- after a cut the history is dropped.

The stabilized frame is kept in float32, so that slow changes are followed to the last level.
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

DEFAULT_STRENGTH = 0.8
_MAX_STRENGTH = 0.95

# Flow is found on smaller frames, at this share of the height but with at least so many lines: with a finer last scale
# of the search that is better, and faster, than larger frames with the scale of the preset.
_LINES, _MIN_LINES, _FINEST_SCALE = 0.4, 160, 1
# Where the warped input differs from the current one by this much (grey levels, mean of 3x3), trust is 1/e.
_GREY_LEVELS = 10.0
# Where forward and backward flow differ by this (squared pixels, plus a share of the flow's square), trust is 1/e.
_MISS, _MISS_SHARE = 1.0, 0.05
_MARGIN = 8  # levels that the history may lie outside of the colours in the neighbourhood
_CUT = 0.15  # a lower average trust is a cut
_NEIGHBOURHOOD = np.ones((3, 3), np.uint8)


class _Previous(NamedTuple):
    grey: Pixels
    stable: Floats


class Stabilizer:
    """Stabilizes the translated frames of a clip; it is called with each in order.

        stabilizer = Stabilizer()
        for frame_rgb in clip:
            stable_rgb = stabilizer(frame_rgb, translator(frame_rgb))

    It adds no delay: later frames are not looked at. Use it from one thread at a time.
    """

    def __init__(self, strength: float = DEFAULT_STRENGTH) -> None:
        """`strength`: the share of the previous frame where the motion is fully trusted, 0 (off) to 0.95.

        Changes that motion does not explain show with a delay of about strength / (1 - strength) frames: 4 for the
        default of 0.8. Raises InputError for any other number.
        """
        check_stabilizer_strength(strength)
        self.strength = float(strength)
        self.cuts = 0
        """Number of cuts found so far."""
        self._find_flow = FlowFinder(FAST, _FINEST_SCALE)
        self._before: _Previous | None = None

    def reset(self) -> None:
        """Drops the history, for another clip."""
        self._before = None

    def __call__(self, input_rgb: Pixels, output_rgb: Pixels) -> Pixels:
        """The stabilized output, uint8 RGB (H, W, 3).

        Both arguments are uint8 RGB (H, W, 3) of one size; they are neither kept nor changed. The first output, and one
        after a cut or of another size, is returned as it is. Raises InputError for anything else.
        """
        _check(input_rgb, output_rgb)
        if not self.strength:
            return output_rgb
        grey = grey_at(input_rgb, max(_MIN_LINES, round(_LINES * input_rgb.shape[0])))
        before = self._before
        if before is None or before.stable.shape != output_rgb.shape:
            return self._restart(grey, output_rgb)
        flow = self._find_flow(grey, before.grey)
        trust = _trust(flow, grey, before.grey)
        if cv2.mean(trust)[0] < _CUT:
            self.cuts += 1
            return self._restart(grey, output_rgb)
        height, width = output_rgb.shape[:2]
        places, share = _at_size(flow, trust * np.float32(self.strength), width, height)
        # Cubic: with linear interpolation, repeated warping blurs the history.
        history = _clamped(warped(before.stable, places, cv2.INTER_CUBIC), output_rgb)
        stable = cv2.blendLinear(history, output_rgb.astype(np.float32), share, 1 - share)
        self._before = _Previous(grey, np.asarray(stable, np.float32))
        return np.asarray(cv2.convertScaleAbs(stable), np.uint8)  # rounds; no value is below 0

    def _restart(self, grey: Pixels, output_rgb: Pixels) -> Pixels:
        self._before = _Previous(grey, output_rgb.astype(np.float32))
        return output_rgb


class StabilizedTranslator(TranslatorWrapper):
    """A translator whose results are stabilized. `stabilizer` is reset when a clip starts."""

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
    if not 0 <= strength <= _MAX_STRENGTH:  # also refuses NaN
        raise InputError(
            f"{option} is {strength:g}", f"Use 0 (off) to {_MAX_STRENGTH}; {DEFAULT_STRENGTH} is the default."
        )


def _check(input_rgb: Pixels, output_rgb: Pixels) -> None:
    shape = output_rgb.shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or {input_rgb.dtype, output_rgb.dtype} != {np.dtype(np.uint8)}:
        advice = "Pass RGB frames, not empty." if 0 in shape else "Pass RGB frames."
        raise InputError(f"got {output_rgb.dtype} {shape}, expected uint8 (H, W, 3)", advice)
    if input_rgb.shape != shape:
        raise InputError(
            f"the input is {input_rgb.shape} and its translation {shape}", "Pass two frames of the same size."
        )


def _trust(flow: Flow, grey: Pixels, before_grey: Pixels) -> Floats:
    """Trust in the flow, float32 (h, w): 1 where the pixel surely is the warped one, 0 where it surely is not."""
    unlike = cv2.blur(cv2.absdiff(grey, warped(before_grey, flow.places_hw2)).astype(np.float32), (3, 3))
    allowed = squared_length(flow.back_hw2) * np.float32(_MISS_SHARE) + np.float32(_MISS)
    doubt = np.square(unlike / np.float32(_GREY_LEVELS)) + squared_length(flow.back_hw2 + flow.forth_hw2) / allowed
    trust = cv2.exp(-doubt)
    trust[flow.inside_hw == 0] = 0
    return np.asarray(cv2.erode(trust, _NEIGHBOURHOOD), np.float32)  # pixels beside an edge are a mix of its two sides


def _at_size(flow: Flow, trust: Floats, width: int, height: int) -> tuple[Floats, Floats]:
    """Positions and trust, enlarged to frames of that size."""
    lines, columns = trust.shape
    if (columns, lines) == (width, height):
        return flow.places_hw2, trust
    scale = np.array([width / columns, height / lines], np.float32)
    back = np.asarray(cv2.resize(flow.back_hw2 * scale, (width, height)), np.float32)
    return back + pixel_grid(width, height), np.asarray(cv2.resize(trust, (width, height)), np.float32)


def _clamped(history: Floats, output_rgb: Pixels) -> Floats:
    """`history`, clamped to the colours of the 3x3 neighbourhood in `output_rgb` plus `_MARGIN` levels."""
    lowest = cv2.subtract(cv2.erode(output_rgb, _NEIGHBOURHOOD), (_MARGIN,) * 4)  # type: ignore[call-overload]
    highest = cv2.add(cv2.dilate(output_rgb, _NEIGHBOURHOOD), (_MARGIN,) * 4)  # type: ignore[call-overload]
    clamped = cv2.min(cv2.max(history, lowest.astype(np.float32)), highest.astype(np.float32))
    return np.asarray(clamped, np.float32)
