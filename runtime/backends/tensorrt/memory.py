"""Interfaces of engines and contexts, memory for their tensors, and a single run of an engine."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dsmap.runtime.cuda.base import Address, Bytes, Cuda, Event, Stream

Shape = tuple[int, ...]
Array = npt.NDArray[Any]
MIN_SCRATCH_BYTES = 256
"""Bytes; never 0, so that there is always an address."""


class Context(Protocol):
    """One use of an engine: its shapes, its addresses."""

    def shape(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Sets the shapes of the inputs; gives those of the outputs."""

    def scratch_bytes(self) -> int:
        """How much scratch memory it wants for these shapes."""

    def bind(self, addresses: Mapping[str, Address], scratch: Address, scratch_bytes: int) -> None:
        """Where every input and output lies, and the scratch memory."""

    def enqueue(self, stream: Stream) -> None:
        """Puts the computation into the stream. Raises DsmapError where that fails."""

    def capture_refusal(self, stream: Stream) -> str | None:
        """Why it cannot be captured; None where it can, or where that is unknown."""


class Engine(Protocol):
    """A loaded engine."""

    title: str
    """For messages: "decoder.winter fp16"."""

    def takes(self, width: int, height: int, batch: int) -> bool:
        """Whether it is for frames of this size."""

    def dtype(self, tensor: str) -> np.dtype[np.generic]:
        """Of an input or output."""

    def context(self, stream: Stream) -> Context:
        """A new context."""

    def close(self) -> None:
        """Frees what it holds. Its contexts must not be used any more."""


class Memory:
    """Allocates memory and events of a Cuda, and frees all of them together."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._device: list[Address] = []
        self._host: list[Bytes] = []
        self._events: list[Event] = []
        self.device_bytes = 0

    def device(self, size: int) -> Address:
        """At least one byte on the device."""
        address = self._cuda.alloc(max(size, 1))
        self._device.append(address)
        self.device_bytes += size
        return address

    def host(self, size: int) -> Bytes:
        """Pinned memory."""
        memory = self._cuda.alloc_host(max(size, 1))
        self._host.append(memory)
        return memory

    def event(self, *, timing: bool = False) -> Event:
        """An event, as `Cuda.event`."""
        event = self._cuda.event(timing=timing)
        self._events.append(event)
        return event

    def free(self) -> None:
        """Frees everything."""
        while self._events:
            self._cuda.free_event(self._events.pop())
        while self._device:
            self._cuda.free(self._device.pop())
        while self._host:
            self._cuda.free_host(self._host.pop())


class Tensor(NamedTuple):
    """A tensor on the device."""

    address: Address
    shape: Shape
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def run_once(cuda: Cuda, stream: Stream, engine: Engine, **inputs: Array) -> list[Array]:
    """An engine's outputs for arrays of the host; nothing is kept, for engines that run seldom."""
    memory = Memory(cuda)
    try:
        done = memory.event()
        context = engine.context(stream)
        shapes = context.shape({name: array.shape for name, array in inputs.items()})
        addresses = {}
        for name, array in inputs.items():
            addresses[name] = memory.device(array.nbytes)
            pinned = memory.host(array.nbytes)
            pinned[: array.nbytes] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
            cuda.upload(addresses[name], pinned, stream)
        outputs = {}
        for name, shape in shapes.items():
            tensor = Tensor(Address(0), shape, engine.dtype(name))
            addresses[name] = memory.device(tensor.nbytes)
            outputs[name] = (memory.host(tensor.nbytes), tensor)
        scratch_bytes = max(MIN_SCRATCH_BYTES, context.scratch_bytes())
        context.bind(addresses, memory.device(scratch_bytes), scratch_bytes)
        context.enqueue(stream)
        for name, (pinned, _) in outputs.items():
            cuda.download(pinned, addresses[name], stream)
        cuda.record(done, stream)
        cuda.synchronise(done)
        return [as_array(pinned, tensor.shape, tensor.dtype).copy() for pinned, tensor in outputs.values()]
    finally:
        memory.free()


def as_array(memory: Bytes, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Pinned memory as an array."""
    return memory[: int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
