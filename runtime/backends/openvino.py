"""OpenVINO on CPUs and on Intel GPUs; an optional extra."""

import functools
import queue
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import (
    DEFAULT_SETTINGS,
    Backend,
    BackendSettings,
    Codes,
    Frames,
    Pending,
    best_precision,
)
from dsmap.runtime.backends.concurrency import MAX_CONCURRENT, TranslationPool
from dsmap.runtime.bundle.bundle import Bundle, GraphData
from dsmap.runtime.system.cpu import allowed_cores

_EXPORT_AGAIN = "Export the bundle again."
_INSTALL = "pip install 'dsmap[openvino]'"
_TELEMETRY = "openvino_telemetry"


class _Requests(NamedTuple):
    """Inference requests of one frame's graphs; each keeps memory of its own."""

    encoder: Any
    mapping: Any
    decoder: Any
    style_mlp: Any


class OpenVINO(Backend):
    """Compiled graphs on OpenVINO's CPU plugin; `threads` None uses the cores that this process may use.

    The graphs keep their dynamic sizes: compiled for one size they are no faster.
    """

    name = "openvino"
    _device = "CPU"
    _preferred: tuple[str, ...] = ("int8", "fp32")

    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None:
        openvino = import_openvino()
        self._core = openvino_core()
        self.precision = best_precision(bundle, settings.precision, (*self._preferred, *bundle.precisions))
        self._options = self._find_options(settings)
        version = openvino.__version__.partition("-")[0]
        self.description = f"OpenVINO {version} on {self._device_name()}, {self.precision}"
        self.title = f"{self._device} (OpenVINO)"
        self._bundle, self._target = bundle, target
        self._pool = TranslationPool(settings.host_frames_at_once, self.translate)
        self.in_flight, self.concurrency = self._pool.in_flight, self._pool.concurrency
        encoder = self._required("content_encoder", settings.source or bundle.source_of(target))
        others = [self._optional("mapping", target), self._required("decoder", target)]
        compiled = [encoder, *others, self._optional("style_mlp", target)]
        self._free: queue.SimpleQueue[_Requests] = queue.SimpleQueue()
        for _ in range(self.concurrency):
            self._free.put(_Requests(*(None if graph is None else graph.create_infer_request() for graph in compiled)))
        # The last codes and what the MLP made of them.
        self._styled: tuple[Codes, npt.NDArray[np.float32]] | None = None

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        requests = self._free.get()
        try:
            return self._translate(requests, frames_nhwc, style_ns)
        finally:
            self._free.put(requests)

    def _translate(self, requests: _Requests, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        encoded = run_request(requests.encoder, frames=frames_nhwc)
        content = encoded["content"]
        if requests.mapping is not None:
            content = run_request(requests.mapping, content=content, skip=encoded["skip"])["mapped"]
        if requests.style_mlp is None:
            return np.array(run_request(requests.decoder, mapped=content)["frames"])
        styled = self._styled
        if styled is None or not np.array_equal(styled[0], style_ns):
            styled = style_ns.copy(), np.array(run_request(requests.style_mlp, style=style_ns)["style_params"])
            self._styled = styled
        return np.array(run_request(requests.decoder, mapped=content, style_params=styled[1])["frames"])

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        return self._pool.submit(frames_nhwc, style_ns)

    def cancel(self) -> None:
        self._pool.cancel()  # a running frame cannot be cancelled

    def close(self) -> None:
        self._pool.close()

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Used once per style image, if at all: not kept.
        request = self._required("style_encoder", self._target).create_infer_request()
        return np.array(run_request(request, frames=frames_nhwc)["style"], np.float32)

    def _find_options(self, settings: BackendSettings) -> dict[str, Any]:
        """Options that the graphs are compiled with."""
        # f32 explicitly: on some CPUs OpenVINO defaults to bfloat16, which is less exact, and slower without AMX.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        threads = settings.threads if settings.threads is not None else allowed_cores()
        if settings.host_frames_at_once > 1:
            options["NUM_STREAMS"] = min(settings.host_frames_at_once, MAX_CONCURRENT)
        return options if threads is None else {**options, "INFERENCE_NUM_THREADS": threads}

    def _device_name(self) -> str:
        return "the CPU"

    def _required(self, component: str, domain: str) -> Any:
        graph = self._optional(component, domain)
        assert graph is not None, "a bundle is read only if it has it"
        return graph

    def _optional(self, component: str, domain: str) -> Any:
        """A compiled graph; None when the bundle has no such graph."""
        graph = self._bundle.graph_data(component, domain, self.precision)
        return None if graph is None else self._compile(graph)

    def _compile(self, graph: GraphData) -> Any:
        """Compiles the bytes that were checked."""
        try:
            return self._core.compile_model(self._core.read_model(graph.data), self._device, self._options)
        except Exception as error:  # OpenVINO raises RuntimeError for nearly everything
            raise DsmapError(f"OpenVINO cannot load {graph.name}: {openvino_reason(error)}", _EXPORT_AGAIN) from error


class OpenVINOGPU(OpenVINO):
    """The same on an Intel GPU, integrated or not."""

    name = "openvino-gpu"
    _device = "GPU"
    # Not measured: no such GPU was at hand.
    _preferred = ("fp32",)

    def _find_options(self, settings: BackendSettings) -> dict[str, Any]:
        seen = self._core.available_devices
        if not any(device.partition(".")[0] == self._device for device in seen):
            raise DsmapError(
                f"OpenVINO sees no Intel GPU here; it sees: {', '.join(seen) or 'nothing'}",
                "Install the GPU's driver and Intel's OpenCL runtime, or use --backend openvino for the CPU.",
            )
        # f32 explicitly: GPUs default to half, in which the norms' variances overflow.
        return {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}

    def _device_name(self) -> str:
        return str(self._core.get_property(self._device, "FULL_DEVICE_NAME"))


def import_openvino() -> Any:
    """The module `openvino`. DsmapError says what to install when it cannot be imported.

    Importing it sends usage data to its makers unless the user has opted out; it does without where the package that
    sends them is not there, so it does not see that package here.
    """
    hidden = "openvino" not in sys.modules and _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise DsmapError(f"openvino cannot be imported ({error})", f"Install it: {_INSTALL}") from error
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
    if not hasattr(openvino, "Core"):  # a folder of that name, or what is left of another version
        raise DsmapError("the installed openvino is empty", f"Run pip uninstall openvino, then: {_INSTALL}")
    return openvino


@functools.cache
def openvino_core() -> Any:
    """The one Core of this process, which is never freed.

    Its CPU plugin puts signal handlers on a stack of its own, and takes that with it: with a second Core a signal after
    the end of the first (Ctrl-C, the end of a child process) has been seen to end the process.
    """
    return import_openvino().Core()


def run_request(request: Any, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The outputs by name, in memory that the request's next run writes over; what goes wrong becomes DsmapError."""
    try:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
    except Exception as error:  # as in _compile
        message = openvino_reason(error)
        no_memory = re.search(r"alloc|out of memory", message, re.IGNORECASE)
        advice = "Translate at a smaller size, with a smaller --height." if no_memory else _EXPORT_AGAIN
        raise DsmapError(f"OpenVINO stopped: {message}", advice) from error
    # By every name: where it converts types, OpenVINO gives an output that of the node before as well.
    return {name: array for output, array in results.items() for name in output.get_names()}


def openvino_reason(error: Exception) -> str:
    """The last line of OpenVINO's message: those before say where in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
