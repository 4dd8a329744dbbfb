"""A connection to a Triton server: what it serves, and requests that wait for their answers.

with TritonConnection(parse_address("grpc://gpu-box:8001")) as connection:
    parameters = connection.parameters_of("summer-winter")
    wait = connection.ask("summer-winter", {"frames": frames_nhwc, "domain": text("winter")}, "translated")
    translated = wait()
"""

import contextlib
import difflib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from dsmap.common.text import printable
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.triton.address import TritonAddress
from dsmap.runtime.backends.triton.failures import explained, no_answer, unreachable
from dsmap.runtime.triton.interface import BUNDLE_MANIFEST, is_stabilised

Tensor = npt.NDArray[Any]

CONNECT_SECONDS = 10.0
"""That questions about the server and its models may take."""
FRAME_SECONDS = 120.0
"""That a caller waits for one frame without an answer: the first of a size may build or load engines."""
_TYPES = {"uint8": "UINT8", "float32": "FP32", "object": "BYTES"}
_MAX_LISTED = 20


class ServedModel(NamedTuple):
    """A model in a server's repository."""

    name: str
    ready: bool
    reason: str
    """Why it is not ready, as far as the server says."""


class TritonConnection:
    """A gRPC channel to a server; `ask` may be called from any thread. Raises DsmapError without the client package."""

    def __init__(self, address: TritonAddress) -> None:
        self._grpc = import_client()
        self.address = address
        self._client = self._grpc.InferenceServerClient(address.target, ssl=address.tls)
        self._under_way: set[Any] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and what is under way on it."""
        self.cancel()
        self._client.close()

    def version(self) -> str:
        """The server's version. Raises DsmapError when no Triton server answers."""
        try:
            return printable(self._client.get_server_metadata(client_timeout=CONNECT_SECONDS).version)[:40]
        except self._failure() as error:
            if "UNAVAILABLE" in str(error.status()):
                raise unreachable(str(error.message()), str(self.address)) from None
            if "DEADLINE" in str(error.status()):
                fact = f"{self.address} did not answer within {CONNECT_SECONDS:g} s"
                raise DsmapError(fact, "Check the address and the network, and whether the server is busy.") from None
            fact = f"what answers at {self.address} is not a Triton server: {printable(str(error.message()))[:200]}"
            raise DsmapError(fact, "Check the address.") from None

    def parameters_of(self, model: str) -> dict[str, str]:
        """The parameters in the configuration of `model`.

        Raises InputError for a model that the server does not have, with those that it has; DsmapError for one that is
        not ready, with the server's reason.
        """
        self.version()  # first of all: whether there is a server
        found = self._models().get(model)
        if found is None:
            raise self._unknown(model)
        if not found.ready:
            reason = f": {found.reason}" if found.reason else ""
            raise DsmapError(
                f"the model {model} at {self.address} is not ready{reason}",
                "Wait until the server has loaded it, or look at the server's log.",
            )
        return self._parameters(model)

    def ask(
        self, model: str, inputs: Mapping[str, Tensor], output: str, parameters: Mapping[str, str] | None = None
    ) -> Callable[[], Tensor]:
        """Sends a request and returns what waits for its `output`; the inputs are copied.

        `inputs`: with a batch dimension, uint8, float32, or texts (see `text_tensor`). `parameters`: of the
        request. Waiting raises DsmapError.
        """
        tensors = [self._input(name, tensor) for name, tensor in inputs.items()]
        answer: Future[Any] = Future()

        def done(result: Any, error: Any) -> None:
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        try:
            outputs = [self._grpc.InferRequestedOutput(output)]
            call = self._client.async_infer(model, tensors, done, outputs=outputs, parameters=dict(parameters or {}))
        except self._failure() as error:
            raise explained(error, str(self.address), model) from None
        except ValueError:  # gRPC's, for a channel that was closed
            raise DsmapError("the connection to the server was closed", "Load the translator again.") from None
        with self._lock:
            self._under_way.add(call)
        return lambda: self._wait(model, call, answer, output)

    def cancel(self) -> None:
        """Cancels what is under way, from any thread."""
        with self._lock:
            calls = list(self._under_way)
        for call in calls:
            call.cancel()

    def _wait(self, model: str, call: Any, answer: "Future[Any]", output: str) -> Tensor:
        try:
            result = answer.result(FRAME_SECONDS)
        except NotInTime:
            call.cancel()
            raise no_answer(str(self.address), FRAME_SECONDS) from None
        except self._failure() as error:
            raise explained(error, str(self.address), model) from None
        finally:
            with self._lock:
                self._under_way.discard(call)
        tensor = result.as_numpy(output)
        if tensor is None:
            raise DsmapError(
                f"the model {model} at {self.address} gave no {output}", "Export it again with this version of dsmap."
            )
        return np.asarray(tensor)

    def _input(self, name: str, tensor: Tensor) -> Any:
        given = self._grpc.InferInput(name, list(tensor.shape), _TYPES[tensor.dtype.name])
        given.set_data_from_numpy(tensor)
        return given

    def _models(self) -> dict[str, ServedModel]:
        """The models in the server's repository, by name; of several versions one that is ready."""
        try:
            index = self._client.get_model_repository_index(client_timeout=CONNECT_SECONDS)
        except self._failure() as error:
            raise explained(error, str(self.address), "index") from None
        found: dict[str, ServedModel] = {}
        for model in index.models:
            if model.name not in found or model.state == "READY":
                found[model.name] = ServedModel(
                    model.name, model.state == "READY", printable(model.reason.strip().replace("\n", " "))[:300]
                )
        return found

    def _parameters(self, model: str) -> dict[str, str]:
        try:
            config = self._client.get_model_config(model, client_timeout=CONNECT_SECONDS).config
        except self._failure() as error:
            raise explained(error, str(self.address), model) from None
        return {key: value.string_value for key, value in config.parameters.items()}

    def _unknown(self, model: str) -> InputError:
        """For a model that the server does not have; it lists those of ours that it has."""
        ready = sorted(model.name for model in self._models().values() if model.ready)
        ours = []
        for name in ready[:_MAX_LISTED]:
            with contextlib.suppress(DsmapError):
                parameters = self._parameters(name)
                if BUNDLE_MANIFEST in parameters and not is_stabilised(parameters):
                    ours.append(printable(name))
        near = difflib.get_close_matches(model.lower(), ours, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        fact = f"{self.address} has no model {printable(model)[:200]}{meant}"
        if ours:
            return InputError(fact, f"It has {', '.join(ours)}: name one with --model.")
        others = f"; it has {', '.join(map(printable, ready[:_MAX_LISTED]))}, none of them ours" if ready else ""
        return InputError(f"{fact}{others}", "Put it there with dsmap-export --triton.")

    def _failure(self) -> Any:
        from tritonclient.utils import InferenceServerException

        return InferenceServerException


def text_tensor(text: str) -> Tensor:
    """A text as the input of a batch of one, shape (1, 1)."""
    return np.array([[text.encode()]], np.object_)


def import_client() -> Any:
    """The module `tritonclient.grpc`. Raises DsmapError where it is not installed."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would write its own lines about what we report
    try:
        import tritonclient.grpc
    except ImportError:
        raise DsmapError("tritonclient with gRPC is not installed", "pip install 'dsmap[triton]'") from None
    return tritonclient.grpc
