"""ONNX Runtime on an NVIDIA GPU. Nothing has to be built for it.

Tensors stay on the device from the frames to the result: the graph's inputs and output are bound to memory there,
which is kept while the size stays the same.
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
from dsmap.runtime.backends.concurrency import TranslationPool
from dsmap.runtime.backends.gpu_graph import FRAMES, OUTPUT, STYLE, gpu_graph
from dsmap.runtime.backends.onnxruntime_session import (
    Providers,
    encode_style_on_cpu,
    import_onnxruntime,
    onnxruntime_errors,
    open_session,
    session_options,
)
from dsmap.runtime.bundle.bundle import Bundle

_INSTALL = "pip uninstall -y onnxruntime && pip install 'dsmap[gpu]'"
_PROVIDER = "CUDAExecutionProvider"
_CUDNN = {"win32": "cudnn64_9.dll"}.get(sys.platform, "libcudnn.so.9")
MAX_CONCURRENT = 3
"""Frames computed at once: while one is computed, others are copied and the host prepares the next kernels."""


class _Bound(NamedTuple):
    """What is bound to the graph for one frame size, in the device's memory."""

    shape: tuple[int, ...]
    """Of the frames."""
    frames: Any
    style: Any
    output: Any
    binding: Any
    """The session's inputs and outputs."""


class _ThreadMemory:
    """The memory of one thread's frame."""

    bound: _Bound | None = None
    style: Codes | None = None
    """The codes whose parameters are on the device."""


class OnnxRuntimeCUDA(Backend):
    """One graph from frames to frames (`gpu_graph`) in the CUDA provider, on the first GPU.

    Up to `MAX_CONCURRENT` frames are computed at once, each in a thread of its own.
    """

    name = "cuda"
    on_host = False
    # The tests run the same on the CPU.
    _device = "cuda"
    _provider = _PROVIDER

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        self._ort = self._checked_onnxruntime()
        if settings.precision == "int8":
            raise DsmapError("the CUDA provider runs fp16 and fp32 graphs, not int8", "Pass --precision fp16 or fp32.")
        self.precision = best_precision(bundle, settings.precision, ("fp16", "fp32", *bundle.precisions))
        self._bundle, self._target = bundle, target
        # TF32 rounds the factors of float32's products to 10 bits, for several times the speed: not where float32 is
        # asked for by name.
        self._tf32 = self.precision == "fp32" and settings.precision != "fp32"
        self._options = {"device_id": 0, "use_tf32": int(self._tf32)}
        self._pool = TranslationPool(min(settings.frames_at_once, MAX_CONCURRENT), self._translate, own_thread=True)
        self.in_flight = self._pool.in_flight
        self._of_thread = threading.local()
        self._memories: list[_ThreadMemory] = []
        arithmetic = f"{self.precision} with TF32" if self._tf32 else self.precision
        self.description = f"ONNX Runtime {self._ort.__version__} on {self._device_name()}, {arithmetic}"
        self._session: Any = None
        self._style_mlp: Any = None
        self._open_and_check(settings.source or bundle.source_of(target))

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        return self._pool.submit(frames_nhwc, style_ns)

    def _translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        """In a thread of the pool."""
        memory = getattr(self._of_thread, "memory", None)
        if memory is None:
            memory = self._of_thread.memory = _ThreadMemory()
            self._memories.append(memory)
        with onnxruntime_errors():
            if memory.bound is None or memory.bound.shape != frames_nhwc.shape:
                memory.bound = None  # before the new size is bound: the memory of both may not fit
                memory.bound, memory.style = self._bind(frames_nhwc, style_ns), style_ns.copy()
            bound = memory.bound
            bound.frames.update_inplace(np.ascontiguousarray(frames_nhwc))
            if memory.style is None or not np.array_equal(memory.style, style_ns):
                memory.style = None
                bound.style.update_inplace(self._style_params(style_ns))
                memory.style = style_ns.copy()
            self._session.run_with_iobinding(bound.binding, self._ort.RunOptions())
            # On a device this copies; elsewhere it may be the bound memory itself, which the next frame overwrites.
            return np.array(bound.output.numpy())

    def cancel(self) -> None:
        self._pool.cancel()  # a running frame cannot be cancelled

    def close(self) -> None:
        self._pool.close()
        for memory in self._memories:
            memory.bound = None
        self._session = self._style_mlp = None

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Once per style image, if at all: not worth a session on the device.
        return encode_style_on_cpu(self._bundle, self._target, frames_nhwc)

    def _checked_onnxruntime(self) -> Any:
        """ONNX Runtime with a CUDA provider whose libraries load. Raises DsmapError with the reason."""
        need_gpu()
        ort = import_onnxruntime()
        if _PROVIDER not in ort.get_available_providers():
            raise DsmapError("the installed onnxruntime has no CUDA provider: it is the one for CPUs", _INSTALL)
        if hasattr(ort, "preload_dlls"):
            # It prints what it does not find; what is really missing is reported below.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
                ort.preload_dlls()
        if reason := missing_library(Path(ort.__file__).parent / "capi"):
            raise DsmapError(f"ONNX Runtime cannot load its CUDA provider: {reason}", _INSTALL)
        return ort

    def _open_and_check(self, source: str) -> None:
        """Opens the sessions and translates the smallest frame: the provider may have no kernels for this GPU."""
        sizes = self._bundle.manifest.sizes
        side = -(-sizes.minimum // sizes.multiple_of) * sizes.multiple_of
        style = np.zeros((1, self._bundle.manifest.style_dim), np.float32)
        try:
            self._session, self._style_mlp = self._open_session(source), self._open_style_mlp()
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

    def _open_session(self, source: str) -> Any:
        """A session of the whole translation from `source`."""

        def read(component: str, domain: str) -> bytes | None:
            graph = self._bundle.graph_data(component, domain, self.precision)
            return None if graph is None else graph.data

        encoder, decoder = read("content_encoder", source), read("decoder", self._target)
        assert encoder is not None, "a bundle is read only if it has it"
        assert decoder is not None
        graph = gpu_graph(encoder, read("mapping", self._target), decoder)
        providers: Providers = [(self._provider, self._options), "CPUExecutionProvider"]
        if self._provider != _PROVIDER:
            providers = [self._provider]
        with _quiet(self._ort):
            return open_session(self._ort, graph, session_options(self._ort), providers)

    def _open_style_mlp(self) -> Any:
        """A session of the style's MLP, on the CPU: a few products, once per style."""
        graph = self._bundle.graph_data("style_mlp", self._target)
        assert graph is not None, "a bundle is read only if it has it"
        return open_session(self._ort, graph, session_options(self._ort), ["CPUExecutionProvider"])

    def _style_params(self, style_ns: Codes) -> Codes:
        """The parameters that the decoder takes for these styles."""
        style_ns = np.ascontiguousarray(style_ns, np.float32)
        return np.asarray(self._style_mlp.run(["style_params"], {"style": style_ns})[0], np.float32)

    def _bind(self, frames_nhwc: Frames, style_ns: Codes) -> _Bound:
        """Binds memory for frames of this size. The graph runs once, which allocates the output."""
        frames, style = self._on_device(frames_nhwc), self._on_device(self._style_params(style_ns))
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(FRAMES, frames)
        binding.bind_ortvalue_input(STYLE, style)
        binding.bind_output(OUTPUT, self._device)
        options = self._ort.RunOptions()
        if self._provider == _PROVIDER:  # what frames of another size took goes back to the device
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        self._session.run_with_iobinding(binding, options)
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
