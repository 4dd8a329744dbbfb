"""What backends for GPUs of other makers have in common: one graph for each frame size, checked before it is used.

None of them has been tried on the hardware that it is for, so nothing is taken on trust. Before the first frame the
provider translates a small one, which has to be what the CPU makes of it, and nodes that the provider leaves to the CPU
are told.
"""

import hashlib
import logging
from abc import abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import DEFAULT_SETTINGS, Backend, BackendSettings, Codes, Frames
from dsmap.runtime.backends.comparison import REPORT, difference, noise_frame
from dsmap.runtime.backends.gpu_graph import bundle_gpu_graph, run_gpu_graph
from dsmap.runtime.backends.node_placement import Placement, placement, record_placement
from dsmap.runtime.backends.onnxruntime_session import (
    Providers,
    encode_style_on_cpu,
    open_session,
    quiet,
    session_options,
    style_mlp,
)
from dsmap.runtime.backends.providers.compiled_models import open_compiled
from dsmap.runtime.backends.providers.frozen_graph import Shape, frozen
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.engines.store import log_line

UNTESTED = "untested on hardware"
_log = logging.getLogger("dsmap")
_PREFERRED = ("fp16", "fp32")
_SIZES_KEPT = 3


class FixedSizeBackend(Backend):
    """One graph from frames to frames (`gpu_graph`) in one provider, frozen to the size of each frame that comes.

    Sessions of the last `_SIZES_KEPT` sizes are kept. One frame is computed at a time. With the precision `auto`, fp16
    that does not run, or not right, gives way to fp32, and a line says why.
    """

    on_host = False
    provider: ClassVar[str]
    where: ClassVar[str]
    """The provider's name for people."""
    compiles: ClassVar[bool] = False
    """Whether opening a size compiles for a while, and what was compiled is kept in the cache."""

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        self._ort = self._checked_onnxruntime()
        if settings.precision == "int8":
            raise DsmapError(f"{self.where} runs fp16 and fp32 graphs here, not int8", "Pass --precision fp16 or fp32.")
        self._bundle, self._target = bundle, target
        self._source = settings.source or bundle.source_of(target)
        self._style_params = style_mlp(bundle, target)
        self._style: tuple[Codes, Codes] | None = None  # the last codes and their parameters
        self._sessions: OrderedDict[Shape, Any] = OrderedDict()
        self.title = f"{self._device_name()} ({self._runtime_name().rpartition(' ')[0]}, {UNTESTED})"
        placed = self._find_precision(bundle, settings.precision)
        told = f", {placed.describe_others()}" if placed.elsewhere else ""
        self.description = f"{self._runtime_name()} with {self._device_name()}, {self.precision}, {UNTESTED}{told}"

    @classmethod
    def find_device(cls) -> str:
        """The device that it would run on, or the provider. Raises DsmapError with the reason where it does not run."""
        unopened = cls.__new__(cls)
        unopened._ort = unopened._checked_onnxruntime()
        return unopened._device_name()

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        n, height, width, channels = frames_nhwc.shape
        return self._translated(self._session((n, height, width, channels)), frames_nhwc, style_ns)

    def close(self) -> None:
        self._sessions.clear()

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Once per style image, if at all: not worth a session on the device.
        return encode_style_on_cpu(self._bundle, self._target, frames_nhwc)

    @abstractmethod
    def _checked_onnxruntime(self) -> Any:
        """ONNX Runtime with the provider. Raises DsmapError with the reason where there is none."""

    @abstractmethod
    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        """The provider's options; `folder` is where it keeps what it compiles."""

    def _device_name(self) -> str:
        return self.where

    def _runtime_name(self) -> str:
        return f"ONNX Runtime {self._ort.__version__}"

    def _session_options(self) -> Any:
        options = session_options(self._ort)
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        record_placement(options)
        return options

    def _open(self, graph: bytes, folder: Path | None) -> Any:
        """A session of a frozen graph in the provider."""
        providers: Providers = [(self.provider, self._provider_options(folder)), "CPUExecutionProvider"]
        return open_session(self._ort, graph, self._session_options(), providers)

    def _find_precision(self, bundle: Bundle, wanted: str) -> Placement:
        """Sets the precision, and the graph, with which the first frame is right; says where its nodes are."""
        candidates = [p for p in _PREFERRED if p in bundle.precisions] if wanted == "auto" else [wanted]
        for candidate in candidates:
            self.precision = candidate
            self._graph = bundle_gpu_graph(bundle, self._source, self._target, candidate)
            try:
                return self._check()
            except DsmapError as error:
                self._sessions.clear()
                if candidate == candidates[-1]:
                    raise DsmapError(error.fact, REPORT) from error
                log_line(f"{self.name}: {candidates[-1]} instead of {candidate}: {error.fact}")
        raise AssertionError("every bundle has float32 graphs")

    def _check(self) -> Placement:
        """Translates a small frame. Raises DsmapError where the CPU makes it, or makes something else of it."""
        frame_nhwc = noise_frame(self._bundle.manifest.sizes)
        style = np.zeros((1, self._bundle.manifest.style_dim), np.float32)
        found = placement(self._session((1, *frame_nhwc.shape[1:3], 3)))
        if found.known and not found.on_device:
            raise DsmapError(f"{self.where} takes none of the model's nodes: all would run on the CPU", REPORT)
        if slow := [node for node in found.elsewhere if node.startswith("Conv")]:
            log_line(f"{self.name}: {len(slow)} of the model's convolutions run on the CPU, among them {slow[0]}")
        _log.debug("%s: %s", self.name, found.describe())
        wrong = difference(self.translate(frame_nhwc, style), self._on_cpu(frame_nhwc, style))
        if wrong is not None:
            raise DsmapError(f"{self.where} gives wrong frames in {self.precision}: {wrong}", REPORT)
        return found

    def _on_cpu(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        session = open_session(self._ort, self._graph, session_options(self._ort), ["CPUExecutionProvider"])
        return self._translated(session, frames_nhwc, style_ns)

    def _translated(self, session: Any, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return run_gpu_graph(session, frames_nhwc, None if self._style_params is None else self._params(style_ns))

    def _params(self, style_ns: Codes) -> Codes:
        assert self._style_params is not None
        if self._style is None or not np.array_equal(self._style[0], style_ns):
            self._style = style_ns.copy(), self._style_params(style_ns)
        return self._style[1]

    def _session(self, shape: Shape) -> Any:
        """The session for frames of this shape; the least recently used one gives way to a new one."""
        if shape not in self._sessions:
            while len(self._sessions) >= _SIZES_KEPT:
                self._sessions.popitem(last=False)
            with quiet(self._ort):
                self._sessions[shape] = self._open_size(shape)
        self._sessions.move_to_end(shape)
        return self._sessions[shape]

    def _open_size(self, shape: Shape) -> Any:
        if not self.compiles:
            return self._open(frozen(self._graph, shape), None)
        key = self._key(shape)
        graph = frozen(self._graph, shape, key)

        def tell() -> None:
            _, height, width, _ = shape
            log_line(f"{self.name}: {self.where} compiles the model for {width}x{height}; it is kept for the next time")

        return open_compiled(self.name, key, lambda folder: self._open(graph, folder), tell)

    def _key(self, shape: Shape) -> str:
        """Names what is compiled: by the graph with its weights, the size, the versions and the options."""
        facts = (self._ort.__version__, shape, sorted(self._provider_options(None).items()))
        return hashlib.sha256(self._graph + repr(facts).encode()).hexdigest()[:40]
