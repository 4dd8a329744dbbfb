"""ONNX Runtime on the CPU, the backend that runs everywhere."""

import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from dsmap.runtime.backends.base import (
    DEFAULT_SETTINGS,
    Backend,
    BackendSettings,
    Codes,
    Frames,
    Pending,
    best_precision,
)
from dsmap.runtime.backends.concurrency import TranslationPool, threads_each
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime, open_session, session_options
from dsmap.runtime.backends.onnxruntime_session import run_session as _run
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.system.cpu import allowed_cores


class OnnxRuntimeCPU(Backend):
    """Sessions of the CPU provider; `threads` None uses the cores that this process may use."""

    name = "cpu"
    title = "CPU (ONNX Runtime)"

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        self._ort = import_onnxruntime()
        # Half is slower than float32 here: it is computed in float32, and cast back and forth.
        self.precision = best_precision(bundle, settings.precision, ("int8", "fp32"))
        self.description = f"ONNX Runtime {self._ort.__version__} on the CPU, {self.precision}"
        self._threads = settings.threads if settings.threads is not None else allowed_cores()
        self._pool = TranslationPool(settings.host_frames_at_once, self._translate)
        self.in_flight, self.concurrency = self._pool.in_flight, self._pool.concurrency
        if self.concurrency > 1:
            self._threads = threads_each(self._threads or os.cpu_count() or 1, self.concurrency)
        self._runs: set[Any] = set()  # options of the runs in flight: only through them can a run be cancelled
        self._lock = threading.Lock()
        self._bundle = bundle
        self._encoder = self._required("content_encoder", settings.source or bundle.source_of(target))
        self._mapping = self._optional("mapping", target)
        self._decoder = self._required("decoder", target)
        self._style_mlp = self._optional("style_mlp", target)
        # The last codes and what the MLP made of them.
        self._styled: tuple[Codes, npt.NDArray[np.float32]] | None = None
        self._target = target

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        return self._translate(frames_nhwc, style_ns, self._new_run())

    def _new_run(self) -> Any:
        """The options of one frame's run, made on submission: a frame that has not begun can be cancelled too."""
        run = self._ort.RunOptions()
        run.log_severity_level = 4
        with self._lock:
            self._runs.add(run)
        return run

    def _translate(self, frames_nhwc: Frames, style_ns: Codes, run: Any) -> Frames:
        try:
            return self._run_graphs(frames_nhwc, style_ns, run)
        finally:
            with self._lock:
                self._runs.discard(run)

    def _run_graphs(self, frames_nhwc: Frames, style_ns: Codes, run: Any) -> Frames:
        if self._mapping is None:
            (content,) = _run(self._encoder, ["content"], {"frames": frames_nhwc}, run)
        else:
            content, skip = _run(self._encoder, ["content", "skip"], {"frames": frames_nhwc}, run)
            (content,) = _run(self._mapping, ["mapped"], {"content": content, "skip": skip}, run)
        if self._style_mlp is None:
            return _run(self._decoder, ["frames"], {"mapped": content}, run)[0]
        styled = self._styled
        if styled is None or not np.array_equal(styled[0], style_ns):
            styled = style_ns.copy(), _run(self._style_mlp, ["style_params"], {"style": style_ns}, run)[0]
            self._styled = styled
        return _run(self._decoder, ["frames"], {"mapped": content, "style_params": styled[1]}, run)[0]

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        return self._pool.submit(frames_nhwc, style_ns, self._new_run())

    def cancel(self) -> None:
        self._pool.cancel()
        with self._lock:
            for run in self._runs:
                run.terminate = True
            self._runs.clear()

    def close(self) -> None:
        self._pool.close()

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Used once per style image, if at all: not kept.
        session = self._required("style_encoder", self._target)
        return np.array(_run(session, ["style"], {"frames": frames_nhwc})[0], np.float32)

    def _required(self, component: str, domain: str) -> Any:
        session = self._optional(component, domain)
        assert session is not None, "a bundle is read only if it has it"
        return session

    def _optional(self, component: str, domain: str) -> Any:
        """A session; None where the bundle has no such graph."""
        graph = self._bundle.graph_data(component, domain, self.precision)
        if graph is None:
            return None
        options = session_options(self._ort, self._threads)
        return open_session(self._ort, graph, options, ["CPUExecutionProvider"])
