"""Interface to the part of CUDA that the runtime uses: device memory, streams, events and graphs.

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
    """The GPU in use: the first that this process may use."""

    name: str
    capability: str
    """Compute capability, "8.9"."""
    memory_bytes: int
    driver: str
    """The newest CUDA version that the driver knows, "13.0"."""


class Cuda(ABC):
    """One binding on one device. Calls may come from any thread; all raise DsmapError with CUDA's own reason.

    It owns what it allocates: `close` frees what is left.
    """

    binding: str
    """Name and version, for messages: "cuda-python 13.4.4"."""
    device: Device
    no_graphs: str | None
    """Why graphs cannot be captured through this binding; None when they can."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Bytes on the device: free and total."""

    @abstractmethod
    def alloc(self, size: int) -> Address:
        """`size` bytes on the device, aligned to 256. Raises OutOfMemoryError."""

    @abstractmethod
    def free(self, address: Address) -> None:
        """Frees memory of `alloc`, after what uses it is done."""

    @abstractmethod
    def alloc_host(self, size: int) -> Bytes:
        """`size` bytes of pinned memory: only copies from and to such memory run beside the computation."""

    @abstractmethod
    def free_host(self, memory: Bytes) -> None:
        """Frees memory of `alloc_host`. Views of it must not be used afterwards."""

    @abstractmethod
    def stream(self) -> Stream:
        """A stream of its own, which does not wait for the default stream."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """An event; only with `timing` may `elapsed_ms` be asked about it."""

    @abstractmethod
    def free_event(self, event: Event) -> None:
        """Frees an event."""

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
        """Starts copying pinned memory to the device. It must not be changed until that is done."""

    @abstractmethod
    def download(self, target: Bytes, address: Address, stream: Stream) -> None:
        """Starts copying from the device into pinned memory, all of `target`."""

    @abstractmethod
    def begin_capture(self, stream: Stream) -> None:
        """Records what is put into the stream from now on, instead of running it."""

    @abstractmethod
    def end_capture(self, stream: Stream) -> Graph:
        """The recorded graph, ready to launch. Raises DsmapError where something in it cannot be captured."""

    @abstractmethod
    def launch(self, graph: Graph, stream: Stream) -> None:
        """Runs a graph, with the addresses that it was captured with."""

    @abstractmethod
    def free_graph(self, graph: Graph) -> None:
        """Frees a graph."""

    @abstractmethod
    def close(self) -> None:
        """Waits for the device, and frees everything that is left. May be called twice."""
