"""GPUs of every maker through WebGPU: Vulkan on Linux, Direct3D 12 on Windows, Metal on macOS."""

from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.providers.plugins import PluginBackend, describe_device, gpus_of, register

_INSTALL = "pip install 'dsmap[webgpu]'"


class WebGPU(PluginBackend):
    """The WebGPU plugin on the GPU that it chooses. Nothing is compiled ahead: shaders are, at a size's first frame."""

    name = "webgpu"
    provider = "WebGpuExecutionProvider"
    where = "WebGPU"

    def _checked_onnxruntime(self) -> Any:
        try:
            import onnxruntime_ep_webgpu as plugin
        except ImportError as error:
            raise DsmapError(f"onnxruntime_ep_webgpu cannot be imported ({error})", _INSTALL) from error
        ort = import_onnxruntime()
        register(ort, self.provider, plugin.get_library_path())
        devices = gpus_of(ort, self.provider)
        if not devices:
            raise DsmapError(
                "WebGPU sees no GPU here",
                "Install the GPU's driver, and on Linux the Vulkan loader (libvulkan1), or use --backend cpu.",
            )
        self._device = devices[0]
        return ort

    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        return {}

    def _device_name(self) -> str:
        return f"{self.where} on {describe_device(self._device)}"
