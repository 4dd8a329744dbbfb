"""What can be wrong before a Triton server is reached: the address, options, the client package, no server."""

import os
import socket
import subprocess
import sys

import pytest
import tritonserver
from commands import call
from tritonclient.utils import InferenceServerException

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator
from dsmap.runtime.backends.triton.address import parse_address
from dsmap.runtime.backends.triton.failures import explained
from dsmap.runtime.jobs.options import ModelOptions
from dsmap.tools import live, video


@pytest.mark.parametrize(
    ("text", "target", "tls"),
    [
        ("grpc://gpu-box:8001", "gpu-box:8001", False),
        ("grpcs://gpu-box.example:443/", "gpu-box.example:443", True),
        ("grpc://10.0.0.7", "10.0.0.7:8001", False),
        ("grpc://[::1]:9000", "[::1]:9000", False),
    ],
)
def test_addresses(text: str, target: str, tls: bool):
    address = parse_address(text)
    assert address == (target, tls)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("gpu-box:8001", "--remote gpu-box:8001 is not the address of a Triton server"),
        ("grpc://", "--remote grpc:// is not the address"),
        ("grpc://box:8001/v2/models", "is not the address"),
        ("grpc://box:port", "--remote is not a valid address"),
        ("grpc://box:0", "--remote grpc://box:0 has port 0"),
        ("grpc://box:80 01", "--remote is not a valid address"),
        ("grpc://bo x:8001", "is not a valid address"),
        ("grpc://[::1:8001", "--remote is not a valid address"),
        ("http://box:8000", "--remote http://box:8000 is an HTTP address"),
        ("rtsp://box:8001", "is not the address"),
    ],
)
def test_what_is_no_address(text: str, fact: str):
    with pytest.raises(InputError) as error:
        parse_address(text)
    assert fact in error.value.fact
    assert "grpc://HOST:8001" in error.value.advice


def test_a_password_is_refused_and_not_shown():
    with pytest.raises(InputError) as error:
        parse_address("grpc://me:hunter2@box:8001")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"backend": "cpu"}, {"precision": "fp16"}, {"cuda_binding": "pycuda"}, {"streams": 2}, {"trust_engines": True}],
)
def test_options_of_engines_here_are_refused(options: dict):
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(InputError, match=f"^--{name} is for a model that runs here, and with --remote the server"):
        ModelOptions(domain="winter", remote="grpc://box", **options)
    ModelOptions(domain="winter", remote="grpc://box", backend="triton")


def test_the_commands_refuse_them_too(tmp_path):
    (tmp_path / "in.mp4").write_bytes(b"")
    remote = ("--domain", "winter", "--remote", "grpc://127.0.0.1:1")
    code, _, errors = call(video, tmp_path / "in.mp4", *remote, "--precision", "fp16")
    assert (code, errors.splitlines()[0][:20]) == (2, "error: --precision i")
    code, _, errors = call(live, "--camera", tmp_path / "in.mp4", *remote, "--backend", "cpu")
    assert (code, errors.splitlines()[0][:20]) == (2, "error: --backend is ")


def test_a_folder_is_no_model_of_a_server(tmp_path):
    for model in (tmp_path, "./model", "models\\mine"):
        with pytest.raises(InputError, match="is not the name of a model on a server"):
            Translator.load(model, domain="winter", remote="grpc://127.0.0.1:1")


def test_no_server_at_the_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DsmapError) as error:
        Translator.load(domain="winter", remote=f"grpc://127.0.0.1:{port}")
    assert error.value.fact == f"no Triton server answers at grpc://127.0.0.1:{port}: Connection refused"
    assert "8001" in error.value.advice


def test_memory_of_tests_that_were_killed_is_freed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = [f"dsmap-test-of-{os.getpid()}-a-b", "dsmap-test-others", "mine"]
    for name in (*kept, f"dsmap-test-of-{ended.pid}-a-b"):
        (tmp_path / name).touch()
    tritonserver.sweep_shared_memory(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_the_backend_needs_a_server():
    with pytest.raises(InputError, match="the backend triton translates on a server, and none was named"):
        Translator.load(domain="winter", backend="triton")


def test_without_the_client_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(DsmapError) as error:
        Translator.load(domain="winter", remote="grpc://127.0.0.1:1")
    assert error.value.advice == "pip install 'dsmap[triton]'"


@pytest.mark.parametrize(
    ("status", "text", "kind", "fact", "advice"),
    [
        (
            "StatusCode.RESOURCE_EXHAUSTED",
            "Received message larger than max (6220848 vs. 4194304)",
            InputError,
            "proxy before it, does not take frames that large: Received message larger than max (6220848 vs. 4194304)",
            "Use a smaller --height",
        ),
        (
            "StatusCode.INTERNAL",
            "Stub process 'tiny_0_0' is not healthy.",
            DsmapError,
            "the process of the model tiny at grpc://box:8001 has ended: Stub process 'tiny_0_0' is not healthy.",
            "it may have run out of memory",
        ),
        (
            "StatusCode.INTERNAL",
            "Failed to increase the shared memory pool size for key 'x' to 67108864 bytes: No space left on device",
            DsmapError,
            "grpc://box:8001 has too little shared memory for frames of this size",
            "--shm-size",
        ),
        (
            "StatusCode.UNAVAILABLE",
            "Request for unknown model: 'tiny' is not found",
            DsmapError,
            "grpc://box:8001 does not serve tiny any more",
            "Load it there again.",
        ),
        ("StatusCode.UNAVAILABLE", "Server not ready", DsmapError, "at grpc://box:8001 was stopped", "Start it again."),
        ("StatusCode.INTERNAL", "a fact\nan advice", DsmapError, "a fact", "an advice"),
        ("StatusCode.INTERNAL", "a shm is not found\nan advice", DsmapError, "a shm is not found", "an advice"),
        ("StatusCode.INVALID_ARGUMENT", "no version\nstub process", InputError, "no version", "stub process"),
        ("StatusCode.INTERNAL", "", DsmapError, "the model tiny at grpc://box:8001 failed: without a reason", "log"),
        (None, "half a\x1b[31m message", DsmapError, "failed: half a\\x1b[31m message", "log"),
    ],
)
def test_what_servers_and_proxies_say(status, text, kind, fact, advice):
    told = explained(InferenceServerException(text, status=status), "grpc://box:8001", "tiny")
    assert type(told) is kind
    assert fact in told.fact
    assert advice in told.advice
