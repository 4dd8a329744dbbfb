"""Apple's GPUs through Core ML, which onnxruntime's own wheel for macOS has."""

import platform
import sys
from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError
from dsmap.runtime.backends.onnxruntime_session import import_onnxruntime
from dsmap.runtime.backends.providers.fixed_size import FixedSizeBackend
from dsmap.runtime.backends.providers.wheels import need_provider


class CoreML(FixedSizeBackend):
    """Core ML's provider on the GPU. What it compiles for a size is kept in the cache."""

    name = "coreml"
    provider = "CoreMLExecutionProvider"
    where = "Core ML"
    compiles = True

    def _checked_onnxruntime(self) -> Any:
        if sys.platform != "darwin":
            raise DsmapError(f"Core ML is part of macOS, and this is {platform.system()}", "Use --backend cpu.")
        ort = import_onnxruntime()
        need_provider(ort, self.provider, self.name, self.where)
        return ort

    def _provider_options(self, folder: Path | None) -> dict[str, Any]:
        options = {
            "ModelFormat": "MLProgram",  # the other one has no norms, and no reflected borders
            # Not the Neural Engine: it computes in half precision alone, in which the norms' variances overflow.
            "MLComputeUnits": "CPUAndGPU",
            "RequireStaticInputShapes": "1",
        }
        return options if folder is None else {**options, "ModelCacheDirectory": str(folder)}
