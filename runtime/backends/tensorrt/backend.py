"""TensorRT on an NVIDIA GPU: three engines in a row on a CUDA stream, several frames in flight.

    backend = TensorRT(bundle, "winter", BackendSettings(frames_at_once=3))

Engines are found in the bundle, in the user's cache, or built. Neither flavour of TensorRT is imported where there is
no GPU.
"""

import contextlib
import threading
from collections import OrderedDict, deque

import numpy as np

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.base import (
    DEFAULT_SETTINGS,
    Backend,
    BackendSettings,
    Codes,
    Frames,
    Pending,
    best_precision,
    need_gpu,
)
from dsmap.runtime.backends.concurrency import closed_error
from dsmap.runtime.backends.onnxruntime_session import encode_style_on_cpu, onnxruntime_installed
from dsmap.runtime.backends.tensorrt.engine import TrtEngine
from dsmap.runtime.backends.tensorrt.executor import EngineSet, Executor, Slot, Streams
from dsmap.runtime.backends.tensorrt.memory import Engine, Shape, run_once
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.cuda.base import OutOfMemoryError
from dsmap.runtime.cuda.bindings import load_cuda
from dsmap.runtime.engines.build_options import BuildOptions
from dsmap.runtime.engines.size_profile import Size, SizeProfile
from dsmap.runtime.engines.store import EngineStore, log_line
from dsmap.runtime.engines.tensorrt_api import load_trt

STREAMS = 2
"""Compute streams: a small frame leaves most of a large GPU idle."""
MAX_STREAMS = 4
COPIED = 2
"""Frames in flight beyond those that are computed: one being uploaded, one downloaded."""
MAX_SIZES = 3
"""Sizes whose memory and graphs are kept; the least recently used is dropped first."""


class TensorRT(Backend):
    """Plain TensorRT 10 or 11."""

    name = "tensorrt"
    on_host = False
    takes_streams = True
    _flavour = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        settings: BackendSettings = DEFAULT_SETTINGS,
    ) -> None:
        architecture = need_gpu()
        if settings.precision == "int8":
            raise DsmapError("TensorRT runs the fp16 and fp32 graphs here, not int8", "Pass --precision fp16 or fp32.")
        self._trt = load_trt(self._flavour)
        self.precision = best_precision(bundle, settings.precision, ("fp16", "fp32", *bundle.precisions))
        self._bundle, self._target = bundle, target
        self._source = settings.source or bundle.source_of(target)
        sizes = bundle.manifest.sizes
        side = sizes.side_from(sizes.trained_at)
        self._default_size = Size(side, side)
        self._cuda = load_cuda(settings.cuda_binding)
        # TF32 as in ONNX Runtime: not where float32 is asked for by name.
        build = BuildOptions(tf32=settings.precision != "fp32")
        self._store = EngineStore(
            bundle, self._trt, architecture, self.precision, trust_engines=settings.trust_engines, build=build
        )
        self._graphs = self._cuda.no_graphs is None
        streams = _checked_streams(settings.streams)
        self.in_flight = min(max(settings.frames_at_once, 1), streams + COPIED)
        self.concurrency = min(streams, self.in_flight)
        self._engines: dict[tuple[str, str], list[Engine]] = {}
        self._executors: OrderedDict[Shape, Executor] = OrderedDict()
        self._free: dict[int, deque[Slot]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._cancelled = 0  # a count: frames begun before the last cancellation are lost
        arithmetic = f"{self.precision} with TF32" if self.precision == "fp32" and build.tf32 else self.precision
        self.description = f"{self._trt.title} on {self._cuda.device.name}, {arithmetic}, {self._describe_graphs()}"
        self.title = f"{self._cuda.device.name} ({self._trt.title})"
        compute = tuple(self._cuda.stream() for _ in range(self.concurrency))
        self._streams = Streams(self._cuda.stream(), compute, self._cuda.stream())
        try:
            self._check_runs()
        except BaseException:
            with contextlib.suppress(DsmapError):  # a GPU that has failed fails here again
                self.close()
            raise

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        if self._closed:
            raise closed_error()
        executor = self._executor(frames_nhwc.shape)
        begun = self._cancelled
        with self._lock:
            free = self._free[id(executor)]
            if not free:
                raise DsmapError(f"more than {self.in_flight} frames are under way", "Wait for one first.")
            slot = free.popleft()
        graphs_before = executor.no_graphs
        try:
            executor.begin(slot, frames_nhwc, np.asarray(style_ns, np.float32))
        except BaseException:
            # What is left of the frame is done before the slot's next one: streams keep order.
            self._give_back(executor, slot)
            raise
        if executor.no_graphs != graphs_before:
            log_line(f"without CUDA graphs, which makes no difference but in speed: {executor.no_graphs}")

        def wait() -> Frames:
            if self._closed:  # its memory is freed
                raise closed_error()
            try:
                frames = executor.finish(slot)
            finally:
                self._give_back(executor, slot)
            if begun != self._cancelled:
                raise DsmapError("the translation was cancelled", "Run it again.")
            return frames

        return wait

    def cancel(self) -> None:
        # What the GPU has begun ends within milliseconds; only a build takes longer.
        self._cancelled += 1
        self._store.stop()

    def close(self) -> None:
        self._closed = True
        try:
            self._drain()
            while self._executors:
                self._executors.popitem()[1].close()
            for engine in [engine for engines in self._engines.values() for engine in engines]:
                engine.close()
        finally:
            self._executors.clear()
            self._engines.clear()
            self._free.clear()
            self._cuda.close()

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Once per style image, if at all: on the CPU nothing has to be built for it.
        if onnxruntime_installed():
            return encode_style_on_cpu(self._bundle, self._target, frames_nhwc)
        batch, height, width = frames_nhwc.shape[:3]
        engine = self._engine("style_encoder", self._target, Size(width, height), batch)
        (style,) = run_once(self._cuda, self._streams.compute[0], engine, frames=frames_nhwc)
        return np.asarray(style, np.float32)

    def stages_ms(self, frames_nhwc: Frames, style_ns: Codes) -> dict[str, float]:
        """Milliseconds of each stage of a frame on the device, without a graph and with nothing else in flight."""
        executor = self._executor(frames_nhwc.shape)
        return executor.stages_ms(self._free[id(executor)][0], frames_nhwc, style_ns)

    @property
    def graphs_in_use(self) -> bool:
        """Whether frames of the last size run as CUDA graphs."""
        executor = next(reversed(self._executors.values()), None)
        return executor is not None and any(slot.graph is not None for slot in executor.slots)

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """Memory of the device: free and total."""
        return self._cuda.memory()

    @property
    def binding(self) -> str:
        """The Python binding to CUDA, with its version."""
        return self._cuda.binding

    def _describe_graphs(self) -> str:
        if self._graphs:
            return f"CUDA graphs, {self._cuda.binding}"
        own = "CUDA graphs of each engine" if self._flavour == "rtx" else "no CUDA graphs"
        return f"{own} ({self._cuda.no_graphs}), {self._cuda.binding}"

    def _check_runs(self) -> None:
        """Runs the smallest engine once: an installed TensorRT may still not run on this GPU."""
        if not self._bundle.manifest.has_styles:
            side = self._bundle.manifest.sizes.side_from()
            engine = self._engine("content_encoder", self._source, Size(side, side), 1)
            run_once(self._cuda, self._streams.compute[0], engine, frames=np.zeros((1, side, side, 3), np.uint8))
            return
        engine = self._engine("style_mlp", self._target, self._default_size, 1)
        style = np.zeros((1, self._bundle.manifest.style_dim), np.float32)
        run_once(self._cuda, self._streams.compute[0], engine, style=style)

    def _executor(self, shape: Shape) -> Executor:
        """The plan for frames (N, H, W, 3); made on first use, and again after it was dropped."""
        executor = self._executors.get(shape)
        if executor is not None:
            self._executors.move_to_end(shape)
            return executor
        while len(self._executors) >= MAX_SIZES and self._drop_oldest():
            pass
        executor = self._fitting_executor(shape)
        self._executors[shape] = executor
        self._free[id(executor)] = deque(executor.slots)
        return executor

    def _fitting_executor(self, shape: Shape) -> Executor:
        """A new plan. Where the device is full, sizes used longest ago go first, then all but one compute stream."""
        streams = self._streams
        while True:
            try:
                return self._new_executor(shape, streams)
            except OutOfMemoryError:
                if self._drop_oldest():
                    continue
                if len(streams.compute) == 1:
                    raise
                streams = streams._replace(compute=streams.compute[:1])
                log_line(f"{shape[2]}x{shape[1]} does not fit on {len(self._streams.compute)} streams: one is used")

    def _new_executor(self, shape: Shape, streams: Streams) -> Executor:
        batch, size = shape[0], Size(shape[2], shape[1])

        def engine(component: str) -> Engine:
            return self._engine(component, self._target, size, batch)

        engines = EngineSet(
            encoder=self._engine("content_encoder", self._source, size, batch),
            mapping=engine("mapping") if self._store.has("mapping", self._target) else None,
            decoder=engine("decoder"),
            style_mlp=engine("style_mlp") if self._store.has("style_mlp", self._target) else None,
        )
        style_dim = self._bundle.manifest.style_dim
        return Executor(self._cuda, streams, engines, shape, style_dim, self.in_flight)

    def _engine(self, component: str, domain: str, size: Size, batch: int) -> Engine:
        if component == "style_mlp":  # one for all sizes: it sees no frames
            size = self._default_size
        opened = self._engines.setdefault((component, domain), [])
        for engine in opened:
            if engine.takes(size.width, size.height, batch):
                return engine
        engine = self._store.open(component, domain, size, batch, self._load)
        opened.append(engine)
        return engine

    def _load(self, data: bytes, title: str, profile: SizeProfile) -> Engine:
        try:
            return TrtEngine(self._trt, data, title, profile, not self._graphs)
        except OutOfMemoryError:
            raise
        except DsmapError as error:
            free, _ = self.memory_bytes
            if free < len(data):  # an engine is its weights: whatever TensorRT says, they did not fit
                raise OutOfMemoryError(f"{error.fact} ({free / 1e6:.0f} MB are free)", error.advice) from error
            raise

    def _drop_oldest(self) -> bool:
        """Frees the plan that was used longest ago, and engines that no other uses; False where none may go."""
        for shape, executor in self._executors.items():
            if len(self._free[id(executor)]) == len(executor.slots):
                del self._executors[shape], self._free[id(executor)]
                executor.close()
                self._drop_engines()
                return True
        return False

    def _drop_engines(self) -> None:
        used = {id(engine) for executor in self._executors.values() for engine in executor.engines.present()}
        for engines in self._engines.values():
            for engine in [engine for engine in engines if id(engine) not in used]:
                engines.remove(engine)
                engine.close()

    def _give_back(self, executor: Executor, slot: Slot) -> None:
        with self._lock:
            if (free := self._free.get(id(executor))) is not None:
                free.append(slot)

    def _drain(self) -> None:
        """Waits until the device is idle."""
        done = self._cuda.event()
        for stream in self._streams.all():
            self._cuda.record(done, stream)
            self._cuda.synchronise(done)
        self._cuda.free_event(done)


def _checked_streams(wanted: int | None) -> int:
    if wanted is not None and not 1 <= wanted <= MAX_STREAMS:
        raise InputError(f"--streams is {wanted}", f"Pass 1 to {MAX_STREAMS}.")
    return wanted or STREAMS


class TensorRTRTX(TensorRT):
    """TensorRT for RTX: the same, and kernels are compiled for the GPU when an engine first runs."""

    name = "tensorrt-rtx"
    _flavour = "rtx"
