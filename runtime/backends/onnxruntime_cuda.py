"""ONNX Runtime on an NVIDIA GPU. Nothing has to be built for it.

Activations stay on the device. Frames go there and back through pinned memory, which is kept and bound to the graph
while the size stays the same (`frame_binding`).
"""

import contextlib
import ctypes
import io
import logging
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import (
    DEFAULT_SETTINGS,
    Backend,
    BackendSettings,
    Codes,
    Frames,
    Pending,
    PendingOnDevice,
    best_precision,
    need_gpu,
)
from dsmap.runtime.backends.comparison import difference, noise_frame
from dsmap.runtime.backends.concurrency import TranslationPool
from dsmap.runtime.backends.cuda_norms import cuda_norms
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.backends.frame_binding import FrameBinding
from dsmap.runtime.backends.gpu_graph import bundle_gpu_graph, run_gpu_graph
from dsmap.runtime.backends.node_placement import placement, record_placement
from dsmap.runtime.backends.onnxruntime_planes import SessionPlanes
from dsmap.runtime.backends.onnxruntime_session import (
    Providers,
    encode_style_on_cpu,
    import_onnxruntime,
    onnxruntime_errors,
    open_session,
    quiet,
    session_options,
    style_mlp,
)
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.engines.tensorrt_api import current_device

_INSTALL = "pip uninstall -y onnxruntime && pip install 'dsmap[gpu]'"
_PROVIDER = "CUDAExecutionProvider"
_CUDNN = {"win32": "cudnn64_9.dll"}.get(sys.platform, "libcudnn.so.9")
KERNELS = {"1.31": ("7.5", "8.0", "8.6", "8.9", "9.0a", "12.0a")}
"""Compute capabilities that versions of onnxruntime-gpu have kernels for, and none that a driver could compile. One
with an "a" serves that capability alone; another one also later ones of its generation."""
_log = logging.getLogger("dsmap")
MAX_CONCURRENT = 3
"""Frames computed at once: while one is computed, others are copied and the host prepares the next kernels."""


class OnnxRuntimeCUDA(Backend):
    """One graph from frames to frames (`gpu_graph`) in the CUDA provider, on the first GPU.

    Up to `MAX_CONCURRENT` frames are computed at once, each in a thread of its own.
    """

    name = "cuda"
    on_host = False
    takes_device_frames = True
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
        self._options = {
            "device_id": 0,
            "use_tf32": int(self._tf32),
            # Memory grows by what is asked for: by default each step is twice the one before, and takes twice as much.
            "arena_extend_strategy": "kSameAsRequested",
            # cuDNN's own choice: trying all algorithms took eight times as long for a size's first frame, and gained
            # nothing (docs/benchmarks/gpu.md).
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        self._pool = TranslationPool(min(settings.frames_at_once, MAX_CONCURRENT), self._translate, own_thread=True)
        self.in_flight = self._pool.in_flight
        self._of_thread = threading.local()
        self._bindings: list[FrameBinding] = []
        side = bundle.manifest.sizes.side_from()
        self._smallest = np.zeros((1, side, side, 3), np.uint8)
        arithmetic = f"{self.precision} with TF32" if self._tf32 else self.precision
        self.description = f"ONNX Runtime {self._ort.__version__} on {self._device_name()}, {arithmetic}"
        self.title = f"{self._device_name()} (ONNX Runtime)"
        self._session: Any = None
        self._style_params: Callable[[Codes], Codes] | None = None
        self._open_and_check(settings.source or bundle.source_of(target))

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self.submit(frames_nhwc, style_ns)()

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        return self._pool.submit(frames_nhwc, style_ns)

    def submit_device(self, frame: DeviceFrame, style_ns: Codes, *, keep: bool = False) -> PendingOnDevice:
        return self._pool.submit(frame, style_ns, keep)

    def _translate(
        self, frames_nhwc: Frames | DeviceFrame, style_ns: Codes, keep: bool = False
    ) -> Frames | DeviceResult:
        """In a thread of the pool."""
        binding: FrameBinding | None = getattr(self._of_thread, "binding", None)
        if binding is None:
            planes = SessionPlanes(self._ort, self._open_small, self._open_on_cpu, self._device)
            binding = FrameBinding(self._ort, self._session, self._device, self._smallest, self._style_params, planes)
            self._of_thread.binding = binding
            self._bindings.append(binding)
        with onnxruntime_errors():
            return binding.run(frames_nhwc, style_ns, keep=keep)

    def _open_small(self, graph: bytes) -> Any:
        """A session on the device, beside that of the translation; exact, as its few products cost nothing."""
        providers: Providers = [(self._provider, self._options | {"use_tf32": 0}), "CPUExecutionProvider"]
        with quiet(self._ort):
            return self._open(graph, session_options(self._ort), providers)

    def _open_on_cpu(self, graph: bytes) -> Any:
        with quiet(self._ort):
            return open_session(self._ort, graph, session_options(self._ort), ["CPUExecutionProvider"])

    def cancel(self) -> None:
        self._pool.cancel()  # a running frame cannot be cancelled

    def close(self) -> None:
        self._pool.close()
        for binding in self._bindings:
            binding.free()
        self._bindings.clear()
        self._of_thread = threading.local()
        self._session = self._style_params = None

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Once per style image, if at all: not worth a session on the device.
        return encode_style_on_cpu(self._bundle, self._target, frames_nhwc)

    def _checked_onnxruntime(self) -> Any:
        """ONNX Runtime with a CUDA provider whose libraries load. Raises DsmapError with the reason."""
        capability = need_gpu()
        ort = import_onnxruntime()
        if _PROVIDER not in ort.get_available_providers():
            raise DsmapError("the installed onnxruntime has no CUDA provider: it is the one for CPUs", _INSTALL)
        if hasattr(ort, "preload_dlls"):
            # It prints what it does not find; what is really missing is reported below.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
                ort.preload_dlls()
        if reason := missing_library(Path(ort.__file__).parent / "capi"):
            raise DsmapError(f"ONNX Runtime cannot load its CUDA provider: {reason}", _INSTALL)
        if not has_kernels(ort.__version__, capability):
            raise _no_kernels(ort.__version__, capability)
        return ort

    def _open_and_check(self, source: str) -> None:
        """Opens the sessions and translates a small frame: the provider may have no kernels for this GPU.

        Where the CPU makes something else of it, `fault` says so.
        """
        manifest = self._bundle.manifest
        style, frame = np.zeros((1, manifest.style_dim), np.float32), noise_frame(manifest.sizes)
        try:
            graph = bundle_gpu_graph(self._bundle, source, self._target, self.precision, cuda_norms)
            self._session = self._open_session(graph)
            self._style_params = style_mlp(self._bundle, self._target)
            params = None if self._style_params is None else self._style_params(style)
            wrong = difference(self.translate(frame, style), run_gpu_graph(self._open_on_cpu(graph), frame, params))
            if wrong is not None:
                self.fault = f"its frames in {self.precision} are {wrong}"
        except DsmapError as error:
            self.close()
            if "no kernel image" not in error.fact:
                raise
            raise _no_kernels(self._ort.__version__, need_gpu()) from error

    def _device_name(self) -> str:
        return (current_device() or "an NVIDIA GPU").partition(", ")[0]

    def _open_session(self, graph: bytes) -> Any:
        """A session of the whole translation."""
        options, debug = session_options(self._ort), _log.isEnabledFor(logging.DEBUG)
        if debug:
            record_placement(options)
        with quiet(self._ort):
            session = self._open(graph, options, [(self._provider, self._options), "CPUExecutionProvider"])
        if debug:
            _log.debug("%s: %s", self.name, placement(session).describe())
            taken = session.get_provider_options().get(self._provider, {})
            _log.debug("%s: %s", self.name, ", ".join(f"{name}={taken.get(name)}" for name in self._options))
        return session

    def _open(self, graph: bytes, options: Any, providers: Providers) -> Any:
        return open_session(self._ort, graph, options, providers)


def has_kernels(version: str, capability: str) -> bool:
    """Whether this version of onnxruntime-gpu runs on GPUs of a compute capability ("8.9"); True for unknown versions.

    What it says of a version that is not listed is found out by the first frame.
    """
    kernels = KERNELS.get(".".join(version.split(".")[:2]))
    major, minor = map(int, capability.split("."))

    def serves(name: str) -> bool:
        built = re.fullmatch(r"(\d+)\.(\d+)(a?)", name)
        assert built is not None, "the table's own"
        same = (int(built[1]), int(built[2])) == (major, minor)
        return same or (not built[3] and int(built[1]) == major and int(built[2]) <= minor)

    return kernels is None or any(map(serves, kernels))


def _no_kernels(version: str, capability: str) -> DsmapError:
    return DsmapError(
        f"no kernels for compute capability {capability} in onnxruntime-gpu {version}",
        "Use --backend tensorrt, or a version of onnxruntime-gpu that names this GPU.",
    )


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
