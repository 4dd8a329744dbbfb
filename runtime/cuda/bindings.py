"""Loads CUDA through one of two Python bindings.

    cuda = load_cuda("auto")           # cuda-python where it is installed, else PyCUDA
    stream, address = cuda.stream(), cuda.alloc(1 << 20)

Light: a binding is imported only by `load_cuda`.
"""

from collections.abc import Callable

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.cuda.base import Cuda

BINDINGS = ("cuda-python", "pycuda")
"""In the order `auto` tries them."""


def load_cuda(binding: str = "auto") -> Cuda:
    """The first GPU through a binding: cuda-python, pycuda, or for auto the first of them that works.

    Raises InputError for an unknown name, DsmapError with the reason where it does not work: for auto those of both.
    """
    if binding != "auto":
        if binding not in _LOADERS:
            raise InputError(f"no CUDA binding named {binding!r}", f"Known: auto, {', '.join(BINDINGS)}.")
        return _LOADERS[binding]()
    refusals = []
    for name in BINDINGS:
        try:
            return _LOADERS[name]()
        except DsmapError as error:
            refusals.append(error)
    raise DsmapError("; ".join(error.fact for error in refusals), refusals[0].advice)


def _cuda_python() -> Cuda:
    from dsmap.runtime.cuda.cuda_python import CudaPython

    return CudaPython()


def _pycuda() -> Cuda:
    from dsmap.runtime.cuda.pycuda import PyCuda

    return PyCuda()


_LOADERS: dict[str, Callable[[], Cuda]] = {"cuda-python": _cuda_python, "pycuda": _pycuda}
