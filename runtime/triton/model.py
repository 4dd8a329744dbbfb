"""A dsmap bundle, served by Triton's Python backend.

The server's Python must be able to import dsmap, with the backend it is to run on: pip install 'dsmap[cpu]'. The
parameters in config.pbtxt say which backend and precision; the bundle lies beside this file.
"""

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from dsmap.errors import DsmapError
    from dsmap.runtime.triton.requests import FrameRequest
    from dsmap.runtime.triton.serving import BundleServer


# Older servers (2.51, for one) are for NumPy 1. With NumPy 2 they hand over arrays without strides, and texts that
# cannot be decoded, which ends the process. The warm-up finds that out when the model is loaded.
_NUMPY = (
    f"this Triton server's Python backend is for NumPy 1, and its Python has NumPy {np.__version__}",
    "Run pip install 'numpy<2' in that Python, or use a newer server.",
)
_UNREADABLE = b"\0 unreadable"
_decode = pb_utils.deserialize_bytes_tensor


def _decode_texts(encoded: Any) -> Any:
    try:
        return _decode(encoded)
    except struct.error:
        return np.array([_UNREADABLE], np.object_)


pb_utils.deserialize_bytes_tensor = _decode_texts


class TritonPythonModel:
    """One instance of the model: Triton runs each in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads both directions of the bundle; a fact and an advice are in the server's log if that fails."""
        try:
            from dsmap.errors import DsmapError
            from dsmap.runtime.triton.requests import read_request
            from dsmap.runtime.triton.serving import load_served
        except ImportError as error:
            raise pb_utils.TritonModelException(
                f"the server's Python cannot import dsmap: {error}\n"
                "Install it there, pip install 'dsmap[cpu]', or start the server where it is installed."
            ) from error
        self._read, self._error = read_request, DsmapError
        try:
            self._model: BundleServer = load_served(args)
        except DsmapError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(self._model.description)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; what is wrong with one of them does not touch the others."""
        return [self._response(answer) for answer in self._model.answer([self._request(r) for r in requests])]

    def finalize(self) -> None:
        """Frees what the backend holds."""
        self._model.close()

    def _request(self, request: Any) -> "FrameRequest | DsmapError":
        flags = request.flags()
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if any(tensor.dtype == object and _UNREADABLE in tensor for tensor in tensors.values()):
            return self._error(*_NUMPY)
        try:
            return self._read(
                tensors,
                outputs=frozenset(request.requested_output_names()),
                sequence=request.correlation_id(),
                begins=bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
                ends=bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
                parameters=request.parameters(),
            )
        except self._error as error:
            return error

    def _response(self, answer: "dict[str, Any] | DsmapError") -> Any:
        if isinstance(answer, dict):
            outputs = [pb_utils.Tensor(name, value) for name, value in answer.items()]
            return pb_utils.InferenceResponse(outputs)
        kind = pb_utils.TritonError.INVALID_ARG if answer.exit_code == 2 else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer), kind))
