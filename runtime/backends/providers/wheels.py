"""Which wheel of ONNX Runtime brings which provider, and what to do where another one is installed.

All of them own the module `onnxruntime`: pip installs one over the other, and removing one then takes files of both.
"""

from typing import Any

from dsmap.errors import DsmapError

WHEELS = {
    "coreml": "onnxruntime",
    "directml": "onnxruntime-directml",
    "migraphx": "onnxruntime-migraphx",
    "webgpu": "onnxruntime",
    "windowsml": "onnxruntime-windowsml",
}
"""By the name of the backend and of the extra that installs it."""


def need_provider(ort: Any, provider: str, backend: str, title: str) -> None:
    """Raises DsmapError where the installed ONNX Runtime has no such provider: which is there, and what to install."""
    if provider not in ort.get_available_providers():
        raise missing_provider(backend, title)


def missing_provider(backend: str, title: str) -> DsmapError:
    """Names the wheels that are installed, and the commands that leave the right one."""
    from dsmap.runtime.doctor.engines import ONNXRUNTIME
    from dsmap.runtime.doctor.install import install, owners

    found = owners(ONNXRUNTIME, "onnxruntime")
    told = " and ".join(f"{package.name} {package.version}" for package in found) or "of unknown origin"
    names = tuple(package.name for package in found)
    if len(found) > 1:
        fact = f"the installed onnxruntime has no {title} provider: {told} are both installed, and own the same files"
    elif names == (WHEELS[backend],):
        return DsmapError(f"the installed {told} has no {title} provider", "Install a newer one.")
    else:
        fact = f"the installed onnxruntime has no {title} provider: it is {told}, and {WHEELS[backend]} has one"
    return DsmapError(fact, install(backend, without=names))
