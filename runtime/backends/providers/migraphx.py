"""AMD's GPUs on Linux through MIGraphX, which is part of ROCm."""

import ctypes
import platform
import sys
from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.providers.fixed_size import FixedSizeBackend
from dsmap.runtime.backends.providers.wheels import need_provider

_LIBRARIES = ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_migraphx.so")


class MIGraphX(FixedSizeBackend):
    """MIGraphX's provider on the first GPU ($HIP_VISIBLE_DEVICES chooses another). Compiling a size takes minutes."""

    name = "migraphx"
    provider = "MIGraphXExecutionProvider"
    where = "MIGraphX"
    compiles = True

    def _checked_onnxruntime(self) -> Any:
        if sys.platform != "linux":
            raise DsmapError(
                f"MIGraphX is for Linux, and this is {platform.system()}", "Use --backend directml or cpu."
            )
        ort = import_onnxruntime()
        need_provider(ort, self.provider, self.name, self.where)
        if reason := missing_rocm(Path(ort.__file__).parent / "capi"):
            advice = "Install AMD's ROCm with MIGraphX, of the version that the wheel of onnxruntime-migraphx is for."
            raise DsmapError(f"ONNX Runtime cannot load its MIGraphX provider: {reason}", advice)
        return ort

    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        # The graph is in half precision where that is wanted: `migraphx_fp16_enable` would take the norms along.
        options: dict[str, Any] = {"device_id": 0}
        return options if folder is None else {**options, "migraphx_model_cache_dir": str(folder)}


def missing_rocm(folder: Path) -> str | None:
    """Why the provider in `folder` would not load: ONNX Runtime only writes that into its log, and takes the CPU."""
    try:
        for name in _LIBRARIES:
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return " ".join(str(error).split())[:200]
    return None
