"""What the lanes use of PyTorch's CUDA interface, and nothing more: the tests have another that runs on a CPU."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils.dlpack
from torch import Tensor

from dsmap.runtime.backends.dlpack import DEVICES, Plane, lend_plane

Shape = tuple[int, ...]
_ONE_AT_A_TIME = threading.Lock()
"""A process captures one graph at a time, says torch; there may be several translators."""


class RecordedKernels(NamedTuple):
    """A CUDA graph of one frame, and where its result is after each launch."""

    graph: Any
    output: Tensor


class TorchCuda:
    """The first GPU. Streams and events are PyTorch's own."""

    device = torch.device("cuda", 0)

    def stream(self) -> Any:
        """A new stream, which waits for no other."""
        return torch.cuda.Stream(self.device)

    def event(self) -> Any:
        """A new event."""
        return torch.cuda.Event()

    def pinned(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the GPU copies from and to by itself."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def memory(self, shape: Shape, dtype: torch.dtype, stream: Any) -> Tensor:
        """Memory of the device that belongs to `stream`: it is used again, later, for what runs there."""
        with torch.cuda.stream(stream):
            return torch.empty(shape, dtype=dtype, device=self.device)

    def adopt(self, plane: Plane, shape: Shape, dtype: torch.dtype, owner: Any) -> Tensor:
        """A plane in the device's memory that `owner` has; `shape`: padding included."""
        size = dtype.itemsize
        rows, row_bytes = shape[0], plane.pitch * size
        capsule = lend_plane(Plane(plane.address, row_bytes), (rows, row_bytes), DEVICES[self.device.type], owner)
        return torch.utils.dlpack.from_dlpack(capsule).view(dtype).reshape(shape)

    def move(self, target: Tensor, source: Tensor, stream: Any) -> None:
        """Copies within the device, later: when `stream` gets there."""
        with torch.cuda.stream(stream):
            target.copy_(source)

    def copy(self, target: Tensor, source: Tensor, stream: Any) -> None:
        """Copies between pinned memory and the device, later: when `stream` gets there."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def run(self, function: Callable[[], Tensor], stream: Any) -> Tensor:
        """Calls a function whose kernels go to `stream`."""
        with torch.cuda.stream(stream):
            return function()

    def capture(self, function: Callable[[], Tensor], stream: Any) -> RecordedKernels:
        """The kernels of a function that has run before, as a CUDA graph with memory of its own.

        Waits until the device is idle. Another thread may wait for its frame meanwhile ("thread_local").
        """
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        with _ONE_AT_A_TIME:
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    output = function()
            finally:
                torch.cuda.set_stream(before)  # where capturing fails, torch leaves its own
        return RecordedKernels(graph, output)

    def launch(self, captured: RecordedKernels, stream: Any) -> Tensor:
        """Runs a graph on `stream`."""
        with torch.cuda.stream(stream):
            captured.graph.replay()
        return captured.output

    def record(self, event: Any, stream: Any) -> None:
        """The event comes when `stream` has done what was put there so far."""
        event.record(stream)

    def wait(self, event: Any) -> None:
        """Waits for an event, without holding other threads up."""
        event.synchronize()

    def synchronise(self) -> None:
        """Waits until the device is idle."""
        torch.cuda.synchronize(self.device)

    def give_back(self) -> None:
        """Gives memory that nothing uses back to the device."""
        torch.cuda.empty_cache()
