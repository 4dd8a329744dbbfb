"""Measurement of flicker: changes from frame to frame of a translated clip that the input's motion does not explain.

The optical flow between two frames of the input says where each pixel was. The previous frame is warped along it, and
what still differs is change that motion does not explain. It is measured in the input and in the output, at the same
pixels; that of the input (noise, light, inexact flow) is the baseline.

- change: mean absolute difference, in grey levels (0 to 255), over R, G and B
- flicker: change of the output minus change of the input; 0 when the translation adds none
- warping error: mean squared difference of values from 0 to 1, as defined by Lai et al. 2018, "Learning blind video
  temporal consistency" (they find the flow with a network; here it is DIS)
- brightness change: absolute mean difference, of the frame as a whole ("pumping")
- sharpness: mean absolute Laplacian of the grey frame; a blur lowers flicker too, and shows here

Only pixels that can be tracked count: backward and forward flow must agree, the flow must be smooth, and the position
must lie in the frame (the mask of Ruder et al. 2016, which Lai et al. use). A pair of frames with hardly any such
pixel, or whose input differs too much there, is a cut and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.errors import InputError
from dsmap.runtime.stabilization.flow import (
    MEDIUM,
    MIN_SIDE,
    Floats,
    Flow,
    FlowFinder,
    Pixels,
    grey_at,
    squared_length,
    warped,
)

# A pair is a cut when a smaller share of pixels is tracked, or when those change by more grey levels. Real cuts were
# measured to have at most 0.07, and 24 or more; consecutive frames 0.5 or more, and about 2.
_MIN_TRACKED, _MAX_CHANGE = 0.1, 16.0
# Ruder et al. 2016: a pixel is tracked where |there and back|^2 < 0.01 (|back|^2 + |forth|^2) + 0.5 and the flow's
# gradient stays below |gradient|^2 < 0.01 |back|^2 + 0.002.
_MISS_SHARE, _MISS = 0.01, 0.5
_BEND_SHARE, _BEND = 0.01, 0.002


class FrameChange(NamedTuple):
    """FrameChange from one frame of a clip to the next, along the motion."""

    change: float
    """Grey levels, 0 to 255."""
    warping_error: float
    """Mean square, of values from 0 to 1."""
    brightness_change: float
    """Grey levels, of the frame as a whole."""


@dataclass(frozen=True, kw_only=True)
class FramePair:
    """Changes between two consecutive frames; `input` and `output` are None at a cut."""

    followed: float
    """Share of the pixels that are tracked."""
    input: FrameChange | None
    output: FrameChange | None

    @property
    def flicker(self) -> float | None:
        """Grey levels; None at a cut."""
        return None if self.input is None or self.output is None else self.output.change - self.input.change


@dataclass(frozen=True, kw_only=True)
class ClipFlicker:
    """Flicker of a whole clip: means over the pairs of frames that are not cuts."""

    frames: int
    cuts: tuple[int, ...]
    """Indices of the frames that do not continue the previous frame."""
    followed: float
    input: FrameChange
    output: FrameChange
    input_sharpness: float
    output_sharpness: float
    pairs: tuple[FramePair, ...]
    """The first pair is of frames 0 and 1."""

    @property
    def flicker(self) -> float:
        """Grey levels by which the output changes more than the input."""
        return self.output.change - self.input.change


class FlickerMeter:
    """Measures the flicker of a translated clip: `add` its frames in order, then read the `result`."""

    def __init__(self) -> None:
        self._find_flow = FlowFinder(MEDIUM)
        self._before: tuple[Pixels, Pixels, Pixels] | None = None  # input, output, the input in grey
        self._pairs: list[FramePair] = []
        self._sharpness: list[tuple[float, float]] = []

    def add(self, input_rgb: Pixels, output_rgb: Pixels) -> None:
        """Adds the next frame of the input and of the output, uint8 RGB (H, W, 3), of one size, at least 16 x 16.

        They may not be changed before the next call. Raises InputError for anything else.
        """
        for name, rgb in (("input", input_rgb), ("output", output_rgb)):
            expected = input_rgb.shape if self._before is None else self._before[0].shape
            if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.shape != expected:
                raise InputError(
                    f"the {name} is {rgb.dtype} {rgb.shape}, expected uint8 {expected}", "Pass RGB frames of one size."
                )
        if min(input_rgb.shape[:2]) < MIN_SIDE:
            raise InputError(
                f"the frames are {input_rgb.shape[1]}x{input_rgb.shape[0]}; motion can be tracked from"
                f" {MIN_SIDE}x{MIN_SIDE} on",
                "Measure at a larger --height.",
            )
        grey = grey_at(input_rgb, input_rgb.shape[0])
        output_grey = cv2.cvtColor(np.ascontiguousarray(output_rgb), cv2.COLOR_RGB2GRAY)
        self._sharpness.append((_sharpness(grey), _sharpness(np.asarray(output_grey, np.uint8))))
        if self._before is not None:
            self._pairs.append(self._pair(input_rgb, output_rgb, grey))
        self._before = input_rgb, output_rgb, grey

    def result(self) -> ClipFlicker:
        """The measurement of all frames so far. Raises InputError when there is nothing to measure."""
        measured = [pair for pair in self._pairs if pair.input and pair.output]
        if not self._pairs:
            raise InputError("there are fewer than two frames", "Pass a clip: a single image cannot flicker.")
        if not measured:
            raise InputError(
                f"none of the {len(self._pairs) + 1} frames continues the one before it",
                "Pass a clip in which things move by less than their own size from frame to frame.",
            )
        sharpness = np.mean(self._sharpness, axis=0)
        return ClipFlicker(
            frames=len(self._pairs) + 1,
            cuts=tuple(number for number, pair in enumerate(self._pairs, 1) if pair.input is None),
            followed=float(np.mean([pair.followed for pair in measured])),
            input=_mean([pair.input for pair in measured if pair.input]),
            output=_mean([pair.output for pair in measured if pair.output]),
            input_sharpness=float(sharpness[0]),
            output_sharpness=float(sharpness[1]),
            pairs=tuple(self._pairs),
        )

    def _pair(self, input_rgb: Pixels, output_rgb: Pixels, grey: Pixels) -> FramePair:
        assert self._before is not None
        input_before, output_before, grey_before = self._before
        flow = self._find_flow(grey, grey_before)
        tracked = _followed(flow)
        share = float(tracked.mean())
        if share < _MIN_TRACKED:
            return FramePair(followed=share, input=None, output=None)
        of_input = _change(input_rgb, input_before, flow.places_hw2, tracked)
        if of_input.change > _MAX_CHANGE:
            return FramePair(followed=share, input=None, output=None)
        of_output = _change(output_rgb, output_before, flow.places_hw2, tracked)
        return FramePair(followed=share, input=of_input, output=of_output)


def _followed(flow: Flow) -> npt.NDArray[np.bool_]:
    """Where pixels are tracked reliably: a mask (H, W)."""
    length = squared_length(flow.back_hw2)
    bend = np.zeros_like(length)
    for part in cv2.split(flow.back_hw2):
        along_y, along_x = np.gradient(np.asarray(part))
        bend += np.square(along_y) + np.square(along_x)
    miss = squared_length(flow.back_hw2 + flow.forth_hw2)
    home = miss < _MISS_SHARE * (length + squared_length(flow.forth_hw2)) + _MISS
    return home & (bend < _BEND_SHARE * length + _BEND) & (flow.inside_hw > 0)


def _change(now: Pixels, before: Pixels, places: Floats, tracked: npt.NDArray[np.bool_]) -> FrameChange:
    moved = warped(before.astype(np.float32), places)
    difference = (now.astype(np.float32) - moved)[tracked].astype(np.float64)
    return FrameChange(
        change=float(np.abs(difference).mean()),
        warping_error=float(np.square(difference / 255).mean()),
        brightness_change=abs(float(difference.mean())),
    )


def _mean(changes: Sequence[FrameChange]) -> FrameChange:
    return FrameChange(*(float(value) for value in np.mean(changes, axis=0)))


def _sharpness(grey: Pixels) -> float:
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())
