"""A bundle in a real Triton Inference Server, asked by NVIDIA's own client."""

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from tritonserver import client_of

from dsmap.runtime import Translator

SHAPE = (48, 64, 3)


@pytest.fixture(scope="module")
def client(triton_server):
    with client_of(triton_server) as client:
        yield client


@pytest.fixture(scope="module")
def translator(tiny_bundle):
    with Translator.load(tiny_bundle, domain="winter", backend="cpu") as translator:
        yield translator


def frames_of(seed, n=1, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def tensors_of(frames, **others):
    """The inputs of a request: texts, arrays, or one value for all frames."""
    inputs = []
    for name, value in {"frames": frames, "domain": "winter", **others}.items():
        if isinstance(value, str | bytes):
            value = np.full((len(frames), 1), value.encode() if isinstance(value, str) else value, object)
        kind = {"O": "BYTES", "u": "UINT8", "f": "FP32"}[value.dtype.kind]
        tensor = tritonclient.grpc.InferInput(name, list(value.shape), kind)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


def ask(client, frames, model="tiny", sequence=None, **others):
    """The translated frames."""
    return client.infer(model, tensors_of(frames, **others), **(sequence or {})).as_numpy("translated")


def test_frames_are_those_of_a_translator(client, translator):
    frames = frames_of(0, n=3)
    assert np.array_equal(ask(client, frames), [translator(frame) for frame in frames])


@pytest.mark.parametrize("style", ["mean", "7", "seed:8", ""])
def test_styles_by_name(client, translator, style):
    frame = frames_of(1)
    code = translator.find_style(style or None)
    assert np.array_equal(ask(client, frame, style=style)[0], translator.submit(frame[0], code)())


def test_unknown_names_are_refused_in_two_lines(client):
    with pytest.raises(InferenceServerException) as refused:
        ask(client, frames_of(2), domain="autumn")
    assert refused.value.message() == "the model tiny has no domain 'autumn'\nSend summer or winter."
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
