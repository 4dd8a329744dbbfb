"""The interface to CUDA: device memory, streams, events and graphs, and nothing else.

Handles are numbers, as TensorRT takes them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NewType

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError

Address = NewType("Address", int)
"""Of memory on the device."""
Stream = NewType("Stream", int)
Event = NewType("Event", int)
Graph = NewType("Graph", int)
"""A captured graph that can be launched."""
Bytes = npt.NDArray[np.uint8]
"""Pinned memory of the host, flat."""


class OutOfMemoryError(DsmapError):
    """The device or the host's pinned memory is full."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """The GPU that is used: the first that this process may use."""

    name: str
    capability: str
    """Compute capability, "8.9"."""
    memory_bytes: int
    driver: str
    """The newest CUDA version that the driver knows, "13.0"."""


class Cuda(ABC):
    """One binding on one device. Calls may come from any thread; all raise DsmapError with CUDA's own reason.

    What it gave out belongs to it until it is freed: `close` frees the rest.
    """

    binding: str
    """Name and version, for messages: "cuda-python 13.4.4"."""
    device: Device
    no_graphs: str | None
    """Why graphs cannot be captured through this binding; None when they can."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Bytes on the device: free, and all."""

    @abstractmethod
    def alloc(self, size: int) -> Address:
        """`size` bytes on the device, aligned to 256. Raises OutOfMemoryError."""

    @abstractmethod
    def free(self, address: Address) -> None:
        """Gives back what `alloc` gave; waits for what uses it."""

    @abstractmethod
    def alloc_host(self, size: int) -> Bytes:
        """`size` bytes of pinned memory: only copies from and to such memory run beside the computation."""

    @abstractmethod
    def free_host(self, memory: Bytes) -> None:
        """Gives back what `alloc_host` gave. No view of it may be used afterwards."""

    @abstractmethod
    def stream(self) -> Stream:
        """A stream of its own, which does not wait for the default stream."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """An event; only with `timing` may `elapsed_ms` be asked about it."""

    @abstractmethod
    def free_event(self, event: Event) -> None:
        """Gives an event back."""

    @abstractmethod
    def record(self, event: Event, stream: Stream) -> None:
        """The event happens when all that is in the stream until now is done."""

    @abstractmethod
    def wait(self, stream: Stream, event: Event) -> None:
        """What follows in the stream waits, on the device, for the last record of the event."""

    @abstractmethod
    def synchronise(self, event: Event) -> None:
        """Waits here for the last record of the event, with Python's lock released."""

    @abstractmethod
    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that have happened."""

    @abstractmethod
    def upload(self, address: Address, source: Bytes, stream: Stream) -> None:
        """Begins copying pinned memory to the device. It may not be changed until that is done."""

    @abstractmethod
    def download(self, target: Bytes, address: Address, stream: Stream) -> None:
        """Begins copying from the device into pinned memory, all of `target`."""

    @abstractmethod
    def begin_capture(self, stream: Stream) -> None:
        """From now on what is put into the stream is recorded and not run."""

    @abstractmethod
    def end_capture(self, stream: Stream) -> Graph:
        """What was recorded, ready to launch. Raises DsmapError where something in it cannot be captured."""

    @abstractmethod
    def launch(self, graph: Graph, stream: Stream) -> None:
        """Runs what was recorded, with the addresses of then."""

    @abstractmethod
    def free_graph(self, graph: Graph) -> None:
        """Throws a graph away."""

    @abstractmethod
    def close(self) -> None:
        """Waits for the device, and frees everything that is left. May be called twice."""
