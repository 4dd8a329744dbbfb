"""The two bindings to CUDA, on modules that answer as theirs do."""

import ctypes
import inspect
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dsmap.errors import DsmapError
from dsmap.runtime.cuda.bindings import load_cuda

HANDLES = {
    "cudaFree": ("memory",),
    "cudaFreeHost": ("host",),
    "cudaStreamDestroy": ("stream",),
    "cudaEventDestroy": ("event",),
    "cudaEventRecord": ("event", "stream"),
    "cudaStreamWaitEvent": ("stream", "event"),
    "cudaEventSynchronize": ("event",),
    "cudaEventElapsedTime": ("event", "event"),
    "cudaStreamBeginCapture": ("stream",),
    "cudaStreamEndCapture": ("stream",),
    "cudaGraphInstantiate": ("recorded",),
    "cudaGraphDestroy": ("recorded",),
    "cudaGraphLaunch": ("graph", "stream"),
    "cudaGraphExecDestroy": ("graph",),
}
"""What the first arguments have to be: something that was made and is not freed yet."""
FREES = (
    "cudaFree",
    "cudaFreeHost",
    "cudaStreamDestroy",
    "cudaEventDestroy",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
)
MAKES = {
    "cudaMalloc": "memory",
    "cudaHostAlloc": "host",
    "cudaStreamCreateWithFlags": "stream",
    "cudaEventCreateWithFlags": "event",
    "cudaGraphInstantiate": "graph",
    "cudaStreamEndCapture": "recorded",
}


class Runtime(ModuleType):
    """cuda.bindings.runtime as far as it is called: codes, names, and what is held.

    Arguments are bound to the real function's, enumerations are the real ones, and handles are those that were made.
    """

    def __init__(self, real: ModuleType) -> None:
        super().__init__("cuda.bindings.runtime")
        self.real = real
        self.held: dict[int, str] = {}
        self.calls: list[str] = []
        self.codes: dict[str, int] = {}
        self.broken = False
        for name in ("cudaDeviceAttr", "cudaMemcpyKind", "cudaStreamCaptureMode"):
            setattr(self, name, getattr(real, name))
        self.buffers: dict[int, ctypes.Array] = {}
        self.capturing: set[int] = set()
        self.untimed: set[int] = set()
        self.recorded: dict[int, int] = {}

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*args):
            if name == "cudaGetErrorName":
                return 0, b"cudaErrorMemoryAllocation" if args[0] == 2 else b"cudaErrorOther"
            if name == "cudaGetErrorString":
                return 0, b"out of memory" if args[0] == 2 else b"other"
            self.calls.append(name)
            if self.broken:
                raise RuntimeError("Failed to dlopen libcuda.so.1")
            self.check(name, args)
            if code := self.codes.get(name):
                return (code, None)
            return (0, *self.answer(name, args))

        return call

    def check(self, name, args) -> None:
        signature = inspect.signature(getattr(self.real, name))
        for parameter, given in signature.bind(*args).arguments.items():
            wanted = signature.parameters[parameter].annotation
            kind = getattr(self.real, wanted, int) if isinstance(wanted, str) else int
            assert isinstance(given, kind), f"{name}: {parameter} is {given!r}"
        if name not in self.codes:
            for wanted, given in zip(HANDLES.get(name, ()), args, strict=False):
                assert self.held.get(given) == wanted, f"{name}: {given} is no {wanted}"

    def answer(self, name, args):
        attributes = self.real.cudaDeviceAttr
        numbers = {attributes.cudaDevAttrComputeCapabilityMajor: 9, attributes.cudaDevAttrComputeCapabilityMinor: 0}
        fixed = {"cudaGetDeviceCount": (1,), "cudaDriverGetVersion": (13020,), "cudaMemGetInfo": (5, 7),
                 "cudaGetDeviceProperties": (SimpleNamespace(name=b"H200\0"),)}  # fmt: skip
        if name in fixed:
            return fixed[name]
        if name == "cudaDeviceGetAttribute":
            return (numbers[args[0]],)
        if name == "cudaEventElapsedTime":
            assert not self.untimed & set(args), "an event without timing"
            return (1.5 * (self.recorded[args[1]] - self.recorded[args[0]]),)
        if name == "cudaEventRecord":
            self.recorded[args[0]] = len(self.calls)
        elif name == "cudaMemcpyAsync":
            self.copy(*args)
        elif name == "cudaStreamBeginCapture":
            assert args[1] == self.real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            self.capturing.add(args[0])
        elif name == "cudaStreamEndCapture":
            self.capturing.remove(args[0])
        if name in FREES:
            del self.held[args[0]]
        return (self.make(name, args),) if name in MAKES else ()

    def make(self, name, args) -> int:
        handle = 1000 + len(self.calls)
        if name in ("cudaMalloc", "cudaHostAlloc"):
            buffer = ctypes.create_string_buffer(args[0])
            handle = ctypes.addressof(buffer)
            self.buffers[handle] = buffer
        if name == "cudaEventCreateWithFlags" and args[0] == 2:
            self.untimed.add(handle)
        assert name != "cudaStreamCreateWithFlags" or args[0] == 1, "it would wait for the default stream"
        self.held[handle] = MAKES[name]
        return handle

    def copy(self, to, source, size, kind, stream) -> None:
        up = kind == self.real.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert up or kind == self.real.cudaMemcpyKind.cudaMemcpyDeviceToHost
        assert (self.held[to], self.held[source]) == (("memory", "host") if up else ("host", "memory"))
        assert size <= min(len(self.buffers[to]), len(self.buffers[source]))
        assert self.held[stream] == "stream"
        ctypes.memmove(to, source, size)


def use(cuda) -> np.ndarray:
    """Everything that an interface can do; what came back of 0, 1, 2, ..."""
    stream, event, start, end = cuda.stream(), cuda.event(), cuda.event(timing=True), cuda.event(timing=True)
    up, down, address = cuda.alloc_host(64), cuda.alloc_host(64), cuda.alloc(64)
    up[:], down[:] = np.arange(64), 0
    cuda.record(start, stream)
    cuda.upload(address, up, stream)
    cuda.record(event, stream)
    cuda.wait(cuda.stream(), event)
    cuda.download(down, address, stream)
    cuda.record(end, stream)
    thread = threading.Thread(target=cuda.synchronise, args=(event,))
    thread.start()
    thread.join()
    assert cuda.elapsed_ms(start, end) > 1.5
    assert cuda.elapsed_ms(start, start) == 0
    result = down.copy()
    cuda.free(address)
    cuda.free_host(up)
    cuda.free_event(event)
    return result


def test_cuda_python_checks_every_code_and_frees_all(monkeypatch):
    runtime = Runtime(pytest.importorskip("cuda.bindings.runtime"))
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    cuda = load_cuda("auto")
    assert (cuda.device.name, cuda.device.capability, cuda.device.driver) == ("H200", "9.0", "13.2")
    assert cuda.memory() == (5, 7)
    assert cuda.no_graphs is None
    np.testing.assert_array_equal(use(cuda), np.arange(64))
    stream = cuda.stream()
    cuda.begin_capture(stream)
    graph = cuda.end_capture(stream)
    cuda.launch(graph, stream)
    assert runtime.calls.count("cudaGraphDestroy") == 1
    cuda.free_graph(graph)
    cuda.free_graph(graph)  # once is enough
    cuda.alloc(10)
    assert set(runtime.held.values()) == {"memory", "host", "stream", "event"}
    cuda.close()
    cuda.close()
    assert (runtime.held, runtime.capturing) == ({}, set())
    runtime.codes = {"cudaMalloc": 2, "cudaEventRecord": 700}
    with pytest.raises(DsmapError) as caught:
        cuda.alloc(10)
    assert type(caught.value).__name__ == "OutOfMemoryError"
    assert caught.value.fact == "CUDA: cudaMalloc failed: cudaErrorMemoryAllocation: out of memory"
    assert runtime.calls[-1] == "cudaGetLastError"  # or the next call that is fine is told of it again
    with pytest.raises(DsmapError, match="cudaEventRecord failed: cudaErrorOther: other"):
        cuda.record(1, 2)
    assert runtime.calls[-1] == "cudaGetLastError"
    runtime.broken = True  # as 12.x is without a driver
    with pytest.raises(DsmapError, match="cudaGetDeviceCount failed: Failed to dlopen"):
        load_cuda("cuda-python")


def pycuda_module() -> tuple[ModuleType, list[int]]:
    """pycuda.driver as far as it is called. Its contexts are a stack for each thread; `depth` has this thread's."""
    driver = ModuleType("pycuda.driver")
    local, balance = threading.local(), [0, 0]

    class Error(Exception):
        pass

    class FullError(Error):
        pass

    def current() -> None:
        if not getattr(local, "depth", 0):
            raise Error("no currently active context?")

    class Context:
        def push(self):
            local.depth = getattr(local, "depth", 0) + 1
            balance[0] += 1

        @staticmethod
        def pop():
            local.depth -= 1

        @staticmethod
        def synchronize():
            current()

        def detach(self):
            balance[1] += 1

    class Memory:
        def __init__(self, size):
            current()
            if size > 1000:
                raise FullError("cuMemAlloc failed: out of memory")
            self.data, self.freed = np.zeros(size, np.uint8), False

        def __int__(self):
            return self.data.ctypes.data

        def free(self):
            current()
            assert not self.freed
            self.freed = True

    class Pinned(np.ndarray):
        pass

    class Stream:
        def __init__(self, flags):
            current()
            assert flags == 1
            self.handle = id(self)

        def wait_for_event(self, event):
            current()

    class Event:
        count = 0

        def __init__(self, flags):
            current()
            self.timing, self.at = flags == 0, None

        def record(self, stream):
            current()
            assert isinstance(stream, Stream)
            Event.count += 1
            self.at = Event.count

        def synchronize(self):
            current()

        def time_since(self, other):
            current()
            assert self.timing
            assert other.timing
            return 1.5 * (self.at - other.at)

    class Device:
        def __init__(self, number):
            self.name, self.total_memory = (lambda: "Old GPU"), (lambda: 7)

        count = staticmethod(lambda: 1)

        def retain_primary_context(self):
            return Context()

        def compute_capability(self):
            return 7, 5

    def pagelocked_empty(size, dtype):
        current()
        buffer = (ctypes.c_uint8 * size)()
        array = np.ctypeslib.as_array(buffer).view(Pinned)
        return array

    def htod(address, source, stream):
        current()
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def dtoh(target, address, stream):
        current()
        ctypes.memmove(target.ctypes.data, address, target.nbytes)

    Pinned.base = property(lambda self: SimpleNamespace(free=current))  # type: ignore[assignment]
    driver.__dict__.update(
        Error=Error, MemoryError=FullError, Context=Context, Stream=Stream, Event=Event, Device=Device,
        init=lambda: None, get_driver_version=lambda: 12040, mem_get_info=lambda: (current(), (5, 7))[1],
        mem_alloc=Memory, pagelocked_empty=pagelocked_empty, memcpy_htod_async=htod, memcpy_dtoh_async=dtoh,
        event_flags=SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2),
    )  # fmt: skip
    driver.depth = lambda: getattr(local, "depth", 0)
    return driver, balance


def test_pycuda_leaves_no_context_on_any_threads_stack(monkeypatch):
    driver, balance = pycuda_module()
    package = ModuleType("pycuda")
    package.VERSION_TEXT = "2026.1"
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    cuda = load_cuda("pycuda")
    assert cuda.binding == "PyCUDA 2026.1"
    assert (cuda.device.name, cuda.device.capability, cuda.device.driver) == ("Old GPU", "7.5", "12.4")
    np.testing.assert_array_equal(use(cuda), np.arange(64))
    assert driver.depth() == 0
    assert balance[0] > 10
    with pytest.raises(DsmapError, match="CUDA: cuMemAlloc failed: out of memory") as caught:
        cuda.alloc(2000)
    assert type(caught.value).__name__ == "OutOfMemoryError"
    assert driver.depth() == 0
    assert "graphs" in cuda.no_graphs
    with pytest.raises(DsmapError, match="cannot capture"):
        cuda.begin_capture(1)
    cuda.close()
    cuda.close()
    assert balance[1] == 1
    with pytest.raises(DsmapError, match="after the end"):
        cuda.alloc(1)
