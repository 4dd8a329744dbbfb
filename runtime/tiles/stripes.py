"""Translates a frame in stripes, step by step: each step passes over the whole frame, and ends at the next norms.

A stripe of a step's outputs is computed from what is stored; tensors in between are computed as far as the stripe
needs them, and their last rows are kept for the next stripe. Memory is that of what the plan stores, and of one stripe.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Frames
from dsmap.runtime.system.memory import return_free_memory
from dsmap.runtime.tiles.local_graph import FRAMES, STYLE, LocalGraph, Norm, Part
from dsmap.runtime.tiles.part_runner import Array, Layout, PartRunner, Stripe
from dsmap.runtime.tiles.plan import Step, StripePlan, content_sized
from dsmap.runtime.tiles.rows import Rows
from dsmap.runtime.tiles.statistics import ScaleAndShift, Statistics, scale_and_shift_of

STRIPE_BYTES = 6 << 20
"""Of the largest tensor in a stripe."""
_CANCELLED = DsmapError("the translation was cancelled", "Run it again.")


class _Work(NamedTuple):
    """What is computed next of some tensors: rows that follow those that are there, from rows of the inputs."""

    outputs: tuple[str, ...]
    given: Stripe
    wanted: Stripe


class StripedGraph:
    """The graphs of one direction, to run in stripes. Not for several threads at once."""

    def __init__(
        self,
        graph: LocalGraph,
        load: Callable[[Part, dict[str, Layout], bytes], PartRunner],
        multiple_of: int,
        *,
        in_order: bool = False,
    ) -> None:
        """`load` gives the runner of a part, from the layouts of its inputs and its ONNX file.

        Sides are multiples of `multiple_of`. `in_order`: statistics are added up as ONNX Runtime adds them
        (`adds_in_order`). Raises DsmapError for a model whose rows depend on too many of the frame.
        """
        self._steps, self._norm_of, self._output = graph.steps, graph.norm_of, graph.output
        self._unit, self._in_order = multiple_of, in_order
        self._layouts = {FRAMES: Layout(3, np.uint8, Fraction(1), 0, 1)}
        self._runners: dict[tuple[str, ...], PartRunner] = {}

        def add(outputs: tuple[str, ...]) -> None:
            if outputs not in self._runners:
                part = graph.part(outputs)
                ports = [self._layouts[name].port(name) for name in part.inputs]
                self._runners[outputs] = load(part, self._layouts, graph.model(part, ports))

        for outputs in graph.steps:
            add(outputs)
        for name in set(graph.cuts) - content_sized(graph.cuts, self._layouts):  # they may be computed again
            add((name,))
        return_free_memory()
        self._plans: dict[tuple[int, int], StripePlan] = {}
        self._cancelled = False

    def translate(self, frame_nhwc: Frames, style_params: Array | None, run: Any = None) -> Frames:
        """One frame (1, H, W, 3), uint8, sides multiples of `multiple_of` -> its translation."""
        self._cancelled = False
        height, width = frame_nhwc.shape[1:3]
        feeds: dict[str, Array] = {} if style_params is None else {STYLE: style_params}
        stored = {FRAMES: self._empty(FRAMES, height), self._output: self._empty(self._output, height)}
        stored[FRAMES].add(frame_nhwc)
        for step in self.plan(height, width).steps:
            stored |= {name: self._empty(name, height) for name in step.kept}
            self._pass(step, stored, height, width, feeds, run)
            for name in step.frees:
                del stored[name]
            return_free_memory()
        return stored[self._output].read(Stripe(0, height, height))

    def cancel(self) -> None:
        """Ends `translate`, from another thread, at its next stripe: it raises DsmapError."""
        self._cancelled = True

    def plan(self, height: int, width: int) -> StripePlan:
        """What is kept and what is computed again, for frames of a size."""
        if (height, width) not in self._plans:
            self._plans = {
                (height, width): StripePlan(
                    self._steps, self._layouts, lambda outputs: self._runners[outputs].part, height, width
                )
            }
        return self._plans[height, width]

    def bytes_for(self, height: int, width: int) -> int:
        """About how much memory `translate` takes beside the sessions, the frame and its result."""
        plan = self.plan(height, width)
        of_stripe = max(self._largest(step, plan) * self._rows(step, plan, height) / height for step in plan.steps)
        return plan.kept_bytes + round(_STRIPES_IN_MEMORY * of_stripe)

    def _empty(self, name: str, height: int) -> Rows:
        return Rows(self._layouts[name], height)

    def _pass(
        self, step: Step, stored: dict[str, Rows], height: int, width: int, feeds: dict[str, Array], run: Any
    ) -> None:
        """Fills what the step stores and adds the numbers of the norms of its outputs to `feeds`."""
        passing = {name: self._empty(name, height) for outputs in step.order[:-1] for name in outputs}
        tensors = stored | passing
        norms = {name: self._norm_of[name] for name in step.outputs if name in self._norm_of}
        statistics = {
            name: Statistics(len(norm.weight))
            for name, norm in norms.items()
            if not (self._in_order and name in step.kept)
        }
        done = dict.fromkeys(step.order, 0)
        for stripe in self._stripes(step, height, width):
            if self._cancelled:
                raise _CANCELLED
            work, needed = self._work(step, stripe, done)
            for outputs, given, wanted in work:
                runner = self._runners[outputs]
                inputs = {name: tensors[name].read(given) for name in runner.part.inputs}
                found = dict(zip(outputs, runner.run(inputs, given, wanted, width, feeds, run), strict=True))
                for name in found.keys() & tensors.keys():
                    tensors[name].add(found[name])
            for name, sums in statistics.items():
                sums.add(found[name])
            for name in (step.frees | passing.keys()) & needed.keys():
                tensors[name].free_before(needed[name])
        for name, norm in norms.items():
            numbers = self._numbers(norm, stored.get(name), statistics.get(name), height, width)
            feeds |= zip((norm.scale_input, norm.shift_input), numbers, strict=True)

    def _numbers(
        self, norm: Norm, rows: Rows | None, statistics: Statistics | None, height: int, width: int
    ) -> ScaleAndShift:
        layout = self._layouts[norm.x]
        if statistics is not None:
            return statistics.scale_and_shift(norm, layout.channels)
        assert rows is not None, "it has statistics, or it is kept"
        return scale_and_shift_of(rows, norm, int(np.prod(layout.shape(height, width)[2:])))

    def _work(
        self, step: Step, stripe: Stripe, done: dict[tuple[str, ...], int]
    ) -> tuple[list[_Work], dict[str, Stripe]]:
        """What to compute for a stripe, and the rows of all tensors that it reads. Sets how much is `done`."""
        needed = dict.fromkeys(step.outputs, stripe)
        work = []
        for outputs in reversed(step.order):
            wanted = Stripe(done[outputs], max(needed[name].end for name in outputs), stripe.height)
            if wanted.start >= wanted.end:
                continue
            done[outputs] = wanted.end
            runner = self._runners[outputs]
            given = runner.inputs_for(wanted)
            work.append(_Work(outputs, given, wanted))
            for name in runner.part.inputs:
                before = needed.get(name, given)
                needed[name] = Stripe(min(before.start, given.start), max(before.end, given.end), stripe.height)
        return work[::-1], needed

    def _stripes(self, step: Step, height: int, width: int) -> Iterator[Stripe]:
        rows = self._rows(step, self.plan(height, width), height)
        count = max(1, height // rows)
        edges = [height * i // count // self._unit * self._unit for i in range(count)] + [height]
        for start, end in pairwise(edges):
            yield Stripe(start, end, height)

    def _rows(self, step: Step, plan: StripePlan, height: int) -> int:
        """Of the frame in a stripe: its tensors are of about `STRIPE_BYTES`, but no smaller than what they overlap."""
        overlaps = [self._runners[outputs].above + self._runners[outputs].below for outputs in step.order]
        rows = max(1, STRIPE_BYTES * height // max(1, self._largest(step, plan)), _ROWS_TO_OVERLAP * max(overlaps))
        return -(-rows // self._unit) * self._unit

    def _largest(self, step: Step, plan: StripePlan) -> int:
        """The bytes of the largest tensor of a step."""
        return max(plan.sizes.get(name, 0) for outputs in step.order for name in (*outputs, *step.reads))


_STRIPES_IN_MEMORY = 20  # measured
_ROWS_TO_OVERLAP = 2
