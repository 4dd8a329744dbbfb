"""OpenVINO: a second engine for CPUs, and the way to Intel's GPUs. An optional extra."""

import functools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends import Backend, Codes, Frames, best_precision
from dsmap.runtime.bundle import Bundle
from dsmap.runtime.cpu import allowed_cores

_EXPORT_AGAIN = "Export the bundle again."
_INSTALL = "in dsmap's source folder: pip install '.[openvino]'"
_TELEMETRY = "openvino_telemetry"


class OpenVINO(Backend):
    """Compiled graphs on OpenVINO's CPU plugin; `threads` None uses the cores that this process may use.

    The graphs keep their dynamic sizes: compiled for one size they are no faster.
    """

    name = "openvino"
    _device = "CPU"
    _preferred: tuple[str, ...] = ("int8", "fp32")

    def __init__(self, bundle: Bundle, target: str, threads: int | None = None, precision: str = "auto") -> None:
        openvino = import_openvino()
        self._core = _core()
        self.precision = best_precision(bundle, precision, (*self._preferred, *bundle.precisions))
        self._options = self._find_options(threads)
        version = openvino.__version__.partition("-")[0]
        self.description = f"OpenVINO {version} on {self._device_name()}, {self.precision}"
        self._bundle, self._target = bundle, target
        self._encoder = self._required("content_encoder", bundle.source_of(target))
        self._mapping = self._optional("mapping", target)
        self._decoder = self._required("decoder", target)
        self._style_mlp = self._optional("style_mlp", target)
        # The last codes and what the MLP made of them.
        self._styled: tuple[Codes, npt.NDArray[np.float32]] | None = None

    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        encoded = _run(self._encoder, frames=frames_nhwc)
        content = encoded["content"]
        if self._mapping is not None:
            content = _run(self._mapping, content=content, skip=encoded["skip"])["mapped"]
        if self._style_mlp is None:  # format 1
            return np.array(_run(self._decoder, mapped=content, style=style_ns)["frames"])
        if self._styled is None or not np.array_equal(self._styled[0], style_ns):
            self._styled = style_ns.copy(), np.array(_run(self._style_mlp, style=style_ns)["style_params"])
        return np.array(_run(self._decoder, mapped=content, style_params=self._styled[1])["frames"])

    def encode_style(self, frames_nhwc: Frames) -> Codes:
        # Needed once per style picture, if at all: not kept.
        return np.array(_run(self._required("style_encoder", self._target), frames=frames_nhwc)["style"], np.float32)

    def _find_options(self, threads: int | None) -> dict[str, Any]:
        """What the graphs are compiled with."""
        # f32 by name: on some CPUs OpenVINO takes bfloat16 by itself, which is less exact, and slower without AMX.
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        threads = threads if threads is not None else allowed_cores()
        return options if threads is None else {**options, "INFERENCE_NUM_THREADS": threads}

    def _device_name(self) -> str:
        return "the CPU"

    def _required(self, component: str, domain: str) -> Any:
        request = self._optional(component, domain)
        assert request is not None, "a bundle is read only if it has it"
        return request

    def _optional(self, component: str, domain: str) -> Any:
        """An inference request of a graph; None when the bundle has no such graph."""
        path = self._bundle.graph(component, domain, self.precision)
        return None if path is None else self._compile(path)

    def _compile(self, path: Path) -> Any:
        try:
            return self._core.compile_model(str(path), self._device, self._options).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError for nearly everything
            raise DsmapError(f"OpenVINO cannot load {path}: {_reason(error)}", _EXPORT_AGAIN) from error


class OpenVINOGPU(OpenVINO):
    """The same on an Intel GPU, integrated or not."""

    name = "openvino-gpu"
    _device = "GPU"
    # Not measured: no such GPU was at hand.
    _preferred = ("fp32",)

    def _find_options(self, threads: int | None) -> dict[str, Any]:
        seen = self._core.available_devices
        if not any(device.partition(".")[0] == self._device for device in seen):
            raise DsmapError(
                f"OpenVINO sees no Intel GPU here; it sees: {', '.join(seen) or 'nothing'}",
                "Install the GPU's driver and Intel's OpenCL runtime, or use --backend openvino for the CPU.",
            )
        # f32 by name: GPUs would take half, in which the norms' variances overflow. `threads` are of CPUs.
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
        raise DsmapError(f"openvino cannot be imported ({error})", f"Install it, {_INSTALL}") from error
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
    if not hasattr(openvino, "Core"):  # a folder of that name, or what is left of another version
        raise DsmapError("the installed openvino is empty", f"Run pip uninstall openvino, then, {_INSTALL}")
    return openvino


@functools.cache
def _core() -> Any:
    """The one Core of this process, never thrown away.

    Its CPU plugin puts signal handlers on a stack of its own, and takes that with it: with a second Core a signal after
    the end of the first (Ctrl-C, the end of a child process) has been seen to end the process.
    """
    return import_openvino().Core()


def _run(request: Any, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The outputs by name, in memory that the request's next run writes over; what goes wrong becomes DsmapError."""
    try:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
    except Exception as error:  # as in _compile
        message = _reason(error)
        no_memory = re.search(r"alloc|out of memory", message, re.IGNORECASE)
        advice = "Translate at a smaller size, with a smaller --height." if no_memory else _EXPORT_AGAIN
        raise DsmapError(f"OpenVINO stopped: {message}", advice) from error
    return {output.any_name: array for output, array in results.items()}


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message: those before say where in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
