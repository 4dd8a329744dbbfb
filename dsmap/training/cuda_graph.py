"""An iteration captured once and repeated as a CUDA graph: one launch in place of some thousands.

The networks are small for a GPU: launching their kernels one by one takes the CPU longer than computing takes the GPU.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError, first_line
from dsmap.training.step_inputs import StepInputs

_WARM_UP = 3
"""Iterations that run as they are, before the capture: libraries prepare themselves, Adam makes its state."""

Losses = dict[str, Tensor]


class NotCapturedError(Exception):
    """The text says why, in one line."""


def captured(work: Callable[[], Losses], stream: torch.cuda.Stream | None = None) -> Callable[[], Losses]:
    """Records what `work` does on the GPU, on `stream`, without doing it; what comes back does it.

    Raises NotCapturedError.
    """
    before, graph, reason = torch.cuda.current_stream(), torch.cuda.CUDAGraph(), ""
    try:
        # Threads that load images may ask for pinned memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                losses = work()
            except Exception as error:
                reason = _line(error)  # what the end of the capture raises after that says nothing
                raise
    except Exception as error:
        torch.cuda.set_stream(before)  # a capture that fails stays on its own
        reason = reason or _line(error)
    if reason:  # out of the handler: its traceback holds what was computed
        raise NotCapturedError(reason)

    def again() -> Losses:
        graph.replay()
        return losses

    return again


class CudaGraphRunner:
    """Runs `descend` on its inputs, from the fourth time on as a captured graph.

    `descend` must depend on nothing but its argument and what lies on the device; `forget` gives back the gradients.
    Where the capture fails, `say` gets the reason and every iteration runs as it is, or with `insist` DsmapError is
    raised. The losses lie in memory that the next iteration writes to.
    """

    def __init__(
        self,
        descend: Callable[[StepInputs], Losses],
        forget: Callable[[], None],
        say: Notify,
        *,
        insist: bool = False,
        capture: Callable[..., Callable[[], Losses]] = captured,
    ) -> None:
        self._descend, self._forget, self._say, self._insist, self._capture = descend, forget, say, insist, capture
        # One for all: memory is kept apart by stream.
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        self._kept: StepInputs | None = None
        self._again: Callable[[], Losses] | None = None
        self._warm, self._failed = 0, False

    @property
    def repeats(self) -> bool:
        """Whether there is a captured graph."""
        return self._again is not None

    def __call__(self, inputs: StepInputs) -> Losses:
        """The losses of an iteration; the networks have learnt from it."""
        if self._failed:
            return self._descend(inputs)
        if self._kept is None:
            self._kept = inputs.copied()
        kept = self._kept
        for tensor, new in zip(kept.tensors(), inputs.tensors(), strict=True):
            if tensor.shape != new.shape:
                raise ValueError(f"a batch of {tuple(new.shape)} after ones of {tuple(tensor.shape)}")
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
        """Runs `work` on the stream of the capture, as PyTorch wants it before one."""
        with warnings.catch_warnings():
            # Adam can be captured and is not yet.
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
