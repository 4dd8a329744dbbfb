"""PyTorch's CUDA on a CPU: streams run as late as they may, so that what waits for nothing shows."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsmap.runtime.backends.torch.cuda_device import RecordedKernels, TorchCuda


class LateStream:
    """Steps that have not run yet."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []
        self.put = self.ran = 0

    def add(self, step: Callable[[], Any]) -> None:
        self.steps.append(step)
        self.put += 1

    def run_until(self, count: int) -> None:
        with torch.inference_mode():
            while self.ran < count:
                self.steps.pop(0)()
                self.ran += 1


class LateTorchCuda(TorchCuda):
    """A device whose memory is the host's, with room for `room` bytes of frames."""

    device = torch.device("cpu")

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room
        self.log: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.streams: list[LateStream] = []
        self.pins: list[Any] = []  # weak references
        self.held: list[Any] = []  # weak references to the device's memory
        self.warm: set[int] = set()  # streams on which something has run without a graph since the last copy

    def note(self, what: str) -> None:
        self.log.append(what)
        if what in self.fail:
            raise self.fail[what]

    def used(self) -> int:
        """Bytes of the device's memory that are still held."""
        gc.collect()  # a graph here is a function that knows its lane
        return self._bytes()

    def _bytes(self) -> int:
        return sum(tensor.nbytes for one in self.held if (tensor := one()) is not None)

    def stream(self):
        self.streams.append(LateStream())
        return self.streams[-1]

    def event(self):
        return {}

    def pinned(self, shape, dtype):
        tensor = torch.empty(shape, dtype=dtype).fill_(77)
        self.pins.append(weakref.ref(tensor))
        return tensor

    def memory(self, shape, dtype, stream):
        tensor = torch.empty(shape, dtype=dtype).fill_(99)
        if self._bytes() + tensor.nbytes > self.room and self.used() + tensor.nbytes > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more lines.")
        self.held.append(weakref.ref(tensor))
        return tensor

    def copy(self, target, source, stream):
        self.note("copy")
        pinned = [any(one() is tensor for one in self.pins) for tensor in (target, source)]
        assert sum(pinned) == 1, "not between pinned memory and the device"
        self.warm.discard(id(stream))
        stream.add(lambda: target.copy_(source))

    def move(self, target, source, stream):
        stream.add(lambda: target.copy_(source))

    def run(self, function, stream):
        self.note("run")
        self.warm.add(id(stream))
        output = torch.empty_like(function())  # its values are those of later
        stream.add(lambda: output.copy_(function()))
        return output

    def capture(self, function, stream):
        self.note("capture")
        assert id(stream) in self.warm, "what has not just run there cannot be captured"
        assert all(one.ran == one.put for one in self.streams), "the device is not idle"
        return RecordedKernels(function, torch.empty_like(function()))

    def launch(self, captured, stream):
        self.note("launch")
        stream.add(lambda: captured.output.copy_(captured.graph()))
        return captured.output

    def record(self, event, stream):
        event.update(stream=stream, count=stream.put)

    def wait(self, event):
        self.note("wait")
        event["stream"].run_until(event["count"])

    def synchronise(self):
        for stream in self.streams:
            stream.run_until(stream.put)

    def give_back(self):
        self.note("give back")


def spy(log: list[Any], value: Any, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, which notes the value of `value()` at each call."""

    def call(*given: Tensor) -> Tensor:
        log.append(value())
        return function(*given)

    return call
