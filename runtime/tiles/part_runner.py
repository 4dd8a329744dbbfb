"""Runs a part of a translation for a stripe of the frame, and knows how much more of its inputs a stripe needs.

Positions are rows of the frame, whatever the size of a tensor: the tensor of a quarter of the height has a row for
every four. A stripe is computed from inputs that reach further, by `above` and `below`: the rows of the result that the
cut through the inputs changes are left out. How many they are is measured with random numbers: that covers everything
a part may do at its borders.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import run_session
from dsmap.runtime.tiles.local_graph import FRAMES, STYLE, Part
from dsmap.runtime.tiles.onnx_file import Port

Array = npt.NDArray[Any]
_UNITS = 16  # blocks of `multiple_of` rows in a measurement; cuts are in the middle
_WIDTH_UNITS = 6
_TOLERANCE = 1e-4  # of the largest number: rounding depends on how a tensor is divided among threads
_FEW = 0.005  # of a row's numbers, which rounding alone may change to another grey level or step of 8 bits


class Layout(NamedTuple):
    """How a tensor covers a frame."""

    channels: int
    dtype: npt.DTypeLike
    rate: Fraction
    """Its rows for each row of the frame."""
    extra: int
    """Rows that it has beyond those."""
    axis: int = 2
    """That of its rows; columns are behind them."""

    def rows(self, position: int, height: int) -> int:
        """The first of its rows at `position`; at the frame's end, `height`, behind its last."""
        rows = position * self.rate
        assert rows.denominator == 1
        return int(rows) + (self.extra if position == height else 0)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the tensor for a frame of that size."""
        sides = self.rows(height, height), self.rows(width, width)
        return (1, *sides, self.channels) if self.axis == 1 else (1, self.channels, *sides)

    def port(self, name: str) -> Port:
        """An input `name` of a graph that takes it."""
        sides = (None, None, self.channels) if self.axis == 1 else (self.channels, None, None)
        return Port(name, self.dtype, (1, *sides))

    def cut(self, array: Array, start: int, end: int) -> Array:
        """The rows `start` to `end` of `array`."""
        return array[:, start:end] if self.axis == 1 else array[:, :, start:end]


class Stripe(NamedTuple):
    """Rows of the frame, and the frame's height."""

    start: int
    end: int
    height: int


class PartRunner:
    """A part, loaded, and what was measured of it."""

    def __init__(
        self, session: Any, part: Part, known: dict[str, Layout], unit: int, style_shape: Sequence[int] | None
    ) -> None:
        """`session` runs `part`. `known`: the layouts of its inputs; those of its outputs are added.

        `unit`: rows of the frame, as `multiple_of`. `style_shape`: of an image's style parameters, if there are styles.
        """
        self.part = part
        self._session, self._layouts, self._unit = session, known, unit
        self._outputs = list(part.outputs)
        self._measure(style_shape)

    def inputs_for(self, stripe: Stripe) -> Stripe:
        """What of the inputs the outputs' `stripe` needs."""
        start = max(0, stripe.start - self.above) // self.step * self.step
        end = min(stripe.height, -(-(stripe.end + self.below) // self.step) * self.step)
        return Stripe(start, end, stripe.height)

    def run(self, inputs: dict[str, Array], given: Stripe, wanted: Stripe, width: int, feeds: dict[str, Array],
            run: Any = None) -> list[Array]:  # fmt: skip
        """The outputs in the rows `wanted`, from inputs that cover `given` (see `inputs_for`).

        `feeds`: the style parameters and the norms' numbers, by name of input.
        """
        found = self._run(inputs, given, width, feeds, run)
        cut = []
        for name, array in zip(self._outputs, found, strict=True):
            layout = self._layouts[name]
            first = layout.rows(given.start, -1)
            start, end = layout.rows(wanted.start, -1) - first, layout.rows(wanted.end, wanted.height) - first
            cut.append(layout.cut(array, start, end))
        return cut

    def _run(self, inputs: dict[str, Array], given: Stripe, width: int, feeds: dict[str, Array], run: Any) -> Any:
        fed = dict(inputs)
        if self.part.styled:
            fed[STYLE] = feeds[STYLE]
        for norm in self.part.norms:
            fed |= {name: feeds[name] for name in (norm.scale_input, norm.shift_input)}
        for name, (of, start, end) in self.part.sizes.items():
            layout = self._layouts[of]
            rows = layout.rows(given.end, given.height) - layout.rows(given.start, -1)
            shape = list(layout.shape(given.height, width))
            shape[layout.axis] = rows
            fed[name] = np.array(shape[start:end], np.int64)
        return run_session(self._session, self._outputs, fed, run)

    def _measure(self, style_shape: Sequence[int] | None) -> None:
        unit, width = self._unit, _WIDTH_UNITS * self._unit
        tall, cut = _UNITS * unit, _UNITS // 2 * unit
        feeds, whole = self._random_inputs(tall, width, style_shape)
        full = self._run(whole, Stripe(0, tall, tall), width, feeds, None)
        # The upper part as if it went on below, the lower part as if there were more above, and a whole lower frame.
        upper = self._run(self._rows_of(whole, 0, cut, tall), Stripe(0, cut, tall), width, feeds, None)
        lower = self._run(self._rows_of(whole, cut, tall, tall), Stripe(cut, tall, tall), width, feeds, None)
        low = self._random_inputs(cut, width, style_shape)[1]
        small = self._run(low, Stripe(0, cut, cut), width, feeds, None)
        above = below = Fraction(0)
        for name, a, b, c, d in zip(self._outputs, full, upper, lower, small, strict=True):
            axis = 1 if a.dtype == np.uint8 else 2
            rate = Fraction(a.shape[axis] - d.shape[axis], tall - cut)
            layout = Layout(a.shape[3 if axis == 1 else 1], a.dtype, rate, int(d.shape[axis] - rate * cut), axis)
            self._layouts[name] = layout
            at = rate * cut
            if at.denominator != 1:
                raise DsmapError("the model's tensors do not fit its sizes", "Translate it without --tile.")
            above = max(above, _rows_changed(layout, a, c, int(at)) / rate)
            kept = min(_rows_kept(layout, a, b), int(at))
            below = max(below, (int(at) - kept) / rate)
        if max(above, below) > cut // 2:
            raise DsmapError(
                "a row of the model's result depends on too many of the frame", "Translate it without --tile."
            )
        rates = [self._layouts[name].rate for name in (*self.part.inputs, *self._outputs)]
        rates += [self._layouts[of].rate for of, _, _ in self.part.sizes.values()]
        self.step = lcm(*(rate.denominator for rate in rates))
        self.above, self.below = (int(-(-rows // self.step) * self.step) for rows in (above, below))

    def _rows_of(self, arrays: dict[str, Array], start: int, end: int, height: int) -> dict[str, Array]:
        parts = {}
        for name, array in arrays.items():
            layout = self._layouts[name]
            parts[name] = layout.cut(array, layout.rows(start, -1), layout.rows(end, height))
        return parts

    def _random_inputs(
        self, height: int, width: int, style_shape: Sequence[int] | None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        random = np.random.default_rng(0)
        # Random too: a style of zeros would hide what it multiplies.
        feeds = {} if style_shape is None else {STYLE: random.standard_normal((1, *style_shape), np.float32)}
        for norm in self.part.norms:
            channels = self._layouts[norm.x].channels
            feeds[norm.scale_input] = np.ones((1, channels, 1, 1), np.float32)
            feeds[norm.shift_input] = np.zeros((1, channels, 1, 1), np.float32)
        arrays = {}
        for name in self.part.inputs:
            layout = self._layouts[name]
            shape = layout.shape(height, width)
            if name == FRAMES:
                arrays[name] = random.integers(0, 256, shape, np.uint8)
            else:
                arrays[name] = random.standard_normal(shape, np.float32).astype(layout.dtype)
        return feeds, arrays


def _differences(layout: Layout, a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Whether two arrays of one shape differ, for each of their rows."""
    axes = tuple(axis for axis in range(4) if axis != layout.axis)
    difference = np.abs(a.astype(np.float32) - b.astype(np.float32))
    limit = 0.5 if a.dtype == np.uint8 else _TOLERANCE * float(np.abs(a).max())
    return np.asarray((difference > limit).mean(axes) > _FEW)


def _rows_changed(layout: Layout, full: Array, lower: Array, at: int) -> int:
    """How many rows from the top of `lower` on are not those of `full` from `at` on."""
    differ = _differences(layout, layout.cut(full, at, full.shape[layout.axis]), lower)
    return int(np.flatnonzero(differ)[-1]) + 1 if differ.any() else 0


def _rows_kept(layout: Layout, full: Array, upper: Array) -> int:
    """How many rows of `upper` are those of `full`, from the top on."""
    differ = _differences(layout, layout.cut(full, 0, upper.shape[layout.axis]), upper)
    return int(np.flatnonzero(differ)[0]) if differ.any() else len(differ)
