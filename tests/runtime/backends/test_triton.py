"""The backend `triton` with a real server: what comes back is what this machine's own backend gives, bit by bit."""

import datetime
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonserver
from clips import make_clip, read
from commands import call
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsmap.errors import DsmapError, InputError
from dsmap.export.triton import TritonRequest, write_triton_models
from dsmap.runtime import Translator, translate_videos
from dsmap.runtime.backends.triton import connection
from dsmap.runtime.backends.triton.remote_bundle import open_remote
from dsmap.runtime.jobs.batch_report import JobProgress
from dsmap.runtime.jobs.options import StyleOptions
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.tools import live, video

MODEL = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        {initialize}
    def execute(self, requests):
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""
CONFIG = """
backend: "python" max_batch_size: 1
input [ {{ name: "x" data_type: TYPE_UINT8 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_UINT8 dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{parameters}
"""


def add_model(repository: Path, name: str, initialize: str = "pass", **parameters: str) -> None:
    """A model that is none of ours, or says it is another one."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(MODEL.format(initialize=initialize))
    lines = [f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in parameters.items()]
    (folder / "config.pbtxt").write_text(CONFIG.format(parameters="\n".join(lines)))


@pytest.fixture(scope="module")
def server(triton_server):
    return triton_server


@pytest.fixture
def remote(server) -> str:
    """The address of a server that runs."""
    if server.process.poll() is not None:
        server.start()
    return f"grpc://{server.address}"


@pytest.fixture(scope="module")
def local(tiny_bundle):
    with Translator.load(tiny_bundle, domain="winter", backend="cpu") as translator:
        yield translator


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "in.mp4", frames=24, size=(64, 48), audio=("aac",))


def frames_of(seed: int, *shape: int):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def loaded(remote: str, **options) -> Translator:
    return Translator.load("tiny", domain="winter", remote=remote, **options)


def test_frames_of_any_size_and_batches(remote, local):
    with loaded(remote) as there:
        for shape in ((64, 48, 3), (37, 91, 3), (5, 20, 30, 3)):
            frames = frames_of(0, *shape)
            got = there(frames)
            assert np.array_equal(got, local(frames))
            assert got.flags.writeable
        assert (there.backend_name, there.source, there.domains) == ("triton", "summer", local.domains)
        assert there.backend_description.endswith(remote)


def test_styles_strength_and_reconstruction(remote, local):
    frame, image, strip = frames_of(1, 40, 56, 3), frames_of(2, 90, 70, 3), frames_of(3, 39, 130, 3)
    with loaded(remote) as there:
        for style in ("seed:4", None, image, strip):
            code = there.find_style(style)
            assert np.array_equal(code, local.find_style(style))
            assert np.array_equal(there.submit(frame, code)(), local.submit(frame, code)())
    for strength in (0.0, 0.4):
        with StrengthTranslator(loaded(remote), strength) as there:
            assert np.array_equal(there(frame), StrengthTranslator(local, strength)(frame))


def test_several_under_way_come_back_in_order(remote, local):
    frames = [frames_of(i, 24, 32, 3) for i in range(30)]
    with loaded(remote, frames_at_once=64) as there:
        assert there.in_flight == 8
        waits, got = [], []
        for frame in frames:
            waits.append(there.submit(frame))
            if len(waits) == there.in_flight:
                got.append(waits.pop(0)())
        got += [wait() for wait in waits]
    assert all(np.array_equal(one, local(frame)) for one, frame in zip(got, frames, strict=True))


def test_the_command_needs_no_engine_and_no_files(remote, clip, tiny_bundle, tmp_path):
    """On a machine without ONNX Runtime: everything that a video can be asked for, and its sound."""
    options = ["--domain", "winter", "--codec", "lossless", "--strength", "0.7", "--stabilize", "--side-by-side"]
    options += ["--style-from", "seed:1", "--style-to", "seed:2"]
    code = "import sys; sys.modules['onnxruntime'] = None; from dsmap.tools.video import main; main()"
    arguments = [str(clip), *options, "--model", "tiny", "--remote", remote, "-o", str(tmp_path / "there.mkv")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Triton 2." in done.stdout
    here = (str(clip), *options, "--model", tiny_bundle, "--backend", "cpu", "-o", tmp_path / "here.mkv")
    assert call(video, *here)[0] == 0
    got, expected = read(tmp_path / "there.mkv"), read(tmp_path / "here.mkv")
    assert len(got.frames) == 24
    assert np.array_equal(got.frames, expected.frames)
    assert (got.times, got.audio) == (expected.times, expected.audio)
    assert got.audio[0]


def test_a_camera(remote, clip, tmp_path):
    report = tmp_path / "report.json"
    arguments = ("--camera", clip, "--domain", "winter", "--model", "tiny", "--remote", remote, "--no-window")
    code, _, errors = call(live, *arguments, "--frames", 5, "--report", report)
    assert code == 0, errors
    told = json.loads(report.read_text())
    assert (told["backend"], told["frames_displayed"]) == ("triton", 5)


def assert_soon(translator: Translator, fact: str) -> None:
    """The server looks for new models every second."""

    def translate_on() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            translator(frames_of(0, 24, 32, 3))
            time.sleep(0.1)

    with pytest.raises(DsmapError) as error:
        translate_on()
    assert error.value.fact == fact


def test_a_server_that_dies_in_the_middle(server, remote, clip, tmp_path, tiny_bundle):
    another = shutil.copytree(tiny_bundle, tmp_path / "another")
    told = json.loads((another / "bundle.json").read_text())
    (another / "bundle.json").write_text(json.dumps(told | {"card": "another"}))
    output = tmp_path / "out.mkv"
    options = {"domain": "winter", "style": StyleOptions(seed=3), "codec": "lossless"}

    def kill(event) -> None:
        if isinstance(event, JobProgress) and event.done == 6:
            server.kill()

    with pytest.raises(DsmapError) as error:
        translate_videos(clip, output, model="tiny", remote=remote, on_event=kill, **options)
    assert error.value.fact.startswith(f"the Triton server at {remote} was lost: ")
    assert "run the same command with --resume to continue" in error.value.advice
    assert not output.exists()

    with pytest.raises(DsmapError, match="no Triton server answers"):
        translate_videos(clip, output, model="tiny", remote=remote, resume=True, **options)
    write_triton_models(TritonRequest(bundle=another, repository=server.repository, name="tiny", overwrite=True))
    server.start()
    with pytest.raises(InputError, match=r"model was [0-9a-f]+"):  # other frames would not fit
        translate_videos(clip, output, model="tiny", remote=remote, resume=True, **options)
    with loaded(remote) as there:
        write_triton_models(TritonRequest(bundle=tiny_bundle, repository=server.repository, overwrite=True))
        assert_soon(there, "the bundle tiny on the server is not the one that this client began with")
    report = translate_videos(clip, output, model="tiny", remote=remote, resume=True, **options)
    assert report.outcomes[0].report.resumed_frames >= 6
    translate_videos(clip, tmp_path / "here.mkv", model=tiny_bundle, backend="cpu", **options)
    got, expected = read(output), read(tmp_path / "here.mkv")
    assert np.array_equal(got.frames, expected.frames)
    assert (got.times, got.audio) == (expected.times, expected.audio)


def test_a_model_of_a_server_can_be_passed_to_other_processes(remote):
    bundle = pickle.loads(pickle.dumps(open_remote(remote, "tiny")))
    assert len(bundle.fingerprint) == 64
    with Translator.load(bundle, domain="summer") as there:
        assert (there.source, there.target) == ("winter", "summer")


@pytest.fixture(scope="module")
def odd_models(server):
    """Models that the backend cannot use, beside the others; only until the server starts again: one is broken."""
    for name, details in {
        "others": {},
        "later": {"dsmap_format": "3"},
        "earlier": {"dsmap_format": "1"},
        "a-part": {"dsmap_format": "2"},
        "broken": {"initialize": "raise ValueError('its weights are gone')"},
    }.items():
        add_model(server.repository, name, **details)


@pytest.mark.parametrize(
    ("model", "fact", "advice"),
    [
        ("tinny", "has no model tinny; did you mean tiny?", "It has tiny: name one with --model."),
        (
            "tiny-stabilised",
            "the model tiny-stabilised at {} is for clients that send",
            "Pass --model tiny with --stab",
        ),
        ("others", "the model others at {} was not made by dsmap-export --triton", "Pass another --model."),
        ("later", "the model later at {} has bundle format 3; this dsmap reads format 2", "Update dsmap here."),
        ("earlier", "has bundle format 1; this dsmap reads format 2", "Export it for the server again"),
        ("a-part", "the model a-part at {} is for clients of other kinds", "for the Python backend"),
        ("broken", "the model broken at {} is not ready: ", "look at the server's log"),
    ],
)
def test_models_that_do_not_serve(odd_models, remote, model, fact, advice):
    until = time.monotonic() + 120
    while True:  # the server looks for new models every second
        with pytest.raises(DsmapError) as error:
            Translator.load(model, domain="winter", remote=remote)
        if fact.format(remote) in error.value.fact or time.monotonic() > until:
            break
        time.sleep(0.2)
    assert fact.format(remote) in error.value.fact
    assert advice in error.value.advice


def test_names_are_checked_before_anything_runs(remote, clip, tmp_path):
    common = ("--model", "tiny", "--remote", remote, "-o", tmp_path / "out.mp4")
    code, _, errors = call(video, clip, "--domain", "spring", *common)
    assert (code, errors.splitlines()[0]) == (2, "error: the model tiny has no domain 'spring'")
    code, _, errors = call(video, clip, "--domain", "winter", "--style", "no-such", *common)
    assert code == 2
    assert "tiny has no style no-such for winter" in errors


def test_frames_beyond_the_limit_of_the_server(remote):
    frame = np.zeros((3200, 5600, 3), np.uint8)
    with loaded(remote) as there, pytest.raises(InputError) as error:
        there(frame)
    assert error.value.fact.startswith("a frame of 5600x3200 has 17.9")


def hang(process: int) -> None:
    """Stops all threads of a process; a busy machine takes a moment for it."""
    os.kill(process, signal.SIGSTOP)
    tasks = list(Path(f"/proc/{process}/task").iterdir())
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks):
            return
        time.sleep(0.01)
    pytest.fail("the server has not stopped")


def test_a_server_that_hangs_and_cancelling(server, remote, monkeypatch):
    frame = frames_of(5, 24, 32, 3)
    with loaded(remote, frames_at_once=4) as there:
        there(frame)
        hang(server.process.pid)
        monkeypatch.setattr(connection, "FRAME_SECONDS", 0.5)
        try:
            wait = there.submit(frame)
            with pytest.raises(DsmapError, match=r"did not answer within 0\.5 s"):
                wait()
            wait = there.submit(frame)
            monkeypatch.setattr(connection, "FRAME_SECONDS", 120)
            threading.Timer(0.2, there.cancel).start()
            with pytest.raises(DsmapError, match="the translation was cancelled"):
                wait()
            monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
            with pytest.raises(DsmapError, match=r"did not answer within 0\.3 s"):
                loaded(remote)
            monkeypatch.undo()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert there(frame).shape == frame.shape


def test_http_ports_and_plain_ports_with_tls(server, remote):
    with pytest.raises(DsmapError, match="no secure connection to grpcs://"):
        loaded(f"grpcs://{server.address}")
    with pytest.raises(DsmapError) as error:
        loaded(f"grpc://127.0.0.1:{server.http}")
    assert "8000 is HTTP" in error.value.advice


def test_tls_with_an_authority_of_ones_own(tmp_path):
    if why := tritonserver.missing():
        pytest.skip(why)
    certificate, key = self_signed(tmp_path)
    add_model(tmp_path / "models", "others")
    options = ("--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}")
    code = "import sys; from dsmap.runtime.backends.triton.remote_bundle import open_remote; open_remote(*sys.argv[1:])"
    with tritonserver.TritonServer(tmp_path / "models", tmp_path / "log", *options) as server:
        address = f"grpcs://localhost:{server.grpc}"
        for environment, said in (
            ({"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate)}, "others at {} was not made by dsmap-export"),
            ({}, "no secure connection to {}: self signed certificate\nIf you trust"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, address, "others"],
                capture_output=True,
                text=True,
                env=os.environ | environment,
            )
            assert said.format(address) in done.stderr


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    files[1].write_bytes(pem)
    return files
