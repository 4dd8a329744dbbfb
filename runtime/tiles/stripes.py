"""Translates a frame in stripes, step by step: each step passes over the whole frame, and ends at the next norm.

A step computes the tensors at the next cut for one stripe after the other. Tensors of the lowest resolution are kept
whole; of others only the statistics are, and they are computed again, stripe by stripe, where they are read. So the
memory is that of a few tensors at the content's size, and of one stripe.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Frames
from dsmap.runtime.tiles.local_graph import FRAMES, STYLE, LocalGraph, Part
from dsmap.runtime.tiles.part_runner import Array, Layout, PartRunner, Stripe
from dsmap.runtime.tiles.statistics import Statistics

STRIPE_BYTES = 6 << 20
"""Of the largest tensor in a stripe."""
_CANCELLED = DsmapError("the translation was cancelled", "Run it again.")


class Step(NamedTuple):
    """One pass over the frame."""

    outputs: tuple[str, ...]
    reads: frozenset[str]
    """The kept tensors that it reads, for what it computes again too."""
    computes: frozenset[str]
    """All tensors at cuts that are computed on the way."""
    reach: int
    """Rows of the frame beyond a stripe that it reads."""


class StripedGraph:
    """The graphs of one direction, to run in stripes. Not for several threads at once."""

    def __init__(
        self, graph: LocalGraph, load: Callable[[Part, dict[str, Layout], bytes], PartRunner], multiple_of: int
    ) -> None:
        """`load` gives the runner of a part, from the layouts of its inputs and its ONNX file.

        Sides are multiples of `multiple_of`. Raises DsmapError for a model whose rows depend on too many of the frame.
        """
        self._graph, self._load, self._unit = graph, load, multiple_of
        self._layouts = {FRAMES: Layout(3, np.uint8, Fraction(1), 0, 1)}
        self._runners: dict[tuple[str, ...], PartRunner] = {}
        for outputs in graph.steps:
            self._runner(outputs)
        lowest = min(self._layouts[name].rate for name in graph.cuts)
        self._kept = {name for name in graph.cuts if self._layouts[name].rate == lowest}
        self.steps = [self._plan(outputs) for outputs in graph.steps]
        self._last_read = {name: i for i, step in enumerate(self.steps) for name in step.reads}
        self._cancelled = False

    def translate(self, frame_nhwc: Frames, style_params: Array | None, run: Any = None) -> Frames:
        """One frame (1, H, W, 3), uint8, sides multiples of `multiple_of` -> its translation."""
        self._cancelled = False
        feeds: dict[str, Array] = {} if style_params is None else {STYLE: style_params}
        kept: dict[str, Array] = {FRAMES: frame_nhwc}
        for number, step in enumerate(self.steps):
            results = self._memory(step, number, kept, frame_nhwc.shape)
            self._pass(step, kept, results, feeds, run)
            kept = {name: kept[name] for name in kept if name == FRAMES or self._last_read.get(name, -1) > number}
            kept |= results
        return kept[self._graph.output]

    def cancel(self) -> None:
        """Ends `translate`, from another thread, at its next stripe: it raises DsmapError."""
        self._cancelled = True

    def bytes_for(self, height: int, width: int) -> int:
        """About how much memory `translate` takes beside the sessions, the frame and its result."""
        kept = [prod(self._layouts[name].shape(height, width)) * 4 for name in self._kept]
        return 4 * max(kept) + _STRIPES_IN_MEMORY * STRIPE_BYTES

    def _runner(self, outputs: tuple[str, ...]) -> PartRunner:
        if outputs not in self._runners:
            part = self._graph.part(outputs)
            ports = [self._layouts[name].port(name) for name in part.inputs]
            self._runners[outputs] = self._load(part, self._layouts, self._graph.model(part, ports))
        return self._runners[outputs]

    def _plan(self, outputs: tuple[str, ...]) -> Step:
        reads, computes, reach = set(), set(outputs), 0

        def visit(wanted: tuple[str, ...], beyond: int) -> None:
            nonlocal reach
            runner = self._runner(wanted)
            beyond += max(runner.above, runner.below) + runner.step - 1
            for name in runner.part.inputs:
                if name in self._kept or name == FRAMES:
                    reads.add(name)
                    reach = max(reach, beyond)
                else:
                    computes.add(name)
                    visit((name,), beyond)

        visit(outputs, 0)
        return Step(outputs, frozenset(reads), frozenset(computes), reach)

    def _memory(
        self, step: Step, number: int, kept: dict[str, Array], frame_shape: tuple[int, ...]
    ) -> dict[str, Array]:
        """Arrays for the results of a step that are kept: the memory of tensors that it is the last to read, or new."""
        free = [kept[name] for name in step.reads if name != FRAMES and self._last_read[name] == number]
        results = {}
        for name in step.outputs:
            if name in self._kept or name == self._graph.output:
                shape, dtype = self._layouts[name].shape(*frame_shape[1:3]), self._layouts[name].dtype
                old = next((array for array in free if array.shape == shape and array.dtype == dtype), None)
                free = [array for array in free if array is not old]
                results[name] = np.empty(shape, dtype) if old is None else old
        return results

    def _pass(self, step: Step, kept: dict[str, Array], results: dict[str, Array], feeds: dict[str, Array],
              run: Any) -> None:  # fmt: skip
        """Fills `results` and adds the numbers of the norms of the step's outputs to `feeds`."""
        norms = {name: self._graph.norm_of[name] for name in step.outputs if name in self._graph.norm_of}
        statistics = {name: Statistics(len(norm.weight)) for name, norm in norms.items()}
        late: list[Callable[[], None]] = []  # results may have the memory of what the next stripe reads
        for stripe in self._stripes(step, *kept[FRAMES].shape[1:3]):
            if self._cancelled:
                raise _CANCELLED
            found = self._compute(step.outputs, stripe, kept, feeds, run)
            for write in late:
                write()
            late = [self._writer(name, results[name], found[name], stripe) for name in results]
            for name, sums in statistics.items():
                sums.add(found[name])
        for write in late:
            write()
        for name, norm in norms.items():
            numbers = statistics[name].scale_and_shift(norm, self._layouts[name].channels)
            feeds |= zip((norm.scale_input, norm.shift_input), numbers, strict=True)

    def _writer(self, name: str, result: Array, found: Array, stripe: Stripe) -> Callable[[], None]:
        layout = self._layouts[name]
        rows = layout.rows(stripe.start, -1), layout.rows(stripe.end, stripe.height)

        def write() -> None:
            layout.cut(result, *rows)[...] = found

        return write

    def _stripes(self, step: Step, height: int, width: int) -> Iterator[Stripe]:
        """Stripes of the frame, whose tensors are of at most `STRIPE_BYTES` and that are no smaller than the reach."""
        largest = max(prod(self._layouts[name].shape(height, width)) * 4 for name in step.computes)
        rows = max(STRIPE_BYTES * height // largest, step.reach + self._unit)
        rows = -(-rows // self._unit) * self._unit
        count = max(1, height // rows)
        edges = [height * i // count // self._unit * self._unit for i in range(count)] + [height]
        for start, end in pairwise(edges):
            yield Stripe(start, end, height)

    def _compute(self, outputs: tuple[str, ...], stripe: Stripe, kept: dict[str, Array], feeds: dict[str, Array],
                 run: Any) -> dict[str, Array]:  # fmt: skip
        """The rows of a stripe of `outputs`, from kept tensors; what is not kept is computed first."""
        runner = self._runner(outputs)
        given = runner.inputs_for(stripe)
        inputs = {}
        for name in runner.part.inputs:
            if name in kept:
                layout = self._layouts[name]
                inputs[name] = layout.cut(
                    kept[name], layout.rows(given.start, -1), layout.rows(given.end, given.height)
                )
            else:
                inputs |= self._compute((name,), given, kept, feeds, run)
        found = runner.run(inputs, given, stripe, kept[FRAMES].shape[2], feeds, run)
        return dict(zip(outputs, found, strict=True))


_STRIPES_IN_MEMORY = 12  # measured
