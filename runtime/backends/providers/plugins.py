"""Providers that come as plugins: libraries of their own, which ONNX Runtime loads when it is told where they are."""

from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import one_line, open_session, quiet
from dsmap.runtime.backends.providers.fixed_size import FixedSizeBackend

_registered: set[str] = set()


class PluginBackend(FixedSizeBackend):
    """A provider on one device that its plugin offers; the constructor of a subclass's ONNX Runtime sets `_device`."""

    _device: Any

    def _open(self, graph: bytes, folder: Path | None) -> Any:
        options = self._session_options()
        texts = {name: str(value) for name, value in self._provider_options(folder).items()}
        options.add_provider_for_devices([self._device], texts)
        return open_session(self._ort, graph, options, [], in_options=self._device.ep_name)


def register(ort: Any, provider: str, library: str) -> None:
    """Loads a plugin, once in this process. Raises DsmapError with ONNX Runtime's reason."""
    if library in _registered:
        return
    if not hasattr(ort, "register_execution_provider_library"):
        raise DsmapError(f"ONNX Runtime {ort.__version__} takes no plugins", "pip install --upgrade onnxruntime")
    try:
        with quiet(ort):
            ort.register_execution_provider_library(provider, library)
    except Exception as error:  # ONNX Runtime's own exception types share no base but Exception
        raise DsmapError(
            f"ONNX Runtime cannot load the plugin {library}: {one_line(error)}", "Install it again."
        ) from error
    _registered.add(library)


def gpus_of(ort: Any, provider: str) -> list[Any]:
    """The GPUs that a plugin offers, without those that only stand for one while compiling."""
    of_provider = [device for device in ort.get_ep_devices() if device.ep_name == provider]
    gpu = ort.OrtHardwareDeviceType.GPU
    return [d for d in of_provider if d.device.type == gpu and d.device.metadata.get("is_virtual") != "1"]


def describe_device(device: Any) -> str:
    """The device's name, by what the system tells of it."""
    metadata = dict(device.device.metadata)
    return str(metadata.get("Description") or device.device.vendor or "a GPU").strip()
