"""Pinned memory of the host for ONNX Runtime's CUDA provider, whose Python interface has none.

Copies from and to it run at the bus's full speed, and those of a session in its own stream. It is allocated by the CUDA
runtime that the provider has loaded.
"""

import ctypes
import logging
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

_log = logging.getLogger("dsmap")
_RUNTIMES = {
    "win32": ("cudart64_13.dll", "cudart64_12.dll"),
}.get(sys.platform, ("libcudart.so.13", "libcudart.so.12"))


class PinnedMemory:
    """uint8 arrays in pinned memory, or in ordinary memory without a CUDA runtime or where it refuses: see `pinned`."""

    def __init__(self) -> None:
        self._runtime = _loaded_runtime()
        self._addresses: list[int] = []

    @property
    def pinned(self) -> bool:
        """Whether arrays are in pinned memory: none has been refused since the last `free`."""
        return self._runtime is not None

    def array(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """An array with any content, until `free`."""
        size = int(np.prod(shape))
        pointer = ctypes.c_void_p()
        if self._runtime is not None and self._runtime.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), 0):
            self._runtime.cudaGetLastError()  # or ONNX Runtime's next call is told of it
            self._runtime = None
            _log.debug("the host's memory cannot be pinned: frames are copied more slowly until their size changes")
        if self._runtime is None or pointer.value is None:
            return np.empty(shape, np.uint8)
        self._addresses.append(pointer.value)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer.value)).reshape(shape)

    def free(self) -> None:
        """Frees every array: none may be used any more."""
        while self._addresses:
            self._free(self._addresses.pop())
        self._runtime = _loaded_runtime()

    def _free(self, address: int) -> None:
        if (runtime := _loaded_runtime()) is not None:
            runtime.cudaFreeHost(ctypes.c_void_p(address))


def _loaded_runtime() -> Any:
    """The CUDA runtime that is in this process already; None without one."""
    for name in _RUNTIMES:
        try:
            # Elsewhere, loading by name gives the one that is loaded.
            return ctypes.CDLL(name, mode=os.RTLD_NOW | getattr(os, "RTLD_NOLOAD", 0) if os.name != "nt" else 0)
        except OSError:
            continue
    return None
