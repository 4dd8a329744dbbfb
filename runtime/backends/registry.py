"""The backends by name, and how one is loaded.

A named backend runs or raises with the reason; only `auto` chooses, and it says what it chose and why.
"""

from collections.abc import Callable

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.base import DEFAULT_SETTINGS, Backend, BackendSettings, Choice, need_gpu
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


BACKENDS: dict[str, Callable[[], type[Backend]]] = {
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "cuda": _onnxruntime_cuda,
    "cpu": _onnxruntime_cpu,
    "openvino": _openvino,
    "openvino-gpu": _openvino_gpu,
}
"""By name, in the order `auto` tries them."""
BY_NAME_ONLY = ("openvino", "openvino-gpu")
"""What `auto` passes over; openvino it may take in place of cpu, where that was measured to be faster."""


def load_backend(name: str, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> Choice:
    """The backend called `name` with the graphs that translate to `target`.

    `auto` takes the first of `BACKENDS` that runs and tells why not the others (in place of `cpu` the faster of it and
    openvino, see `choose_on_cpu`); any other name runs or raises. What is wrong with the input (InputError) ends it.
    """
    if settings.precision not in ("auto", *bundle.precisions):
        raise InputError(
            f"the model {bundle.manifest.name} has no {settings.precision} graphs; it has"
            f" {', '.join(bundle.precisions)}",
            "Take one of those, or export it with --fp16 or --int8.",
        )
    if name != "auto":
        if name not in BACKENDS:
            raise InputError(f"no backend named {name!r}", f"Known backends: auto, {', '.join(BACKENDS)}.")
        return Choice(BACKENDS[name]()(bundle, target, settings), "as asked")

    def load(candidate: str) -> Backend:
        return BACKENDS[candidate]()(bundle, target, settings)

    refusals: list[tuple[str, DsmapError]] = []
    for candidate in (known for known in BACKENDS if known not in BY_NAME_ONLY):
        try:
            choice = _cpu_choice(load, bundle, settings) if candidate == "cpu" else Choice(load(candidate), "")
        except InputError:  # a bundle that is damaged or worse: no other backend is to try it
            raise
        except DsmapError as error:
            refusals.append((candidate, error))
            continue
        return choice._replace(reason="; ".join(filter(None, [_why_not(refusals), choice.reason])) or "the first here")
    raise DsmapError(f"no backend runs here: {_why_not(refusals)}", refusals[-1][1].advice)


def _why_not(refusals: list[tuple[str, DsmapError]]) -> str:
    """What was refused, in one line; what several backends lack is told once."""
    names: dict[str, list[str]] = {}
    for name, error in refusals:
        names.setdefault(error.fact, []).append(name)
    return "; ".join(f"{', '.join(of_fact)}: {fact}" for fact, of_fact in names.items())


def _cpu_choice(load: Callable[[str], Backend], bundle: Bundle, settings: BackendSettings) -> Choice:
    from dsmap.runtime.cpu_contest import choose_on_cpu

    return choose_on_cpu(lambda: load("cpu"), lambda: load("openvino"), bundle, settings)
