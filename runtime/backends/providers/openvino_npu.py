"""Intel's NPUs through OpenVINO, which compiles for them only graphs without open sizes."""

from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import EXPORT_AGAIN, import_onnxruntime
from dsmap.runtime.backends.openvino import import_openvino, openvino_core, openvino_reason, run_request
from dsmap.runtime.backends.providers.fixed_size import FixedSizeBackend


class OpenVINONPU(FixedSizeBackend):
    """OpenVINO's NPU plugin, in half precision, which is all that NPUs compute in."""

    name = "openvino-npu"
    provider = "NPU"
    where = "OpenVINO"
    compiles = True

    def _checked_onnxruntime(self) -> Any:
        openvino = import_openvino()
        self._openvino_version = openvino.__version__.partition("-")[0]
        seen = openvino_core().available_devices
        if not any(device.partition(".")[0] == self.provider for device in seen):
            raise DsmapError(
                f"OpenVINO sees no Intel NPU here; it sees: {', '.join(seen) or 'nothing'}",
                "Install the NPU's driver, or use --backend openvino for the CPU.",
            )
        return import_onnxruntime()  # of the check, and of styles

    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        options = {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}
        return options if folder is None else {**options, "CACHE_DIR": str(folder)}

    def _device_name(self) -> str:
        name = str(openvino_core().get_property(self.provider, "FULL_DEVICE_NAME"))
        return f"{name} in half precision"  # float32 graphs too

    def _runtime_name(self) -> str:
        return f"OpenVINO {self._openvino_version}"

    def _open(self, graph: bytes, folder: Path | None) -> Any:
        core = openvino_core()
        try:
            compiled = core.compile_model(core.read_model(graph), self.provider, self._provider_options(folder))
        except Exception as error:  # OpenVINO raises RuntimeError for nearly everything
            raise DsmapError(f"OpenVINO cannot load the graph: {openvino_reason(error)}", EXPORT_AGAIN) from error
        return _CompiledSession(compiled.create_infer_request(), self.provider)


class _CompiledSession:
    """A compiled graph with the methods of ONNX Runtime's sessions that are used."""

    def __init__(self, request: Any, device: str) -> None:
        self._request, self._device = request, device

    def run(self, outputs: list[str], inputs: dict[str, Any], _options: Any = None) -> list[Any]:
        found = run_request(self._request, **inputs)
        return [found[name].copy() for name in outputs]

    def get_providers(self) -> list[str]:
        return [self._device]
