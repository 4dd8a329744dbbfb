"""ONNX Runtime on the CPU, a frame in stripes: what `--tile` runs."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from dsmap.runtime.backends.base import (
    DEFAULT_SETTINGS,
    Backend,
    BackendSettings,
    Codes,
    Frames,
    best_precision,
)
from dsmap.runtime.backends.onnxruntime_session import (
    encode_style_on_cpu,
    import_onnxruntime,
    open_session,
    run_session,
    session_options,
)
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.system.cpu import allowed_cores
from dsmap.runtime.tiles.local_graph import LocalGraph, Part
from dsmap.runtime.tiles.onnx_file import Node, Port, write_model
from dsmap.runtime.tiles.part_runner import Array, Layout, PartRunner
from dsmap.runtime.tiles.statistics import adds_in_order
from dsmap.runtime.tiles.stripes import StripedGraph

_CPU = "CPUExecutionProvider"


class StripedCPU(Backend):
    """As `OnnxRuntimeCPU`, in little memory: frames of any size, one at a time, each in several passes of stripes.

    The results are those of whole frames up to rounding: norms have the statistics of the whole frame.
    """

    name = "cpu"
    title = "CPU (ONNX Runtime, in stripes)"

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        self._ort = import_onnxruntime()
        self.precision = best_precision(bundle, settings.precision, ("int8", "fp32"))
        self.description = f"ONNX Runtime {self._ort.__version__} on the CPU, {self.precision}, frames in stripes"
        threads = settings.threads if settings.threads is not None else allowed_cores()
        self._options = session_options(self._ort, threads)
        self._options.enable_cpu_mem_arena = False  # each session would keep memory of its own
        self._bundle, self._target = bundle, target
        encoder = self._graph("content_encoder", settings.source or bundle.source_of(target))
        decoder = self._graph("decoder", target)
        assert encoder is not None, "a bundle is read only if it has it"
        assert decoder is not None, "a bundle is read only if it has it"
        graph = LocalGraph(encoder, self._graph("mapping", target), decoder)
        self._style_mlp = self._style_session()
        self._style_shape = None if self._style_mlp is None else self._style_mlp.get_outputs()[0].shape[1:]
        self._striped = StripedGraph(
            graph, self._load, bundle.manifest.sizes.multiple_of, in_order=adds_in_order(self._norm())
        )
        self._run: Any = None
        self._lock = threading.Lock()

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        with self._lock:
            self._run = self._ort.RunOptions()
            self._run.log_severity_level = 4
        frames = [
            self._striped.translate(frame[None], self._style_params(code[None]), self._run)
            for frame, code in zip(frames_nhwc, style_ns, strict=True)
        ]
        return frames[0] if len(frames) == 1 else np.concatenate(frames)

    def cancel(self) -> None:
        with self._lock:
            self._striped.cancel()
            if self._run is not None:
                self._run.terminate = True

    def bytes_for(self, height: int, width: int) -> int:
        return self._striped.bytes_for(height, width)

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        return encode_style_on_cpu(self._bundle, self._target, frames_nhwc)

    def _graph(self, component: str, domain: str) -> bytes | None:
        found = self._bundle.graph_data(component, domain, self.precision)
        return None if found is None else found.data

    def _load(self, part: Part, layouts: dict[str, Layout], data: bytes) -> PartRunner:
        session = open_session(self._ort, data, self._options, [_CPU])
        return PartRunner(session, part, layouts, self._bundle.manifest.sizes.multiple_of, self._style_shape)

    def _norm(self) -> Callable[[Array], Array]:
        """A norm of three channels, as ONNX Runtime computes it."""
        ones, zeros = (np.full(3, number, np.float32) for number in (1, 0))
        node = Node("InstanceNormalization", ("x", "ones", "zeros"), ("y",))
        ports = [Port("x", np.float32, (1, 3, None, None)), *(Port(name, np.float32, (3,)) for name in node.inputs[1:])]
        session = open_session(self._ort, write_model([node], {}, ports, ["y"], 20), self._options, [_CPU])
        return lambda x: np.asarray(run_session(session, ["y"], {"x": x, "ones": ones, "zeros": zeros})[0])

    def _style_session(self) -> Any:
        graph = self._bundle.graph_data("style_mlp", self._target, self.precision)
        return None if graph is None else open_session(self._ort, graph, self._options, [_CPU])

    def _style_params(self, code_1s: Codes) -> Array | None:
        if self._style_mlp is None:
            return None
        params: Array = run_session(self._style_mlp, ["style_params"], {"style": code_1s})[0]
        return params
