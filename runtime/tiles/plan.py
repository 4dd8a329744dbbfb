"""What a translation in stripes keeps in memory, for a size of frames, and what it computes again.

Each step passes over the frame, and ends at norms. Tensors of the content's size are kept from the step that computes
them to the last that reads them. Larger ones are kept where `KEPT_BYTES` allow it, the frame through; where they do
not, they are computed again, stripe by stripe, in each step that reads them.
"""

from collections.abc import Callable, Iterable
from math import prod
from statistics import median
from typing import NamedTuple

from dsmap.runtime.tiles.local_graph import FRAMES, Part
from dsmap.runtime.tiles.part_runner import Layout

KEPT_BYTES = 512 << 20
"""Of all tensors that are kept at a time, if those of the content's size leave as much."""
_FLOAT = 4  # bytes


class Step(NamedTuple):
    """One pass over the frame."""

    outputs: tuple[str, ...]
    kept: frozenset[str]
    """Those of the outputs that are stored."""
    reads: frozenset[str]
    """The stored tensors that it reads."""
    frees: frozenset[str]
    """Those of `reads` that no later step reads."""
    order: tuple[tuple[str, ...], ...]
    """What to compute for a stripe, in this order; the outputs are the last."""


def content_sized(cuts: Iterable[str], layouts: dict[str, Layout]) -> frozenset[str]:
    """The tensors that are always kept: of the lowest resolution, and with no more channels than most of those have."""
    lowest = min(layouts[name].rate for name in cuts)
    channels = {name: layouts[name].channels for name in cuts if layouts[name].rate == lowest}
    usual = median(channels.values())
    return frozenset(name for name, number in channels.items() if number <= usual)


class StripePlan:
    """The steps for frames of one size."""

    def __init__(
        self,
        steps: Iterable[tuple[str, ...]],
        layouts: dict[str, Layout],
        part_of: Callable[[tuple[str, ...]], Part],
        height: int,
        width: int,
    ) -> None:
        """`steps`: the tensors at cuts by step, the result last. `part_of` gives what computes some together."""
        self._outputs, self._part_of = list(steps), part_of
        cuts = [name for outputs in self._outputs[:-1] for name in outputs]
        self.sizes = {name: prod(layouts[name].shape(height, width)) * _FLOAT for name in cuts}
        self._made = {name: i for i, outputs in enumerate(self._outputs) for name in outputs}
        small = content_sized(cuts, layouts)
        self._until = {name: len(self._outputs) if name in small else self._made[name] for name in cuts}
        limit = max(KEPT_BYTES, self._most_kept())
        for name in cuts:
            if name not in small:
                self._keep_longer(name, limit)
        self.kept_bytes = self._most_kept()
        """The most that is kept between two steps."""
        self.steps = self._steps()

    def _keep_longer(self, name: str, limit: int) -> None:
        """Keeps a tensor for as many of the steps that read it as `limit` allows."""
        first = self._until[name]
        readers = [number for number in range(first + 1, len(self._outputs)) if (name,) in self._order(number)[0][:-1]]
        for number in reversed(readers):
            self._until[name] = number
            if self._most_kept() <= limit:
                return
        self._until[name] = first

    def _order(self, number: int) -> tuple[list[tuple[str, ...]], set[str]]:
        """What a step computes, in order, and the stored tensors that it reads."""
        order: list[tuple[str, ...]] = []
        reads: set[str] = set()

        def visit(outputs: tuple[str, ...]) -> None:
            for name in self._part_of(outputs).inputs:
                if name == FRAMES or self._until[name] >= number:
                    reads.add(name)
                elif (name,) not in order:
                    visit((name,))
            order.append(outputs)

        visit(self._outputs[number])
        return order, reads

    def _last_reads(self) -> dict[str, int]:
        return {name: number for number in range(len(self._outputs)) for name in self._order(number)[1]}

    def _most_kept(self) -> int:
        last = self._last_reads()
        lives = [(self._made[name], end, self.sizes[name]) for name, end in last.items() if name != FRAMES]
        return max((sum(size for made, end, size in lives if made <= step < end) for step in range(len(self._outputs))),
                   default=0)  # fmt: skip

    def _steps(self) -> list[Step]:
        last = self._last_reads()
        steps = []
        for number, outputs in enumerate(self._outputs):
            order, reads = self._order(number)
            frees = frozenset(name for name in reads if name != FRAMES and last[name] == number)
            kept = frozenset(name for name in outputs if last.get(name, -1) > number)
            steps.append(Step(outputs, kept, frozenset(reads), frees, tuple(order)))
        return steps
