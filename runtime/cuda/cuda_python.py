"""CUDA through NVIDIA's own binding, `cuda-python` 12 or later. It is the runtime's API, on the primary context."""

import ctypes
import importlib
import importlib.metadata
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.cuda.base import Address, Bytes, Cuda, Device, Event, Graph, OutOfMemoryError, Stream

_INSTALL = "pip install 'dsmap[rtx]' (or 'dsmap[tensorrt]')"
_NON_BLOCKING, _DISABLE_TIMING = 1, 2  # cudaStreamNonBlocking, cudaEventDisableTiming
_LOOK = "Run nvidia-smi to check whether the GPU and its driver work."
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


class CudaPython(Cuda):
    """Every call's return code is looked at."""

    no_graphs = None

    def __init__(self) -> None:
        self._rt = _import_runtime()
        self.binding = f"cuda-python {_version()}"
        if self._call("cudaGetDeviceCount") < 1:
            raise DsmapError("CUDA sees no GPU that this process may use", "Look at CUDA_VISIBLE_DEVICES.")
        self._call("cudaSetDevice", 0)
        attribute = self._rt.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, 0)
        driver = self._call("cudaDriverGetVersion")
        name = self._call("cudaGetDeviceProperties", 0).name
        self.device = Device(
            name=(name.decode(errors="replace") if isinstance(name, bytes) else str(name)).rstrip("\0"),
            capability=f"{major}.{minor}",
            memory_bytes=self.memory()[1],
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
        )
        # What was given out, and what frees it. Frames are waited for in other threads.
        self._held: dict[tuple[str, int], Callable[[], Any]] = {}
        self._lock = threading.Lock()

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def alloc(self, size: int) -> Address:
        address = Address(int(self._call("cudaMalloc", size)))
        self._hold("memory", address, "cudaFree", address)
        return address

    def free(self, address: Address) -> None:
        self._release("memory", address)

    def alloc_host(self, size: int) -> Bytes:
        pointer = int(self._call("cudaHostAlloc", size, 0))
        self._hold("host", pointer, "cudaFreeHost", pointer)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))

    def free_host(self, memory: Bytes) -> None:
        self._release("host", memory.ctypes.data)

    def stream(self) -> Stream:
        stream = Stream(int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)))
        self._hold("stream", stream, "cudaStreamDestroy", stream)
        return stream

    def event(self, *, timing: bool = False) -> Event:
        event = Event(int(self._call("cudaEventCreateWithFlags", 0 if timing else _DISABLE_TIMING)))
        self._hold("event", event, "cudaEventDestroy", event)
        return event

    def free_event(self, event: Event) -> None:
        self._release("event", event)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: Stream, event: Event) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronise(self, event: Event) -> None:
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(self._call("cudaEventElapsedTime", start, end))

    def upload(self, address: Address, source: Bytes, stream: Stream) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: Bytes, address: Address, stream: Stream) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def begin_capture(self, stream: Stream) -> None:
        # Of this thread alone: what others do meanwhile, another library's included, is none of the graph's business.
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Stream) -> Graph:
        recorded = self._call("cudaStreamEndCapture", stream)
        try:
            graph = Graph(int(self._call("cudaGraphInstantiate", recorded, 0)))
        finally:
            self._call("cudaGraphDestroy", recorded)
        self._hold("graph", graph, "cudaGraphExecDestroy", graph)
        return graph

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Graph) -> None:
        self._release("graph", graph)

    def close(self) -> None:
        with self._lock:
            held, self._held = list(self._held.values()), {}
        if not held:
            return
        failures = []
        # In reverse: graphs before the streams and the memory that they use.
        for release in [lambda: self._call("cudaDeviceSynchronize"), *reversed(held)]:
            try:
                release()
            except DsmapError as error:  # the rest is freed all the same
                failures.append(error)
        if failures:
            raise failures[0]

    def _hold(self, kind: str, handle: int, function: str, argument: int) -> None:
        with self._lock:
            self._held[kind, handle] = lambda: self._call(function, argument)

    def _release(self, kind: str, handle: int) -> None:
        with self._lock:
            release = self._held.pop((kind, handle), None)
        if release is not None:
            release()

    def _call(self, function: str, *arguments: Any) -> Any:
        """What a function of the runtime gives, without its return code. Raises DsmapError for a code of failure."""
        try:
            code, *results = getattr(self._rt, function)(*arguments)
        except RuntimeError as error:  # 12.x without a driver
            raise DsmapError(f"CUDA: {function} failed: {error}", _LOOK) from error
        if int(code) == 0:
            return results[0] if len(results) == 1 else tuple(results)
        name, text = (_text(ask(code)[1]) for ask in (self._rt.cudaGetErrorName, self._rt.cudaGetErrorString))
        self._rt.cudaGetLastError()  # or the next call that is fine is told of it again
        fact = f"CUDA: {function} failed: {name}: {text}"
        if name == _OUT_OF_MEMORY:
            raise OutOfMemoryError(fact, "Translate at a smaller size, with a smaller --height, or close others.")
        raise DsmapError(fact, _LOOK)


def _import_runtime() -> Any:
    try:
        try:
            return importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError:  # before 12.6
            return importlib.import_module("cuda.cudart")
    except ModuleNotFoundError as error:
        raise DsmapError("cuda-python is not installed", f"Install it: {_INSTALL}") from error
    except Exception as error:  # its loaders raise what they like where a library is missing
        reason = " ".join(str(error).split())[:160]
        raise DsmapError(f"cuda-python cannot be imported ({reason})", f"Install it again: {_INSTALL}") from error


def _version() -> str:
    for package in ("cuda-bindings", "cuda-python"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
