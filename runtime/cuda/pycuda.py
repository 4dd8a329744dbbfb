"""CUDA through PyCUDA, where the user's environment has it. It is the driver's API, on the primary context.

PyCUDA keeps a stack of contexts for each thread, and ends the process when one is left on it: so the context is put
there for the length of each call. TensorRT and ONNX Runtime use the primary context as well.
"""

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.cuda.base import Address, Bytes, Cuda, Device, Event, Graph, OutOfMemoryError, Stream

_INSTALL = "pip install 'dsmap[pycuda]' (it compiles, and needs the CUDA toolkit)"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; PyCUDA has no name for it


class PyCuda(Cuda):
    """Numbers are handed out for PyCUDA's objects, which live here."""

    # As of PyCUDA 2026.1: neither stream capture nor graphs.
    no_graphs: str | None = "PyCUDA cannot capture CUDA graphs"

    def __init__(self) -> None:
        self._drv = _import_driver()
        self._lock = threading.Lock()
        self._context: Any = None
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}
        self._host: dict[int, Any] = {}
        self.binding = f"PyCUDA {_version()}"
        with _explained(self._drv, "starting"):
            self._drv.init()
            if self._drv.Device.count() < 1:
                raise DsmapError("CUDA sees no GPU that this process may use", "Look at CUDA_VISIBLE_DEVICES.")
            device = self._drv.Device(0)
            self._context = device.retain_primary_context()
            major, minor = device.compute_capability()
            driver = self._drv.get_driver_version()
            self.device = Device(
                name=device.name(),
                capability=f"{major}.{minor}",
                memory_bytes=int(device.total_memory()),
                driver=f"{driver // 1000}.{driver % 1000 // 10}",
            )

    def memory(self) -> tuple[int, int]:
        with self._current("cuMemGetInfo"):
            free, total = self._drv.mem_get_info()
        return int(free), int(total)

    def alloc(self, size: int) -> Address:
        with self._current("cuMemAlloc"):
            allocation = self._drv.mem_alloc(size)
            self._memory[int(allocation)] = allocation
        return Address(int(allocation))

    def free(self, address: Address) -> None:
        self._release(self._memory, address, lambda allocation: allocation.free())

    def alloc_host(self, size: int) -> Bytes:
        with self._current("cuMemHostAlloc"):
            memory: Bytes = self._drv.pagelocked_empty(size, np.uint8)
            self._host[memory.ctypes.data] = memory
        return memory

    def free_host(self, memory: Bytes) -> None:
        self._release(self._host, memory.ctypes.data, lambda pinned: pinned.base.free())

    def stream(self) -> Stream:
        with self._current("cuStreamCreate"):
            stream = self._drv.Stream(_NON_BLOCKING)
            self._streams[stream.handle] = stream
        return Stream(stream.handle)

    def event(self, *, timing: bool = False) -> Event:
        flags = self._drv.event_flags
        with self._current("cuEventCreate"):
            event = self._drv.Event(flags.DEFAULT if timing else flags.DISABLE_TIMING)
            self._events[id(event)] = event  # older versions do not tell an event's handle
        return Event(id(event))

    def free_event(self, event: Event) -> None:
        with self._current("cuEventDestroy"):
            self._events.pop(event, None)

    def record(self, event: Event, stream: Stream) -> None:
        with self._current("cuEventRecord"):
            self._events[event].record(self._streams[stream])

    def wait(self, stream: Stream, event: Event) -> None:
        with self._current("cuStreamWaitEvent"):
            self._streams[stream].wait_for_event(self._events[event])

    def synchronise(self, event: Event) -> None:
        with self._current("cuEventSynchronize"):
            self._events[event].synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        with self._current("cuEventElapsedTime"):
            return float(self._events[end].time_since(self._events[start]))

    def upload(self, address: Address, source: Bytes, stream: Stream) -> None:
        with self._current("cuMemcpyHtoDAsync"):
            self._drv.memcpy_htod_async(address, source, self._streams[stream])

    def download(self, target: Bytes, address: Address, stream: Stream) -> None:
        with self._current("cuMemcpyDtoHAsync"):
            self._drv.memcpy_dtoh_async(target, address, self._streams[stream])

    def begin_capture(self, stream: Stream) -> None:
        raise DsmapError(str(self.no_graphs), "Use cuda-python for graphs.")

    def end_capture(self, stream: Stream) -> Graph:
        raise DsmapError(str(self.no_graphs), "Use cuda-python for graphs.")

    def launch(self, graph: Graph, stream: Stream) -> None:
        raise DsmapError(str(self.no_graphs), "Use cuda-python for graphs.")

    def free_graph(self, graph: Graph) -> None:
        """There is none."""

    def close(self) -> None:
        if self._context is None:
            return
        failures = []

        def attempt(what: str, action: Callable[[], Any]) -> None:
            try:
                with self._current(what):
                    action()
            except DsmapError as error:  # the rest is freed all the same
                failures.append(error)

        attempt("cuCtxSynchronize", self._context.synchronize)
        # PyCUDA frees streams and events with their objects, while the context is there.
        attempt("cuEventDestroy", self._events.clear)
        attempt("cuStreamDestroy", self._streams.clear)
        for pinned in list(self._host.values()):
            attempt("cuMemFreeHost", pinned.base.free)
        for allocation in list(self._memory.values()):
            attempt("cuMemFree", allocation.free)
        self._host.clear()
        self._memory.clear()
        context, self._context = self._context, None
        with _explained(self._drv, "cuDevicePrimaryCtxRelease"):
            context.detach()
        if failures:
            raise failures[0]

    def _release(self, held: dict[int, Any], handle: int, free: Callable[[Any], Any]) -> None:
        with self._lock:
            thing = held.pop(handle, None)
        if thing is not None:
            with self._current("freeing"):
                free(thing)

    @contextmanager
    def _current(self, what: str) -> Iterator[None]:
        """The context is this thread's for the length of the block; PyCUDA's errors in it become DsmapError."""
        if self._context is None:
            raise DsmapError(f"CUDA: {what} after the end", "Make a new translator.")
        with _explained(self._drv, what):
            self._context.push()
            try:
                yield
            finally:
                self._drv.Context.pop()


@contextmanager
def _explained(drv: Any, what: str) -> Iterator[None]:
    try:
        yield
    except drv.MemoryError as error:
        raise OutOfMemoryError(
            f"CUDA: {_text(what, error)}", "Translate at a smaller size, with a smaller --height, or close others."
        ) from error
    except drv.Error as error:
        raise DsmapError(
            f"CUDA: {_text(what, error)}", "Run nvidia-smi to check whether the GPU and its driver work."
        ) from error


def _text(what: str, error: Exception) -> str:
    """PyCUDA's message, which begins with the driver's function: "cuMemAlloc failed: out of memory"."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if "failed" in message else f"{what} failed: {message}"


def _import_driver() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if error.name in ("pycuda", "pycuda.driver"):
            raise DsmapError("pycuda is not installed", f"Install it: {_INSTALL}") from error
        raise DsmapError(f"pycuda cannot be imported ({error})", f"Install it again: {_INSTALL}") from error
    except Exception as error:  # a missing libcuda or a changed numpy
        reason = " ".join(str(error).split())[:160]
        raise DsmapError(f"pycuda cannot be imported ({reason})", f"Install it again: {_INSTALL}") from error


def _version() -> str:
    return str(getattr(importlib.import_module("pycuda"), "VERSION_TEXT", "of unknown version"))
