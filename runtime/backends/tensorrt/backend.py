"""TensorRT on an NVIDIA GPU: three engines chained on one CUDA stream, several frames under way.

    backend = TensorRT(bundle, "winter", BackendSettings(frames_at_once=3))

Engines are found in the bundle, in the user's cache, or built. Neither flavour of TensorRT is imported where there is
no GPU.
"""

import contextlib
import threading
from collections import OrderedDict, deque

import numpy as np

from dsmap.errors import DsmapError
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
from dsmap.runtime.backends.onnxruntime_session import onnxruntime_is_there, style_on_the_cpu
from dsmap.runtime.backends.tensorrt.engine import TrtEngine
from dsmap.runtime.backends.tensorrt.executor import Parts, Plan, Slot, Streams
from dsmap.runtime.backends.tensorrt.memory import Engine, Shape, run_once
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.cuda.base import OutOfMemoryError
from dsmap.runtime.cuda.bindings import load_cuda
from dsmap.runtime.engines.size_profile import Size, SizeProfile
from dsmap.runtime.engines.store import EngineStore, log_line
from dsmap.runtime.engines.tensorrt_api import load_trt

MOST_SLOTS = 3
"""Frames under way: one going up, one being computed, one coming down."""
MOST_SIZES = 3
"""Sizes whose memory and graphs are kept: the one used longest ago goes first."""


class TensorRT(Backend):
    """Plain TensorRT 10 or 11."""

    name = "tensorrt"
    on_host = False
    _flavour = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        settings: BackendSettings = DEFAULT_SETTINGS,
        *,
        graphs: bool = True,
        exact: bool = False,
    ) -> None:
        """`graphs`: the chain as a CUDA graph. `exact`: build engines for one size alone. Both are for measuring."""
        architecture = need_gpu()
        if settings.precision == "int8":
            raise DsmapError("TensorRT runs the fp16 and fp32 graphs here, not int8", "Pass --precision fp16 or fp32.")
        self._trt = load_trt(self._flavour)
        self.precision = best_precision(bundle, settings.precision, ("fp16", "fp32", *bundle.precisions))
        self._bundle, self._target = bundle, target
        self._source = settings.source or bundle.source_of(target)
        sizes = bundle.manifest.sizes
        side = -(-max(sizes.trained_at, sizes.minimum) // sizes.multiple_of) * sizes.multiple_of
        self._usual = Size(side, side)
        self._cuda = load_cuda(settings.cuda_binding)
        self._store = EngineStore(
            bundle, self._trt, architecture, self.precision, exact=exact, trust_engines=settings.trust_engines
        )
        self._own_graphs = graphs and self._cuda.no_graphs is not None
        self._graphs = graphs and self._cuda.no_graphs is None
        self.in_flight = min(max(settings.frames_at_once, 1), MOST_SLOTS)
        self._engines: dict[tuple[str, str], list[Engine]] = {}
        self._plans: OrderedDict[Shape, Plan] = OrderedDict()
        self._free: dict[int, deque[Slot]] = {}
        self._lock = threading.Lock()
        self._cancelled = 0  # how often: what was begun before the last time is lost
        self.description = (
            f"{self._trt.title} on {self._cuda.device.name}, {self.precision}, {self._about_graphs(graphs)}"
        )
        self._streams = Streams(self._cuda.stream(), self._cuda.stream(), self._cuda.stream())
        try:
            self._prove()
        except BaseException:
            with contextlib.suppress(DsmapError):  # a GPU that is in trouble says so again here
                self.close()
            raise

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        plan = self._plan(frames_nhwc.shape)
        begun = self._cancelled
        with self._lock:
            free = self._free[id(plan)]
            if not free:
                raise DsmapError(f"more than {self.in_flight} frames are under way", "Wait for one first.")
            slot = free.popleft()
        graphs_before = plan.no_graphs
        try:
            plan.begin(slot, frames_nhwc, np.asarray(style_ns, np.float32))
        except BaseException:
            self._give_back(plan, slot)  # what is left of it is done before the slot's next frame: streams keep order
            raise
        if plan.no_graphs != graphs_before:
            log_line(f"without CUDA graphs, which makes no difference but in speed: {plan.no_graphs}")

        def wait() -> Frames:
            try:
                frames = plan.finish(slot)
            finally:
                self._give_back(plan, slot)
            if begun != self._cancelled:
                raise DsmapError("the translation was cancelled", "Run it again.")
            return frames

        return wait

    def cancel(self) -> None:
        # What the GPU has begun it ends by itself, in milliseconds; only a build takes longer.
        self._cancelled += 1
        self._store.stop()

    def close(self) -> None:
        try:
            self._drain()
            while self._plans:
                self._plans.popitem()[1].close()
            for engine in [engine for engines in self._engines.values() for engine in engines]:
                engine.close()
        finally:
            self._plans.clear()
            self._engines.clear()
            self._free.clear()
            self._cuda.close()

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Once per style picture, if at all: on the CPU nothing has to be built for it.
        if onnxruntime_is_there():
            return style_on_the_cpu(self._bundle, self._target, frames_nhwc)
        batch, height, width = frames_nhwc.shape[:3]
        engine = self._engine("style_encoder", self._target, Size(width, height), batch)
        (style,) = run_once(self._cuda, self._streams.compute, engine, frames=frames_nhwc)
        return np.asarray(style, np.float32)

    def stages_ms(self, frames_nhwc: Frames, style_ns: Codes) -> dict[str, float]:
        """How long each stage of a frame takes on the device, without a graph and with nothing beside it."""
        plan = self._plan(frames_nhwc.shape)
        return plan.stages_ms(self._free[id(plan)][0], frames_nhwc, style_ns)

    @property
    def graphs_in_use(self) -> bool:
        """Whether frames of the last size run as CUDA graphs."""
        plan = next(reversed(self._plans.values()), None)
        return plan is not None and any(slot.graph is not None for slot in plan.slots)

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """Of the device: free, and all."""
        return self._cuda.memory()

    @property
    def binding(self) -> str:
        """What reaches CUDA, with its version."""
        return self._cuda.binding

    def _about_graphs(self, graphs: bool) -> str:
        if self._graphs:
            return f"CUDA graphs, {self._cuda.binding}"
        if not graphs:
            return f"no CUDA graphs, {self._cuda.binding}"
        own = "CUDA graphs of each engine" if self._flavour == "rtx" else "no CUDA graphs"
        return f"{own} ({self._cuda.no_graphs}), {self._cuda.binding}"

    def _prove(self) -> None:
        """Runs the smallest of the engines once: that TensorRT is there does not say that it runs on this GPU."""
        engine = self._engine("style_mlp", self._target, self._usual, 1)
        style = np.zeros((1, self._bundle.manifest.style_dim), np.float32)
        run_once(self._cuda, self._streams.compute, engine, style=style)

    def _plan(self, shape: Shape) -> Plan:
        """The plan for frames (N, H, W, 3); made the first time, or again when it was thrown away."""
        plan = self._plans.get(shape)
        if plan is not None:
            self._plans.move_to_end(shape)
            return plan
        while len(self._plans) >= MOST_SIZES and self._drop_oldest():
            pass
        while True:
            try:
                plan = self._new_plan(shape)
                break
            except OutOfMemoryError:
                if not self._drop_oldest():
                    raise
        self._plans[shape] = plan
        self._free[id(plan)] = deque(plan.slots)
        return plan

    def _new_plan(self, shape: Shape) -> Plan:
        batch, size = shape[0], Size(shape[2], shape[1])

        def engine(component: str) -> Engine:
            return self._engine(component, self._target, size, batch)

        parts = Parts(
            encoder=self._engine("content_encoder", self._source, size, batch),
            mapping=engine("mapping") if self._store.has("mapping", self._target) else None,
            decoder=engine("decoder"),
            style_mlp=engine("style_mlp"),
        )
        style_dim = self._bundle.manifest.style_dim
        return Plan(self._cuda, self._streams, parts, shape, style_dim, self.in_flight, self._graphs)

    def _engine(self, component: str, domain: str, size: Size, batch: int) -> Engine:
        if component == "style_mlp":  # one for all sizes: it sees no frames
            size = self._usual
        opened = self._engines.setdefault((component, domain), [])
        for engine in opened:
            if engine.takes(size.width, size.height, batch):
                return engine
        engine = self._store.open(component, domain, size, batch, self._load)
        opened.append(engine)
        return engine

    def _load(self, data: bytes, title: str, profile: SizeProfile) -> Engine:
        try:
            return TrtEngine(self._trt, data, title, profile, self._own_graphs)
        except OutOfMemoryError:
            raise
        except DsmapError as error:
            free, _ = self.memory_bytes
            if free < len(data):  # an engine is its weights: whatever TensorRT says, they had no room
                raise OutOfMemoryError(f"{error.fact} ({free / 1e6:.0f} MB are free)", error.advice) from error
            raise

    def _drop_oldest(self) -> bool:
        """Frees the plan that was used longest ago, and engines that no other uses; False where none may go."""
        for shape, plan in self._plans.items():
            if len(self._free[id(plan)]) == len(plan.slots):
                del self._plans[shape], self._free[id(plan)]
                plan.close()
                self._drop_engines()
                return True
        return False

    def _drop_engines(self) -> None:
        used = {id(engine) for plan in self._plans.values() for engine in plan.parts.present()}
        for engines in self._engines.values():
            for engine in [engine for engine in engines if id(engine) not in used]:
                engines.remove(engine)
                engine.close()

    def _give_back(self, plan: Plan, slot: Slot) -> None:
        with self._lock:
            if (free := self._free.get(id(plan))) is not None:
                free.append(slot)

    def _drain(self) -> None:
        """Waits until nothing is under way on the device."""
        done = self._cuda.event()
        for stream in self._streams:
            self._cuda.record(done, stream)
            self._cuda.synchronise(done)
        self._cuda.free_event(done)


class TensorRTRTX(TensorRT):
    """TensorRT for RTX: the same, and kernels are compiled for the GPU when an engine first runs."""

    name = "tensorrt-rtx"
    _flavour = "rtx"
