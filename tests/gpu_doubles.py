"""Stand-ins for a GPU: streams that run as late as they may, and engines that ONNX Runtime computes on the CPU.

Nothing runs when it is put into a stream: only when it is waited for, and then only what that needs. So a copy that
nobody waited for has not happened, and a buffer that is used again too early gives a wrong image.
"""

import threading
from collections.abc import Callable

import numpy as np
import onnxruntime

from dsmap.errors import DsmapError
from dsmap.runtime.cuda.base import Address, Cuda, Device, Event, Graph, OutOfMemoryError, Stream
from dsmap.runtime.engines.size_profile import SizeProfile
from dsmap.runtime.engines.store import EngineStore
from dsmap.runtime.engines.tensorrt_api import Flavour

FLAVOUR = Flavour("tensorrt", "11.4.0", None)
_SPACING = 1 << 24


class LateCuda(Cuda):
    """Memory is numpy's. `log` has the calls in order; `fail` maps a method's name to what its next call raises."""

    binding = "stand-in 1"

    def __init__(self, no_graphs: str | None = None, room: int = 1 << 40) -> None:
        self.device = Device(name="Stand-in GPU", capability="8.9", memory_bytes=room, driver="13.0")
        self.no_graphs = no_graphs
        self.room = room
        self.log: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.memory_of: dict[int, np.ndarray] = {}
        self.hosts: dict[int, np.ndarray] = {}
        self.events: dict[int, tuple[int, int] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.done: dict[int, int] = {}
        self.capturing: tuple[int, list[Callable[[], None]]] | None = None
        """The stream that is captured, and what was put into it."""
        self.clock = 0.0
        self.times: dict[int, float] = {}
        self.ran: list[str] = []
        self._number = 0
        self._lock = threading.RLock()

    def new(self) -> int:
        self._number += 1
        return self._number * _SPACING

    def note(self, what: str) -> None:
        self.log.append(what)
        if error := self.fail.pop(what.partition(" ")[0], None):
            raise error

    def put(self, stream: int, what: str, action: Callable[[], None]) -> None:
        def step() -> None:
            action()
            self.ran.append(what)

        self.note(what)
        captured = self.capturing is not None and self.capturing[0] == stream
        (self.capturing[1] if captured else self.streams[stream]).append(step)

    def run_until(self, stream: int, length: int) -> None:
        with self._lock:
            while self.done[stream] < length:
                step = self.streams[stream][self.done[stream]]
                self.done[stream] += 1
                step()

    def run_all(self) -> None:
        for stream, steps in self.streams.items():
            self.run_until(stream, len(steps))

    def at(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address of the device, which may lie within an allocation."""
        base = address // _SPACING * _SPACING
        memory = self.memory_of[base][address - base :]
        assert len(memory) >= size, "out of bounds"
        return memory[:size]

    def memory(self):
        used = sum(memory.nbytes for memory in self.memory_of.values())
        return self.room - used, self.room

    def alloc(self, size):
        self.note("alloc")
        if self.memory()[0] < size:
            raise OutOfMemoryError("CUDA: cudaMalloc failed: cudaErrorMemoryAllocation: out of memory", "Smaller.")
        address = self.new()
        self.memory_of[address] = np.full(size, 0xCD, np.uint8)
        return Address(address)

    def free(self, address):
        self.run_all()
        del self.memory_of[address]

    def alloc_host(self, size):
        memory = np.full(size, 0xCD, np.uint8)
        self.hosts[memory.ctypes.data] = memory
        return memory

    def free_host(self, memory):
        self.run_all()
        self.hosts.pop(memory.ctypes.data)[:] = 0xEE

    def stream(self):
        stream = self.new()
        self.streams[stream], self.done[stream] = [], 0
        return Stream(stream)

    def event(self, *, timing=False):
        event = self.new()
        self.events[event] = None
        return Event(event)

    def free_event(self, event):
        del self.events[event]

    def record(self, event, stream):
        assert self.capturing is None
        self.put(stream, "record", lambda: self.times.update({event: self.clock}))
        self.events[event] = stream, len(self.streams[stream])

    def wait(self, stream, event):
        assert self.capturing is None
        mark = self.events[event]
        assert mark is not None, "an event that was never recorded is not waited for"
        self.put(stream, "wait", lambda: self.run_until(*mark))

    def synchronise(self, event):
        self.note("synchronise")
        if (mark := self.events[event]) is not None:
            self.run_until(*mark)

    def elapsed_ms(self, start, end):
        assert {start, end} <= set(self.times), "an event that has not come yet"
        return self.times[end] - self.times[start]

    def upload(self, address, source, stream):
        assert source.ctypes.data in self.hosts, "not pinned"

        def copy() -> None:
            self.clock += 0.25
            self.at(address, source.nbytes)[:] = source

        self.put(stream, f"upload {source.nbytes}", copy)

    def download(self, target, address, stream):
        assert target.ctypes.data in self.hosts, "not pinned"

        def copy() -> None:
            self.clock += 0.25
            target[:] = self.at(address, target.nbytes)

        self.put(stream, f"download {target.nbytes}", copy)

    def begin_capture(self, stream):
        self.note("begin_capture")
        assert self.capturing is None
        self.capturing = stream, []

    def end_capture(self, stream):
        assert self.capturing is not None, "nothing is captured"
        assert self.capturing[0] == stream, "another stream is captured"
        (_, steps), self.capturing = self.capturing, None
        self.note("end_capture")
        graph = self.new()
        self.graphs[graph] = steps
        return Graph(graph)

    def launch(self, graph, stream):
        steps = self.graphs[graph]
        self.put(stream, "launch", lambda: [step() for step in steps] and None)

    def free_graph(self, graph):
        self.run_all()
        del self.graphs[graph]

    def close(self):
        self.closed = True


class CpuEngine:
    """An engine whose computation is ONNX Runtime's. Its weights take room on the device, as TensorRT's do."""

    def __init__(self, cuda: LateCuda, data: bytes, title: str, profile: SizeProfile) -> None:
        self.cuda, self.title, self.profile = cuda, title, profile
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.weights = cuda.alloc(len(data))
        self.closed = False

    def takes(self, width, height, batch):
        return self.profile.takes(width, height, batch)

    def dtype(self, tensor):
        types = {t.name: t.type for t in (*self.session.get_inputs(), *self.session.get_outputs())}
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
        return np.dtype(kinds[types[tensor]])

    def context(self, stream):
        assert not self.closed
        return CpuContext(self)

    def close(self):
        assert not self.closed, "closed twice"
        self.cuda.free(self.weights)
        self.closed = True


class CpuContext:
    """Reads its inputs when the stream gets there, and spoils its scratch memory."""

    refusal: str | None = None

    def __init__(self, engine: CpuEngine) -> None:
        self.engine, self.cuda = engine, engine.cuda

    def shape(self, inputs):
        zeros = {name: np.zeros(shape, self.engine.dtype(name)) for name, shape in inputs.items()}
        self.inputs = {name: (shape, self.engine.dtype(name)) for name, shape in inputs.items()}
        names = [output.name for output in self.engine.session.get_outputs()]
        return {n: array.shape for n, array in zip(names, self.engine.session.run(names, zeros), strict=True)}

    def scratch_bytes(self):
        """More for larger inputs."""
        return 1000 + sum(int(np.prod(shape)) for shape, _ in self.inputs.values())

    def bind(self, addresses, scratch, scratch_bytes):
        self.addresses, self.scratch = dict(addresses), (scratch, scratch_bytes)

    def capture_refusal(self, stream):
        return self.refusal

    def enqueue(self, stream):
        addresses, scratch = dict(self.addresses), self.scratch
        assert scratch[1] >= self.scratch_bytes(), "less scratch memory than it asked for"

        def run() -> None:
            assert not self.engine.closed, "it ran after its engine was closed"
            self.cuda.clock += 1
            feeds = {}
            for name, (shape, dtype) in self.inputs.items():
                size = int(np.prod(shape)) * dtype.itemsize
                feeds[name] = self.cuda.at(addresses[name], size).view(dtype).reshape(shape).copy()
            self.cuda.at(*scratch)[:] = 0xEE
            names = [output.name for output in self.engine.session.get_outputs()]
            for name, array in zip(names, self.engine.session.run(names, feeds), strict=True):
                self.cuda.at(addresses[name], array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        self.cuda.put(stream, f"enqueue {self.engine.title.partition('.')[0]}", run)


class CpuEngineStore(EngineStore):
    """Engines of the bundle's graphs, without TensorRT."""

    cuda: LateCuda
    refuse: dict[str, DsmapError]

    def open(self, component, domain, size, batch, load):
        if component in self.refuse:
            raise self.refuse[component]
        graph = self._bundle.graph_data(component, domain, self._precision)
        assert graph is not None
        title = f"{component}.{domain} {graph.precision}"
        return CpuEngine(self.cuda, graph.data, title, self.profile(size, batch, component))


class OneSizeEngineStore(CpuEngineStore):
    """Each engine takes one size alone, so that every size has engines of its own."""

    def profile(self, size, batch, component):
        multiple = self._bundle.manifest.sizes.multiple_of
        return SizeProfile(minimum=size, optimum=size, maximum=size, multiple_of=multiple, max_batch=batch)
