"""Which device runs, what it is called, and whether torch.compile can work there."""

import importlib.util
import os
import shutil
import sys
from typing import Any

import torch
from torch import fx

from dsmap.common.cache_folder import private_folder
from dsmap.runtime.backends.torch.lanes import Translation
from dsmap.runtime.backends.torch.modules import copy_of
from dsmap.runtime.engines.tensorrt_api import current_architecture

CACHE = "torch-kernels"
"""Where compiled kernels are kept, in the user's cache: they are code, and torch's own choice is a folder in /tmp."""
_OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 128,
    "realize_reads_threshold": 12,
    "realize_acc_reads_threshold": 16,
}
"""How many steps and reads a value may take before it is written to memory rather than computed again: more than by
default, as large frames are bound by memory."""
_COMPILERS = ("cc", "gcc", "clang")
_NEEDED = (7, 0)  # compute capability, for Triton


def version() -> str:
    """Of torch, without its build: "2.13.0"."""
    return str(torch.__version__).partition("+")[0]


def find_device() -> torch.device:
    """An NVIDIA GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def name_of(device: torch.device) -> str:
    """What people call it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple's GPU (mps)" if device.type == "mps" else "the CPU"


def why_not_cuda(device: torch.device) -> str | None:
    """Why the NVIDIA GPU that is here does not run; None where it does, or there is none."""
    if device.type == "cuda" or current_architecture() is None:
        return None
    return "this torch is built without CUDA" if torch.version.cuda is None else "torch does not see the NVIDIA GPU"


def try_device() -> tuple[str, str | None]:
    """What would run here, after one addition there, and why an NVIDIA GPU would not. For the doctor."""
    device = find_device()
    assert float(torch.ones(2, device=device).sum()) == 2
    return f"torch {version()} on {name_of(device)}, {why_not_compiled(device) or 'compiled'}", why_not_cuda(device)


def why_not_compiled(device: torch.device) -> str | None:
    """Why torch.compile is not used on a device; None where it is."""
    if device.type != "cuda":
        return "eager"
    if importlib.util.find_spec("triton") is None:
        return "eager: Triton is not installed"
    if torch.cuda.get_device_capability(device) < _NEEDED:
        return "eager: Triton needs compute capability 7.0"
    own = os.environ.get("CC")
    if sys.platform != "win32" and not any(shutil.which(name) for name in ([own] if own else _COMPILERS)):
        return "eager: Triton needs a C compiler"
    return None


def compiled(module: fx.GraphModule) -> Translation:
    """`module`, which torch compiles for the size that it is first called with. Other sizes want another."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private_folder(CACHE))
    from torch._inductor import list_options

    options = {name: value for name, value in _OPTIONS.items() if name in list_options()}  # a later torch may drop one
    translation: Translation = torch.compile(copy_of(module), dynamic=False, fullgraph=True, options=options)
    return translation
