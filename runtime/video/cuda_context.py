"""The primary context of the first GPU, in which ONNX Runtime works and decoders leave frames for it."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dsmap.errors import DsmapError

CURRENT_CONTEXT: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
"""FFmpeg's options for the context that is current: as such it takes the primary one. Under that name it refuses it
once it is active with other flags than FFmpeg's own, as ONNX Runtime makes it."""
_NO_CONTEXT = "the GPU's primary context cannot be used"
_ADVICE = "Leave out --hwaccel."


@contextmanager
def primary_context() -> Iterator[Any]:
    """The driver's library, with the primary context current in this thread; its flags stay as they are.

    Raises DsmapError where that cannot be.
    """
    library, context = _driver()
    _check(library.cuCtxPushCurrent_v2(context), _NO_CONTEXT)
    try:
        yield library
    finally:
        library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def synchronise() -> None:
    """Waits for the default stream, in which FFmpeg copies frames: ONNX Runtime's streams do not wait for it."""
    with primary_context() as library:
        _check(library.cuStreamSynchronize(None), "the GPU's decoder failed")


@cache
def _driver() -> tuple[Any, ctypes.c_void_p]:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        device, context = ctypes.c_int(), ctypes.c_void_p()
        _check(library.cuInit(0), _NO_CONTEXT)
        _check(library.cuDeviceGet(ctypes.byref(device), 0), _NO_CONTEXT)
        _check(library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), _NO_CONTEXT)
        return library, context
    raise DsmapError("the NVIDIA driver's library cannot be loaded", _ADVICE)


def _check(error: int, fact: str) -> None:
    if error:
        raise DsmapError(f"{fact} (CUDA error {error})", _ADVICE)
