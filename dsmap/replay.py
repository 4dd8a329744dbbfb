"""An iteration captured once and repeated as a CUDA graph: one launch in place of some thousands.

The networks are small for a GPU: launching their kernels one by one takes the CPU longer than computing takes the GPU.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dsmap.objective import ByDomain, Shift

_WARM_UP = 3
"""Iterations that run as they are, before the capture: libraries prepare themselves, Adam makes its state."""

Losses = dict[str, Tensor]
Capture = Callable[[Callable[[], Losses]], Callable[[], Losses]]


class Given(NamedTuple):
    """What an iteration computes with, beside the networks; on their device."""

    x: ByDomain
    """Pictures (N, 3, H, W) in [-1, 1]."""
    styles: ByDomain
    """Random style codes (N, S)."""
    d_styles: ByDomain
    """Those that the discriminators see; empty where they see the same."""
    noise: ByDomain
    """Of a KL style encoder, (N, S); empty without one."""
    shift: Shift | None

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in a fixed order."""
        for part in self:
            yield from part.values() if isinstance(part, Mapping) else part or ()

    def copied(self) -> "Given":
        """The same in memory of its own."""
        x, styles, d_styles, noise = (
            {domain: tensor.clone() for domain, tensor in part.items()}
            for part in (self.x, self.styles, self.d_styles, self.noise)
        )
        return Given(x, styles, d_styles, noise, self.shift and Shift(*(indices.clone() for indices in self.shift)))


def captured(work: Callable[[], Losses]) -> Callable[[], Losses]:
    """Records what `work` does on the GPU, without doing it; what comes back does it."""
    graph = torch.cuda.CUDAGraph()
    # Threads that load pictures may ask for pinned memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        losses = work()

    def again() -> Losses:
        graph.replay()
        return losses

    return again


class Replay:
    """Runs `descend` on what is given, from the fourth time on as a captured graph.

    `descend` must depend on nothing but its argument and what lies on the device. Where the capture fails, `say` gets
    the reason and every iteration runs as it is. The losses lie in memory that the next iteration writes to.
    """

    def __init__(
        self, descend: Callable[[Given], Losses], say: Callable[[str], None], capture: Capture = captured
    ) -> None:
        self._descend, self._say, self._capture = descend, say, capture
        self._kept: Given | None = None
        self._again: Callable[[], Losses] | None = None
        self._warm, self._failed = 0, False

    def __call__(self, given: Given) -> Losses:
        """The losses of an iteration; the networks have learnt from it."""
        if self._failed:
            return self._descend(given)
        if self._kept is None:
            self._kept = given.copied()
        kept = self._kept
        for tensor, new in zip(kept.tensors(), given.tensors(), strict=True):
            tensor.copy_(new, non_blocking=True)
        if self._warm < _WARM_UP:
            self._warm += 1
            return _aside(lambda: self._descend(kept))
        if self._again is None:
            try:
                self._again = self._capture(lambda: self._descend(kept))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = next(iter(str(error).splitlines()), "")[:200]
                self._say(f"the iteration cannot be captured as a CUDA graph, training without it ({reason})")
                self._failed = True
                return self._descend(given)
        return self._again()


def _aside(work: Callable[[], Losses]) -> Losses:
    """Runs `work` on a stream of its own where there is a GPU, as PyTorch wants it before a capture."""
    if not torch.cuda.is_available():
        return work()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        losses = work()
    torch.cuda.current_stream().wait_stream(stream)
    return losses
