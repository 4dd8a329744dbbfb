"""GPUs of every maker on Windows through DirectML (Direct3D 12)."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.providers.fixed_size import FixedSizeBackend
from dsmap.runtime.backends.providers.wheels import need_provider

DEVICE = "DSMAP_DIRECTML_DEVICE"
"""The number of a GPU, in Windows' order; without it, the fastest one by Windows' account."""


class DirectML(FixedSizeBackend):
    """DirectML's provider. It runs nodes one after the other, without a plan of the memory: see `_session_options`."""

    name = "directml"
    provider = "DmlExecutionProvider"
    where = "DirectML"
    _device: int | None = None

    def _checked_onnxruntime(self) -> Any:
        if sys.platform != "win32":
            raise DsmapError(f"DirectML is part of Windows, and this is {platform.system()}", "Use --backend cpu.")
        self._device = directml_device()
        ort = import_onnxruntime()
        need_provider(ort, self.provider, self.name, self.where)
        return ort

    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        if self._device is not None:
            return {"device_id": self._device}
        return {"performance_preference": "high_performance", "device_filter": "gpu"}

    def _device_name(self) -> str:
        return self.where if self._device is None else f"{self.where}, GPU {self._device}"


def directml_device() -> int | None:
    """The GPU that $DSMAP_DIRECTML_DEVICE names; None without it. Raises InputError for what is no number."""
    wanted = os.environ.get(DEVICE, "")
    if wanted and not (wanted.isascii() and wanted.isdigit()):
        raise InputError(f"${DEVICE} is {wanted!r}, and not the number of a GPU", "The first one is 0.")
    return int(wanted) if wanted else None
