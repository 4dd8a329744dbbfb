"""Iterations captured as a CUDA graph: one launch instead of some thousands.

The networks are small for a GPU: the CPU takes longer to launch their kernels one by one than the GPU to run them.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError, first_line
from dsmap.training.step_inputs import StepInputs

_WARM_UP = 3
"""Iterations before the capture: libraries initialise, Adam allocates its state."""

Losses = dict[str, Tensor]


class NotCapturedError(Exception):
    """The capture failed; the text says why in one line."""


def capture_graph(work: Callable[[], Losses], stream: torch.cuda.Stream | None = None) -> Callable[[], Losses]:
    """Record the GPU work of `work` on `stream` without running it; the returned function runs it.

    Raises NotCapturedError.
    """
    before, graph, reason = torch.cuda.current_stream(), torch.cuda.CUDAGraph(), ""
    try:
        # Threads that load images may allocate pinned memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                losses = work()
            except Exception as error:
                reason = _line(error)  # the error at the end of the capture is meaningless
                raise
    except Exception as error:
        torch.cuda.set_stream(before)  # a failed capture leaves its own stream current
        reason = reason or _line(error)
    if reason:  # outside the handler, whose traceback holds tensors
        raise NotCapturedError(reason)

    def again() -> Losses:
        graph.replay()
        return losses

    return again


class CudaGraphRunner:
    """Runs `descend` on step inputs, from the fourth call on as a captured graph.

    `descend` must depend only on its argument and on what is on the device; `forget` frees the gradients. If the
    capture fails, `say` gets the reason and iterations run uncaptured, or DsmapError is raised with `insist`. The next
    call overwrites the returned losses.
    """

    def __init__(
        self,
        descend: Callable[[StepInputs], Losses],
        forget: Callable[[], None],
        say: Notify,
        *,
        insist: bool = False,
        capture: Callable[..., Callable[[], Losses]] = capture_graph,
    ) -> None:
        self._descend, self._forget, self._say, self._insist, self._capture = descend, forget, say, insist, capture
        # One stream for all calls, as memory is cached per stream.
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        self._kept: StepInputs | None = None
        self._again: Callable[[], Losses] | None = None
        self._warm, self._failed = 0, False

    @property
    def is_captured(self) -> bool:
        """Whether iterations run as a captured graph."""
        return self._again is not None

    def __call__(self, inputs: StepInputs) -> Losses:
        """Run an iteration; returns its losses."""
        if self._failed:
            return self._descend(inputs)
        if self._kept is None:
            self._kept = inputs.copied()
        kept = self._kept
        for tensor, new in zip(kept.tensors(), inputs.tensors(), strict=True):
            if tensor.shape != new.shape:
                raise ValueError(f"a batch of shape {tuple(new.shape)} after batches of shape {tuple(tensor.shape)}")
            tensor.copy_(new, non_blocking=True)
        if self._warm < _WARM_UP:
            self._warm += 1
            return self._aside(lambda: self._descend(kept))
        if self._again is None:
            self._forget()
            try:
                self._again = self._capture(lambda: self._descend(kept), self._stream)
            except NotCapturedError as error:
                fact = f"the iteration cannot be captured as a CUDA graph ({error})"
                if self._insist:
                    raise DsmapError(fact, "Train without it: --set cuda_graph=false.") from None
                self._say(f"{fact}: training without it, which is slower")
                self._failed = True
        return self._descend(inputs) if self._again is None else self._again()

    def _aside(self, work: Callable[[], Losses]) -> Losses:
        """Run `work` on the stream of the capture, as PyTorch requires before it."""
        with warnings.catch_warnings():
            # Adam is capturable and not captured yet.
            warnings.filterwarnings("ignore", message=".*capturable=True")
            if self._stream is None:
                return work()
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                losses = work()
            torch.cuda.current_stream().wait_stream(self._stream)
            return losses


def _line(error: Exception) -> str:
    return (first_line(error) or type(error).__name__)[:200]
