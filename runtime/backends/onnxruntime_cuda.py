"""ONNX Runtime on an NVIDIA GPU: the step of the ladder below TensorRT. Nothing is built for it.

Tensors stay on the device from the frames to the result: the graphs' inputs and outputs are bound to memory there,
which is kept while the size stays.
"""

import contextlib
import ctypes
import io
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends import USUAL, Backend, Codes, Frames, Pending, Settings, best_precision, need_gpu
from dsmap.runtime.backends._onnxruntime import (
    Providers,
    explained,
    import_onnxruntime,
    open_session,
    session_options,
    style_on_the_cpu,
)
from dsmap.runtime.backends.at_once import AtOnce
from dsmap.runtime.bundle import Bundle

_INSTALL = "Run pip uninstall onnxruntime, then, in dsmap's source folder: pip install '.[gpu]'"
_PROVIDER = "CUDAExecutionProvider"
MOST_LANES = 3
"""Frames under way: while one is computed, others are copied and the host prepares the next kernels."""


class _Bound(NamedTuple):
    """A frame size: what is bound to the graphs, in memory of the device."""

    shape: tuple[int, ...]
    """Of the frames."""
    frames: Any
    style: Any
    output: Any
    bindings: list[tuple[Any, Any]]
    """Sessions in turn, each with its inputs and outputs."""


class _Lane:
    """What one frame under way has of its own."""

    bound: _Bound | None = None
    style: Codes | None = None
    """What its memory on the device has the parameters of."""


class OnnxRuntimeCUDA(Backend):
    """Sessions of the CUDA provider on the first GPU. Frames under way share them, each from a thread of its own."""

    name = "cuda"
    on_host = False
    # The tests run the same on the CPU.
    _device = "cuda"
    _provider = _PROVIDER

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        settings: Settings = USUAL,
        *,
        graphs: bool = False,
        channels_last: bool = False,
    ) -> None:
        """`graphs`: each session as a CUDA graph of ONNX Runtime's; `channels_last`: its kernels for that layout.

        Both are for measuring.
        """
        self._ort = self._checked_onnxruntime()
        if settings.precision == "int8":
            raise DsmapError("the CUDA provider runs fp16 and fp32 graphs, not int8", "Pass --precision fp16 or fp32.")
        self.precision = best_precision(bundle, settings.precision, ("fp16", "fp32", *bundle.precisions))
        self._bundle, self._target = bundle, target
        self._options = {"device_id": 0}
        self._options |= {"enable_cuda_graph": 1} if graphs else {}
        self._options |= {"prefer_nhwc": 1} if channels_last else {}
        with _quiet(self._ort):
            self._encoder = self._session("content_encoder", settings.source or bundle.source_of(target))
            self._mapping = self._session("mapping", target)
            self._decoder = self._session("decoder", target)
            self._style_mlp = self._style_session()
        # A captured graph belongs to one thread.
        self._at_once = AtOnce(1 if graphs else min(settings.frames_at_once, MOST_LANES), self.translate)
        self.in_flight = self._at_once.in_flight
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(self._at_once.computed):
            self._lanes.put(_Lane())
        self.description = f"ONNX Runtime {self._ort.__version__} on {self._device_name()}, {self.precision}"
        if not graphs:  # which would be of the smallest frame for good
            self._prove()

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        lane = self._lanes.get()
        try:
            with explained():
                return self._translate(lane, frames_nhwc, style_ns)
        finally:
            self._lanes.put(lane)

    def _translate(self, lane: _Lane, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        if lane.bound is None or lane.bound.shape != frames_nhwc.shape:
            lane.bound = None  # first: two sizes may not fit beside each other
            lane.bound, lane.style = self._bind(frames_nhwc, style_ns), style_ns.copy()
        bound = lane.bound
        bound.frames.update_inplace(np.ascontiguousarray(frames_nhwc))
        if lane.style is None or not np.array_equal(lane.style, style_ns):
            lane.style = None
            bound.style.update_inplace(self._style_input(style_ns))
            lane.style = style_ns.copy()
        for session, binding in bound.bindings:
            session.run_with_iobinding(binding)
        # On a device this copies; elsewhere it may be the bound memory itself, which the next frame writes over.
        return np.array(bound.output.numpy())

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        return self._at_once.submit(frames_nhwc, style_ns)

    def cancel(self) -> None:
        self._at_once.cancel()  # what is being computed ends by itself

    def close(self) -> None:
        self._at_once.close()
        for _ in range(self._at_once.computed):
            self._lanes.get().bound = None
        self._encoder = self._mapping = self._decoder = self._style_mlp = None

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
        if reason := _missing_library(Path(ort.__file__).parent / "capi"):
            raise DsmapError(f"ONNX Runtime cannot load its CUDA provider: {reason}", _INSTALL)
        return ort

    def _prove(self) -> None:
        """Translates the smallest frame: a provider that loads may still have no kernels for this GPU."""
        sizes = self._bundle.manifest.sizes
        side = -(-sizes.minimum // sizes.multiple_of) * sizes.multiple_of
        style = np.zeros((1, self._bundle.manifest.style_dim), np.float32)
        self.translate(np.zeros((1, side, side, 3), np.uint8), style)

    def _device_name(self) -> str:
        return "an NVIDIA GPU (CUDA)"

    def _session(self, component: str, domain: str) -> Any:
        """A session on the device; None where the bundle has no such graph."""
        path = self._bundle.graph(component, domain, self.precision)
        if path is None:
            return None
        providers: Providers = [(self._provider, self._options), "CPUExecutionProvider"]
        if self._provider != _PROVIDER:
            providers = [self._provider]
        session = open_session(self._ort, path, session_options(self._ort), providers)
        session.disable_fallback()
        return session

    def _style_session(self) -> Any:
        """The style's MLP, on the CPU: a few products, once per style. None in format 1."""
        path = self._bundle.graph("style_mlp", self._target)
        if path is None:
            return None
        return open_session(self._ort, path, session_options(self._ort), ["CPUExecutionProvider"])

    def _style_input(self, style_ns: Codes) -> Codes:
        """What the decoder takes: the style's parameters, or in format 1 the style itself."""
        style_ns = np.ascontiguousarray(style_ns, np.float32)
        if self._style_mlp is None:
            return style_ns
        return np.asarray(self._style_mlp.run(["style_params"], {"style": style_ns})[0], np.float32)

    def _bind(self, frames_nhwc: Frames, style_ns: Codes) -> _Bound:
        """What is bound for frames of this size."""
        frames = self._on_device(frames_nhwc)
        style = self._on_device(self._style_input(style_ns))
        bindings = []

        def add(session: Any, outputs: list[str], **inputs: Any) -> list[Any]:
            """Runs once, so that ONNX Runtime makes the outputs on the device, and keeps them bound."""
            binding = session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in outputs:
                binding.bind_output(name, self._device)
            session.run_with_iobinding(binding)
            made = list(binding.get_outputs())
            for name, value in zip(outputs, made, strict=True):
                binding.bind_ortvalue_output(name, value)
            bindings.append((session, binding))
            return made

        content, skip = add(self._encoder, ["content", "skip"], frames=frames)
        if self._mapping is not None:
            (content,) = add(self._mapping, ["mapped"], content=content, skip=skip)
        of_style = {"style" if self._style_mlp is None else "style_params": style}
        (output,) = add(self._decoder, ["frames"], mapped=content, **of_style)
        return _Bound(frames_nhwc.shape, frames, style, output, bindings)

    def _on_device(self, array: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)


def _missing_library(folder: Path) -> str | None:
    """Why the CUDA provider's library does not load: ONNX Runtime itself only writes it into its log."""
    suffix = {"win32": ".dll"}.get(sys.platform, ".so")
    prefix = "" if sys.platform == "win32" else "lib"
    try:
        for name in ("providers_shared", "providers_cuda"):
            ctypes.CDLL(str(folder / f"{prefix}onnxruntime_{name}{suffix}"), mode=ctypes.RTLD_GLOBAL)
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
