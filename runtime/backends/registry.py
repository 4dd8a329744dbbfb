"""The backends by name, and how one is loaded.

A named backend runs or raises with the reason; only `auto` chooses, and it says what it chose and why.
"""

import logging
from collections.abc import Callable

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.base import DEFAULT_SETTINGS, NO_GPU, Backend, BackendSettings, Choice, need_gpu
from dsmap.runtime.backends.comparison import REPORT
from dsmap.runtime.bundle.bundle import Bundle


def _tensorrt() -> type[Backend]:
    need_gpu()
    from dsmap.runtime.backends.tensorrt.backend import TensorRT

    return TensorRT


def _tensorrt_rtx() -> type[Backend]:
    from dsmap.runtime.engines.tensorrt_api import NOT_RTX

    refused = NOT_RTX.get(need_gpu())
    if refused:
        raise DsmapError(refused, "Use --backend tensorrt or cuda.")
    from dsmap.runtime.backends.tensorrt.backend import TensorRTRTX

    return TensorRTRTX


def _onnxruntime_cuda() -> type[Backend]:
    need_gpu()
    from dsmap.runtime.backends.onnxruntime_cuda import OnnxRuntimeCUDA

    return OnnxRuntimeCUDA


def _onnxruntime_cpu() -> type[Backend]:
    from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU

    return OnnxRuntimeCPU


def _openvino() -> type[Backend]:
    from dsmap.runtime.backends.openvino import OpenVINO

    return OpenVINO


def _openvino_gpu() -> type[Backend]:
    from dsmap.runtime.backends.openvino import OpenVINOGPU

    return OpenVINOGPU


def _coreml() -> type[Backend]:
    from dsmap.runtime.backends.providers.coreml import CoreML

    return CoreML


def _directml() -> type[Backend]:
    from dsmap.runtime.backends.providers.directml import DirectML

    return DirectML


def _windowsml() -> type[Backend]:
    from dsmap.runtime.backends.providers.windowsml import WindowsML

    return WindowsML


def _migraphx() -> type[Backend]:
    from dsmap.runtime.backends.providers.migraphx import MIGraphX

    return MIGraphX


def _webgpu() -> type[Backend]:
    from dsmap.runtime.backends.providers.webgpu import WebGPU

    return WebGPU


def _openvino_npu() -> type[Backend]:
    from dsmap.runtime.backends.providers.openvino_npu import OpenVINONPU

    return OpenVINONPU


def _torch() -> type[Backend]:
    from dsmap.runtime.backends.torch.importing import import_torch

    import_torch()
    from dsmap.runtime.backends.torch.backend import TorchBackend

    return TorchBackend


def _triton() -> type[Backend]:
    from dsmap.runtime.backends.triton.backend import TritonBackend

    return TritonBackend


_log = logging.getLogger("dsmap")
BACKENDS: dict[str, Callable[[], type[Backend]]] = {
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "cuda": _onnxruntime_cuda,
    "cpu": _onnxruntime_cpu,
    "openvino": _openvino,
    "openvino-gpu": _openvino_gpu,
    "openvino-npu": _openvino_npu,
    "coreml": _coreml,
    "directml": _directml,
    "windowsml": _windowsml,
    "migraphx": _migraphx,
    "webgpu": _webgpu,
    "torch": _torch,
    "triton": _triton,
}
"""By name, in the order `auto` tries them."""
UNTESTED = ("openvino-npu", "coreml", "directml", "windowsml", "migraphx", "webgpu")
"""Backends that have not run on the hardware they are for; each says so in its description."""
BY_NAME_ONLY = ("openvino", "openvino-gpu", *UNTESTED, "torch", "triton")
"""Backends that `auto` never takes: those of `UNTESTED` until somebody has tried them. Whether OpenVINO is faster than
`cpu` depends on the model, the precision and the CPU; `dsmap-bench model` measures it. `torch` takes seconds to import,
and compiles for half a minute on a GPU. `triton` needs a server; a model that is on one (`Bundle.only_backend`) takes
no other."""


def load_backend(name: str, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> Choice:
    """The backend called `name` with the graphs that translate to `target`.

    `auto` takes the first of `BACKENDS` that runs here, without those of `BY_NAME_ONLY`; its reason says why not the
    ones before it. Nothing is timed: the same machine always takes the same. Any other name runs or raises.

    Raises InputError for an unknown name, a precision that the bundle lacks, and a damaged bundle; DsmapError with the
    reason where the backend does not run, for `auto` with all reasons.
    """
    if settings.precision not in ("auto", *bundle.precisions):
        raise InputError(
            f"the model {bundle.manifest.name} has no {settings.precision} graphs; it has"
            f" {', '.join(bundle.precisions)}",
            _precision_advice(bundle, settings.precision),
        )
    if bundle.only_backend not in (None, name):
        if name != "auto":
            raise InputError(f"{bundle.manifest.name} is on a server, and the backend is {name}", "Leave it out.")
        name = str(bundle.only_backend)
    if settings.tile:
        return _tiled(name, bundle, target, settings)
    if name != "auto":
        if name not in BACKENDS:
            raise InputError(f"no backend named {name!r}", f"Known backends: auto, {', '.join(BACKENDS)}.")
        backend = _with_streams(BACKENDS[name](), settings)(bundle, target, settings)
        if backend.fault is not None:
            _log.warning("%s: %s. %s", name, backend.fault, REPORT)
        return Choice(backend, "as asked")
    refusals: list[tuple[str, DsmapError]] = []
    for candidate in (known for known in BACKENDS if known not in BY_NAME_ONLY):
        try:
            backend = _with_streams(BACKENDS[candidate](), settings)(bundle, target, settings)
        except InputError:  # of the bundle or the settings: another backend would refuse it too
            raise
        except DsmapError as error:
            refusals.append((candidate, error))
            continue
        if backend.fault is not None:
            backend.close()
            refusals.append((candidate, DsmapError(backend.fault, REPORT)))
            continue
        return Choice(backend, _describe(refusals) or "the first that runs here", _brief(backend, refusals))
    raise DsmapError(f"no backend runs here: {_describe(refusals)}", refusals[-1][1].advice)


def _tiled(name: str, bundle: Bundle, target: str, settings: BackendSettings) -> Choice:
    """The backend that translates frames in stripes. Raises InputError where another one is named."""
    if name not in ("auto", "cpu"):
        raise InputError(f"--tile is for the backend cpu, and the backend is {name}", "Leave one of them out.")
    if settings.streams is not None:
        raise InputError("--streams is for TensorRT, and --tile for the CPU", "Leave one of them out.")
    from dsmap.runtime.tiles.backend import StripedCPU

    backend = StripedCPU(bundle, target, settings)
    return Choice(backend, "--tile" if name == "auto" else "as asked", "auto: --tile" if name == "auto" else "")


def _with_streams(backend: type[Backend], settings: BackendSettings) -> type[Backend]:
    """`backend`, if it takes the number of streams that is asked for. Raises InputError."""
    if settings.streams is not None and not backend.takes_streams:
        raise InputError(
            f"--streams is for TensorRT, and the backend is {backend.name}", "Leave it out, or use --backend tensorrt."
        )
    return backend


def _precision_advice(bundle: Bundle, wanted: str) -> str:
    """Which precision to use instead of one that the bundle lacks; `export` makes some of them."""
    advice = f"Use --precision {' or '.join(bundle.precisions)}"
    return f"{advice}, or export the model with --{wanted}." if wanted in ("fp16", "int8") else f"{advice}."


def _brief(backend: Backend, refusals: list[tuple[str, DsmapError]]) -> str:
    """In few words; where there is a GPU that is not used, why."""
    if not refusals:
        return "auto"
    if all(error.fact == NO_GPU for _, error in refusals):
        return "auto: no NVIDIA GPU"
    name, error = refusals[-1]  # the easiest to have
    return f"auto: the GPU is not used, {name}: {error.fact}" if backend.on_host else "auto"


def _describe(refusals: list[tuple[str, DsmapError]]) -> str:
    """The refusals in one line; backends with the same reason stand together."""
    names: dict[str, list[str]] = {}
    for name, error in refusals:
        names.setdefault(error.fact, []).append(name)
    return "; ".join(f"{', '.join(of_fact)}: {fact}" for fact, of_fact in names.items())
