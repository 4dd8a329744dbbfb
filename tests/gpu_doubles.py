"""Stand-ins for a GPU: streams that run as late as they may, and engines that ONNX Runtime computes on the CPU.

Nothing runs when it is put into a stream: only when it is waited for, and then only what that needs. So a copy that
nobody waited for has not happened, and a buffer that is used again too early gives a wrong image. Or, with `eager`, the
other streams run a little whenever one is waited for: what they share without waiting gets mixed up.
"""

import random
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
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        """The streams that are captured, and what was put into them."""
        self.capturing_threads: dict[int, int] = {}
        self.eager = False
        self._dice = random.Random(0)
        self._busy: set[int] = set()
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

    def put(self, stream: int, what: str, action: Callable[[], None], after: tuple[int, int] | None = None) -> None:
        """`after`: what the action waits for, a stream and how much of it."""

        def step() -> None:
            action()
            self.ran.append(what)

        step.after = after
        self.note(what)
        self.capturing.get(stream, self.streams[stream]).append(step)

    def run_until(self, stream: int, length: int) -> None:
        with self._lock:
            while self.done[stream] < length:
                if self.eager:
                    self._run_others(stream)
                self._step(stream)

    def _run_others(self, stream: int) -> None:
        """Up to three steps of every other stream, or until it has to wait."""
        for other, steps in self.streams.items():
            for _ in range(self._dice.randrange(4)):
                if other == stream or other in self._busy or self.done[other] == len(steps):
                    break
                after = steps[self.done[other]].after
                if after is not None and self.done[after[0]] < after[1]:
                    break
                self._step(other)

    def _step(self, stream: int) -> None:
        step = self.streams[stream][self.done[stream]]
        self.done[stream] += 1
        self._busy.add(stream)  # it waits where the step waits
        try:
            step()
        finally:
            self._busy.discard(stream)

    def not_capturing(self, what: str) -> None:
        """What a thread may not do while it captures: CUDA calls it unsafe, and the capture is lost."""
        assert threading.get_ident() not in self.capturing_threads.values(), f"{what} during a capture"

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
        self.not_capturing("cudaMalloc")
        if self.memory()[0] < size:
            raise OutOfMemoryError("CUDA: cudaMalloc failed: cudaErrorMemoryAllocation: out of memory", "Smaller.")
        address = self.new()
        self.memory_of[address] = np.full(size, 0xCD, np.uint8)
        return Address(address)

    def free(self, address):
        self.not_capturing("cudaFree")
        self.run_all()
        del self.memory_of[address]

    def alloc_host(self, size):
        self.not_capturing("cudaHostAlloc")
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
        assert stream not in self.capturing
        self.put(stream, "record", lambda: self.times.update({event: self.clock}))
        self.events[event] = stream, len(self.streams[stream])

    def wait(self, stream, event):
        assert stream not in self.capturing
        mark = self.events[event]
        assert mark is not None, "an event that was never recorded is not waited for"
        self.put(stream, "wait", lambda: self.run_until(*mark), mark)

    def synchronise(self, event):
        self.note("synchronise")
        self.not_capturing("cudaEventSynchronize")
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
            self.clock += 0.5
            target[:] = self.at(address, target.nbytes)

        self.put(stream, f"download {target.nbytes}", copy)

    def begin_capture(self, stream):
        self.note("begin_capture")
        assert stream not in self.capturing
        self.capturing[stream], self.capturing_threads[stream] = [], threading.get_ident()

    def end_capture(self, stream):
        assert self.capturing_threads.pop(stream, None) == threading.get_ident(), "captured by another thread, or not"
        steps = self.capturing.pop(stream)
        self.note("end_capture")
        graph = self.new()
        self.graphs[graph] = steps
        return Graph(graph)

    def launch(self, graph, stream):
        assert stream not in self.capturing
        self.note("launch")
        # One by one, so that other streams come in between.
        self.streams[stream] += self.graphs[graph]

    def free_graph(self, graph):
        self.run_all()
        del self.graphs[graph]

    def close(self):
        self.closed = True


class CpuEngine:
    """An engine whose computation is ONNX Runtime's. Its weights take room on the device, as TensorRT's do.

    Where they do not fit, loading fails as TensorRT's does: with a plain error that does not say so.
    """

    def __init__(self, cuda: LateCuda, data: bytes, title: str, profile: SizeProfile) -> None:
        self.cuda, self.title, self.profile = cuda, title, profile
        if cuda.memory()[0] < len(data):
            raise DsmapError(f"TensorRT 11.4.0 cannot load {title}: Error Code 4: internal error", "Run nvidia-smi.")
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
        assert stream in self.cuda.streams
        return CpuContext(self)

    def close(self):
        assert not self.closed, "closed twice"
        self.cuda.free(self.weights)
        self.closed = True


MILLISECONDS = {"content_encoder": 1, "mapping": 2, "decoder": 4, "style_mlp": 8, "style_encoder": 16}


class CpuContext:
    """Reads its inputs when the stream gets there, and spoils its scratch memory before and after it computes."""

    refusal: str | None = None

    def __init__(self, engine: CpuEngine) -> None:
        self.engine, self.cuda = engine, engine.cuda

    def shape(self, inputs):
        zeros = {name: np.zeros(shape, self.engine.dtype(name)) for name, shape in inputs.items()}
        self.inputs = {name: (shape, self.engine.dtype(name)) for name, shape in inputs.items()}
        names = [output.name for output in self.engine.session.get_outputs()]
        return {n: array.shape for n, array in zip(names, self.engine.session.run(names, zeros), strict=True)}

    def scratch_bytes(self):
        """More for larger inputs, and for some engines more than for others."""
        return 500 * len(self.engine.title) + sum(int(np.prod(shape)) for shape, _ in self.inputs.values())

    def bind(self, addresses, scratch, scratch_bytes):
        names = {t.name for t in (*self.engine.session.get_inputs(), *self.engine.session.get_outputs())}
        assert set(addresses) == names, "every input and output has an address, and nothing else"
        assert all(address % 256 == 0 for address in (scratch, *addresses.values()))
        assert scratch not in addresses.values()
        self.cuda.at(scratch, scratch_bytes)  # it is all there
        self.addresses, self.scratch = dict(addresses), (scratch, scratch_bytes)

    def capture_refusal(self, stream):
        return self.refusal

    def enqueue(self, stream):
        addresses, scratch = dict(self.addresses), self.scratch
        assert scratch[1] >= self.scratch_bytes(), "less scratch memory than it asked for"

        def run() -> None:
            assert not self.engine.closed, "it ran after its engine was closed"
            self.cuda.clock += MILLISECONDS[self.engine.title.partition(".")[0]]
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

    refuse: dict[str, DsmapError]

    def open(self, component, domain, size, batch, load):
        if component in self.refuse:
            raise self.refuse[component]
        graph = self._bundle.graph_data(component, domain, self._precision)
        assert graph is not None
        title = f"{component}.{domain} {graph.precision}"
        return load(graph.data, title, self.profile(size, batch, component))


class OneSizeEngineStore(CpuEngineStore):
    """Each engine takes one size alone, so that every size has engines of its own."""

    def profile(self, size, batch, component):
        multiple = self._bundle.manifest.sizes.multiple_of
        return SizeProfile(minimum=size, optimum=size, maximum=size, multiple_of=multiple, max_batch=batch)
