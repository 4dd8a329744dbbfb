"""Checks of what runs on GPUs of other makers than NVIDIA, through execution providers of ONNX Runtime."""

import sys
from collections.abc import Callable

from dsmap.errors import DsmapError
from dsmap.runtime.doctor import Finding, absent, first_line, install, ok, warning
from dsmap.runtime.doctor.packages import numpy_first


def _coreml() -> str:
    from dsmap.runtime.backends.providers.coreml import CoreML

    return CoreML.find_device()


def _directml() -> str:
    from dsmap.runtime.backends.providers.directml import DirectML

    return DirectML.find_device()


def _migraphx() -> str:
    from dsmap.runtime.backends.providers.migraphx import MIGraphX

    return MIGraphX.find_device()


def _webgpu() -> str:
    from dsmap.runtime.backends.providers.webgpu import WebGPU

    return WebGPU.find_device()


def _windowsml() -> str:
    from dsmap.runtime.backends.providers.windowsml import describe_catalogue

    return describe_catalogue()


_FOUND: dict[str, tuple[str, Callable[[], str]]] = {
    "coreml": ("onnxruntime" if sys.platform == "darwin" else "", _coreml),
    "directml": ("onnxruntime-directml", _directml),
    "migraphx": ("onnxruntime-migraphx", _migraphx),
    "webgpu": ("onnxruntime-ep-webgpu", _webgpu),
    "windowsml": ("windowsml", _windowsml),
}
"""Backends with the package that brings each, empty where none could, and what tells on which device it would run."""


def check_other_gpus() -> Finding:
    """Which backends for other GPUs are installed, and the device that each sees. Nothing is downloaded or compiled."""
    here = {name: find for name, (package, find) in _FOUND.items() if package and install.installed(package)}
    if not here:
        return absent(
            "no package for GPUs of other makers than NVIDIA; --backend webgpu is for most of them",
            install.install("webgpu"),
        )
    seen, refused = {}, {}
    for name, find in here.items():
        try:
            seen[name] = find()
        except DsmapError as error:
            refused[name] = error
        except Exception as error:  # of a plugin's driver, whatever it likes
            if (finding := numpy_first()) is not None:
                return finding
            refused[name] = DsmapError(f"it fails: {first_line(error)}", install.install(name))
    told = [f"{name}: {device}" for name, device in seen.items()]
    told += [f"{name}: {error.fact}" for name, error in refused.items()]
    if refused:
        return warning("; ".join(told), next(iter(refused.values())).advice, devices=seen)
    return ok(f"{'; '.join(told)}; untested, compare with: dsmap-bench model", devices=seen)
