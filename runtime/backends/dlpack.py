"""Planes of frames as DLPack tensors, by ctypes: read from those of a decoder, and lent to an encoder.

The structures are those of dlpack.h, https://dmlc.github.io/dlpack/latest/c_api.html.
"""

import ctypes
from typing import Any, NamedTuple

DEVICES = {"cpu": 1, "cuda": 2}
"""DLPack's numbers of the devices, by ONNX Runtime's names."""
_UNSIGNED = 1
_NAME = b"dltensor"


class Plane(NamedTuple):
    """Where a plane lies: rows of `pitch` values, padding included."""

    address: int
    pitch: int


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """DLTensor, with which a DLManagedTensor begins."""

    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("dtype", _Type),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64))  # fmt: skip


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_lent: dict[int, Any] = {}  # by the tensor's address, until its user deletes it: the tensor, and what it needs
_give_back = _Deleter(lambda address, lent=_lent: lent.pop(address, None))
# Users may outlive this module at the interpreter's exit: neither is ever freed.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_give_back))


def read_plane(capsule: Any) -> tuple[Plane, int]:
    """The plane of a capsule, and its device's number in `DEVICES`. The capsule stays unused: keep it."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _Tensor.from_address(get(capsule, _NAME))
    return Plane(tensor.data + tensor.byte_offset, tensor.strides[0]), tensor.device_type


def lend_plane(plane: Plane, shape: tuple[int, int], device: int, owner: Any) -> Any:
    """A capsule of a plane of uint8; `owner`, which has the memory, is kept until its user deletes the tensor.

    It must be used, by what takes DLPack: otherwise the owner is kept for ever.
    """
    sizes, strides = (ctypes.c_int64 * 2)(*shape), (ctypes.c_int64 * 2)(plane.pitch, 1)
    tensor = _Tensor(plane.address, device, 0, 2, _Type(_UNSIGNED, 8, 1), sizes, strides, 0)
    managed = _ManagedTensor(tensor, None, _give_back)
    address = ctypes.addressof(managed)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(address, _NAME, None)
    _lent[address] = managed, sizes, strides, owner
    return capsule
