"""The two bindings to CUDA, on modules that answer as theirs do."""

import ctypes
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dsmap.errors import DsmapError
from dsmap.runtime.cuda.bindings import load_cuda


class Runtime(ModuleType):
    """cuda.bindings.runtime as far as it is called: codes, names, and what is held."""

    class Code(int):
        pass

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.held: set[int] = set()
        self.calls: list[str] = []
        self.codes: dict[str, int] = {}
        self.broken = False
        self.cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=9, cudaDevAttrComputeCapabilityMinor=0)
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.buffers = []

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
            if code := self.codes.get(name):
                return (code, None)
            return (0, *self.answer(name, args))

        return call

    def answer(self, name, args):
        fixed = {"cudaGetDeviceCount": (1,), "cudaDeviceGetAttribute": args[:1], "cudaDriverGetVersion": (13020,),
                 "cudaMemGetInfo": (5, 7), "cudaEventElapsedTime": (1.5,), "cudaStreamEndCapture": ("recorded",),
                 "cudaGetDeviceProperties": (SimpleNamespace(name=b"H200\0"),)}  # fmt: skip
        if name in fixed:
            return fixed[name]
        if name in ("cudaMalloc", "cudaHostAlloc"):
            self.buffers.append(ctypes.create_string_buffer(args[0]))
            handle = ctypes.addressof(self.buffers[-1])
        elif name in ("cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaGraphInstantiate"):
            handle = 1000 + len(self.calls)
        else:
            if name in ("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy", "cudaGraphExecDestroy"):
                self.held.remove(args[0])
            if name == "cudaMemcpyAsync":
                ctypes.memmove(args[0], args[1], args[2])
            return ()
        self.held.add(handle)
        return (handle,)


def use(cuda) -> np.ndarray:
    """Everything that an interface can do; what came back of 0, 1, 2, ..."""
    stream, event, timed = cuda.stream(), cuda.event(), cuda.event(timing=True)
    up, down, address = cuda.alloc_host(64), cuda.alloc_host(64), cuda.alloc(64)
    up[:], down[:] = np.arange(64), 0
    cuda.upload(address, up, stream)
    cuda.record(event, stream)
    cuda.wait(cuda.stream(), event)
    cuda.download(down, address, stream)
    cuda.record(timed, stream)
    thread = threading.Thread(target=cuda.synchronise, args=(event,))
    thread.start()
    thread.join()
    assert cuda.elapsed_ms(event, timed) == 1.5
    result = down.copy()
    cuda.free(address)
    cuda.free_host(up)
    cuda.free_event(event)
    return result


def test_cuda_python_checks_every_code_and_frees_all(monkeypatch):
    runtime = Runtime()
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
    assert runtime.held
    cuda.close()
    cuda.close()
    assert runtime.held == set()
    runtime.codes = {"cudaMalloc": 2, "cudaEventRecord": 700}
    with pytest.raises(DsmapError) as caught:
        cuda.alloc(10)
    assert type(caught.value).__name__ == "OutOfMemoryError"
    assert caught.value.fact == "CUDA: cudaMalloc failed: cudaErrorMemoryAllocation: out of memory"
    assert runtime.calls[-1] == "cudaGetLastError"  # or the next call that is fine is told of it again
    with pytest.raises(DsmapError, match="cudaEventRecord failed: cudaErrorOther: other"):
        cuda.record(1, 2)
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
        def __init__(self, flags):
            current()

        def record(self, stream):
            current()

        def synchronize(self):
            current()

        def time_since(self, other):
            current()
            return 1.5

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
