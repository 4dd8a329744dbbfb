"""GPUs on Windows through Windows ML, which downloads the providers of the GPU's maker and keeps them up to date."""

import functools
import platform
import sys
from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.providers.plugins import PluginBackend, describe_device, gpus_of, register
from dsmap.runtime.engines.store import log_line

_INSTALL = "pip install 'dsmap[windowsml]'"
_FOR_GPUS = ("NvTensorRTRTXExecutionProvider", "MIGraphXExecutionProvider", "OpenVINOExecutionProvider")
"""Those of Windows ML's providers that run float graphs on GPUs: of NVIDIA, AMD and Intel."""


class WindowsML(PluginBackend):
    """The first provider of Windows ML's catalogue that offers a GPU here; the catalogue is made for the machine."""

    name = "windowsml"
    provider = "Windows ML"
    where = "Windows ML"

    def _checked_onnxruntime(self) -> Any:
        if sys.platform != "win32":
            raise DsmapError(f"Windows ML is part of Windows, and this is {platform.system()}", "Use --backend cpu.")
        try:
            catalogue = _catalogue()
        except (ImportError, OSError) as error:
            raise DsmapError(f"windowsml cannot be imported ({error})", _INSTALL) from error
        ort = import_onnxruntime()
        self._device = find_device(ort, catalogue)
        return ort

    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        return {}

    def _device_name(self) -> str:
        maker = self._device.ep_name.removesuffix("ExecutionProvider")
        return f"{self.where} ({maker}) on {describe_device(self._device)}"


@functools.cache
def _catalogue() -> Any:
    """The one catalogue of this process: what it lists lives as long as it does."""
    from windowsml import EpCatalog

    return EpCatalog()


def find_device(ort: Any, catalogue: Any) -> Any:
    """A GPU of the first provider that has one. Raises DsmapError with what the catalogue offers and why not."""
    offered = {provider.name: provider for provider in catalogue.find_all_providers()}
    reasons = []
    for name in (known for known in _FOR_GPUS if known in offered):
        try:
            _make_ready(offered[name])
            register(ort, name, offered[name].library_path)
        except DsmapError as error:
            reasons.append(error.fact)
            continue
        if devices := gpus_of(ort, name):
            return devices[0]
        reasons.append(f"{name} offers no GPU")
    if not reasons:
        reasons.append(f"its catalogue has no provider for a GPU here; it has: {', '.join(offered) or 'none'}")
    raise DsmapError(f"Windows ML: {'; '.join(reasons)}", "Use --backend directml, which needs no such provider.")


def describe_catalogue() -> str:
    """The providers that Windows ML offers on this machine, and whether they are there. None is downloaded."""
    if sys.platform != "win32":
        raise DsmapError("Windows ML is part of Windows", "Use --backend cpu.")
    providers = _catalogue().find_all_providers()
    told = [f"{provider.name} ({provider.ready_state.name})" for provider in providers]
    return ", ".join(told) or "its catalogue is empty"


def _make_ready(provider: Any) -> None:
    """Waits until a provider is installed; a line says so where Windows has to fetch it first."""
    if provider.ready_state.name == "NotPresent":
        log_line(f"windowsml: Windows downloads {provider.name}, once")
    try:
        provider.ensure_ready()
    except OSError as error:
        raise DsmapError(f"{provider.name} is not ready: {error}", "Run Windows Update.") from error
    if not provider.library_path:
        raise DsmapError(f"{provider.name} is not ready: Windows does not say where it is", "Run Windows Update.")
