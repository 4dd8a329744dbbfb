"""ONNX Runtime on an NVIDIA GPU: the step of the ladder below TensorRT. Nothing is built for it.

Tensors stay on the device from the frames to the result: the graph's inputs and output are bound to memory there,
which is kept while the size stays.
"""

import contextlib
import ctypes
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from dsmap.runtime.backends.concurrency import AtOnce
from dsmap.runtime.backends.gpu_graph import FRAMES, OUTPUT, STYLE, gpu_graph
from dsmap.runtime.backends.onnxruntime_session import (
    Providers,
    explained,
    import_onnxruntime,
    open_session,
    session_options,
    style_on_the_cpu,
)
from dsmap.runtime.bundle.bundle import Bundle

_INSTALL = "pip uninstall -y onnxruntime && pip install 'dsmap[gpu]'"
_PROVIDER = "CUDAExecutionProvider"
_CUDNN = {"win32": "cudnn64_9.dll"}.get(sys.platform, "libcudnn.so.9")
MAX_LANES = 3
"""Frames under way: while one is computed, others are copied and the host prepares the next kernels."""
CAPTURE_AT = 4
"""The frame of a size, in a row, that becomes a CUDA graph: capturing takes as long as some frames."""
_CAPTURED, _NOT_CAPTURED = "1", "-1"  # ONNX Runtime's annotations of a run


class _Bound(NamedTuple):
    """A frame size: what is bound to the graph, in memory of the device."""

    shape: tuple[int, ...]
    """Of the frames."""
    frames: Any
    style: Any
    output: Any
    binding: Any
    """The session's inputs and outputs."""


class _Lane:
    """What one thread has of its own: one frame's memory, and where CUDA graphs are captured, a session."""

    session: Any = None
    bound: _Bound | None = None
    style: Codes | None = None
    """What its memory on the device has the parameters of."""
    frames = 0
    """Of this size, in a row."""


class _Turns:
    """Runs side by side, and captures alone: meanwhile no other thread may call CUDA."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._alone = False

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Waits for a turn beside others, or for one alone."""
        with self._changed:
            if alone:
                self._changed.wait_for(lambda: not self._alone)
                self._alone = True  # from now on nobody else begins
                self._changed.wait_for(lambda: not self._running)
            else:
                self._changed.wait_for(lambda: not self._alone)
                self._running += 1
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._running -= 1
                self._changed.notify_all()


class OnnxRuntimeCUDA(Backend):
    """One graph from frames to frames (`gpu_graph`) in the CUDA provider, on the first GPU.

    Up to `MAX_LANES` frames are under way, each in a thread of its own.
    """

    name = "cuda"
    on_host = False
    # The tests run the same on the CPU.
    _device = "cuda"
    _provider = _PROVIDER

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        settings: BackendSettings = DEFAULT_SETTINGS,
        *,
        graphs: bool = False,
        channels_last: bool = False,
        lanes: int = MAX_LANES,
    ) -> None:
        """For measuring: `channels_last` takes kernels for that layout, `lanes` is how many frames may be under way.

        With `graphs` the whole is one CUDA graph from the `CAPTURE_AT`th frame of a size on, which the device starts in
        one call. Each lane has a session of its own then: a captured graph belongs to a session and a thread.
        """
        self._ort = self._checked_onnxruntime()
        if settings.precision == "int8":
            raise DsmapError("the CUDA provider runs fp16 and fp32 graphs, not int8", "Pass --precision fp16 or fp32.")
        self.precision = best_precision(bundle, settings.precision, ("fp16", "fp32", *bundle.precisions))
        self._bundle, self._target, self._graphs = bundle, target, graphs
        # TF32 rounds the factors of float32's products to 10 bits, for several times the speed: not where float32 is
        # asked for by name.
        self._tf32 = self.precision == "fp32" and settings.precision != "fp32"
        self._options = {"device_id": 0, "use_tf32": int(self._tf32), "enable_cuda_graph": int(graphs)}
        self._options |= {"prefer_nhwc": 1} if channels_last else {}
        self._model = self._whole_graph(settings.source or bundle.source_of(target))
        self._style_mlp = self._style_session()
        lanes = min(settings.frames_at_once, lanes)
        self._at_once = AtOnce(lanes, self._translate, own_thread=True)
        self.in_flight = self._at_once.in_flight
        self._of_thread = threading.local()
        self._lanes: list[_Lane] = []
        self._opening, self._shared = threading.Lock(), None
        self._turns = _Turns()
        arithmetic = f"{self.precision} with TF32" if self._tf32 else self.precision
        self.description = f"ONNX Runtime {self._ort.__version__} on {self._device_name()}, {arithmetic}"
        self._prove()

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        return self._at_once.submit(frames_nhwc, style_ns)

    def _translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        """In a thread of `AtOnce`'s."""
        lane = getattr(self._of_thread, "lane", None)
        if lane is None:
            lane = self._of_thread.lane = _Lane()
            self._lanes.append(lane)
        with explained():
            if lane.bound is None or lane.bound.shape != frames_nhwc.shape:
                self._make_room(lane)
                with self._turns.turn(alone=False):
                    lane.session = lane.session or self._session_of_lane()
                    lane.bound, lane.style = self._bind(lane.session, frames_nhwc, style_ns), style_ns.copy()
            lane.frames += 1
            captures = self._graphs and lane.frames == CAPTURE_AT
            with self._turns.turn(alone=captures):
                return self._run(lane, lane.bound, frames_nhwc, style_ns)

    def _run(self, lane: _Lane, bound: _Bound, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        bound.frames.update_inplace(np.ascontiguousarray(frames_nhwc))
        if lane.style is None or not np.array_equal(lane.style, style_ns):
            lane.style = None
            bound.style.update_inplace(self._style_params(style_ns))
            lane.style = style_ns.copy()
        captured = self._graphs and lane.frames >= CAPTURE_AT
        lane.session.run_with_iobinding(bound.binding, self._how(_CAPTURED if captured else _NOT_CAPTURED))
        # On a device this copies; elsewhere it may be the bound memory itself, which the next frame writes over.
        return np.array(bound.output.numpy())

    def _how(self, graph: str, *, shrink: bool = False) -> Any:
        options = self._ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", graph)
        if shrink and self._provider == _PROVIDER:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        return options

    def _make_room(self, lane: _Lane) -> None:
        """Gives back what frames of another size took: two sizes may not fit beside each other."""
        lane.bound = None
        if self._graphs and lane.frames >= CAPTURE_AT:
            with self._turns.turn(alone=True):
                lane.session = None  # nothing else frees a captured graph and its memory
        lane.frames = 0

    def cancel(self) -> None:
        self._at_once.cancel()  # what is being computed ends by itself

    def close(self) -> None:
        self._at_once.close()
        for lane in self._lanes:
            lane.bound = lane.session = None
        self._shared = self._style_mlp = None

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Once per style picture, if at all: not worth a session on the device.
        return style_on_the_cpu(self._bundle, self._target, frames_nhwc)

    def _checked_onnxruntime(self) -> Any:
        """ONNX Runtime with a CUDA provider whose libraries load. Raises DsmapError with the reason."""
        need_gpu()
        ort = import_onnxruntime()
        if _PROVIDER not in ort.get_available_providers():
            raise DsmapError("the installed onnxruntime has no CUDA provider: it is the one for CPUs", _INSTALL)
        if hasattr(ort, "preload_dlls"):
            # It prints what it does not find; what is really missing is told below.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
                ort.preload_dlls()
        if reason := missing_library(Path(ort.__file__).parent / "capi"):
            raise DsmapError(f"ONNX Runtime cannot load its CUDA provider: {reason}", _INSTALL)
        return ort

    def _prove(self) -> None:
        """Translates the smallest frame: a provider that loads may still have no kernels for this GPU."""
        sizes = self._bundle.manifest.sizes
        side = -(-sizes.minimum // sizes.multiple_of) * sizes.multiple_of
        style = np.zeros((1, self._bundle.manifest.style_dim), np.float32)
        try:
            self.translate(np.zeros((1, side, side, 3), np.uint8), style)
        except DsmapError as error:
            self.close()
            if "no kernel image" not in error.fact:
                raise
            raise DsmapError(
                f"onnxruntime-gpu {self._ort.__version__} has no kernels for compute capability {need_gpu()}",
                "Use --backend tensorrt, or a version of onnxruntime-gpu that names this GPU.",
            ) from error

    def _device_name(self) -> str:
        return "an NVIDIA GPU (CUDA)"

    def _whole_graph(self, source: str) -> bytes:
        def read(component: str, domain: str) -> bytes | None:
            graph = self._bundle.graph_data(component, domain, self.precision)
            return None if graph is None else graph.data

        encoder, decoder = read("content_encoder", source), read("decoder", self._target)
        assert encoder is not None, "a bundle is read only if it has it"
        assert decoder is not None
        return gpu_graph(encoder, read("mapping", self._target), decoder)

    def _session_of_lane(self) -> Any:
        if self._graphs:
            return self._session()
        with self._opening:
            self._shared = self._shared or self._session()
        return self._shared

    def _session(self) -> Any:
        providers: Providers = [(self._provider, self._options), "CPUExecutionProvider"]
        if self._provider != _PROVIDER:
            providers = [self._provider]
        with _quiet(self._ort):
            return open_session(self._ort, self._model, session_options(self._ort), providers)

    def _style_session(self) -> Any:
        """The style's MLP, on the CPU: a few products, once per style."""
        graph = self._bundle.graph_data("style_mlp", self._target)
        assert graph is not None, "a bundle is read only if it has it"
        return open_session(self._ort, graph, session_options(self._ort), ["CPUExecutionProvider"])

    def _style_params(self, style_ns: Codes) -> Codes:
        """The parameters that the decoder takes for these styles."""
        style_ns = np.ascontiguousarray(style_ns, np.float32)
        return np.asarray(self._style_mlp.run(["style_params"], {"style": style_ns})[0], np.float32)

    def _bind(self, session: Any, frames_nhwc: Frames, style_ns: Codes) -> _Bound:
        """What is bound for frames of this size. The graph runs once, which makes the output's memory."""
        frames, style = self._on_device(frames_nhwc), self._on_device(self._style_params(style_ns))
        binding = session.io_binding()
        binding.bind_ortvalue_input(FRAMES, frames)
        binding.bind_ortvalue_input(STYLE, style)
        binding.bind_output(OUTPUT, self._device)
        session.run_with_iobinding(binding, self._how(_NOT_CAPTURED, shrink=True))
        (output,) = binding.get_outputs()
        binding.bind_ortvalue_output(OUTPUT, output)
        return _Bound(frames_nhwc.shape, frames, style, output, binding)

    def _on_device(self, array: Any) -> Any:
        # A copy: on a CPU the value would be the caller's own memory.
        return self._ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self._device, 0)


def missing_library(folder: Path) -> str | None:
    """Why the CUDA provider in `folder` would not run: ONNX Runtime itself only writes it into its log.

    cuDNN is asked for by name: the provider loads it at the first convolution only, long after sessions have opened.
    """
    suffix = {"win32": ".dll"}.get(sys.platform, ".so")
    prefix = "" if sys.platform == "win32" else "lib"
    try:
        for name in ("providers_shared", "providers_cuda"):
            ctypes.CDLL(str(folder / f"{prefix}onnxruntime_{name}{suffix}"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(_CUDNN)
    except OSError as error:
        return " ".join(str(error).split())[:200]
    return None


@contextmanager
def _quiet(ort: Any) -> Iterator[None]:
    """Without ONNX Runtime's own lines while it tries: what fails is raised."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)
