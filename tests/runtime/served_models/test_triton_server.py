"""A bundle in a real Triton Inference Server, asked by NVIDIA's own client and by plain HTTP."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from tritonserver import client_of

from dsmap.export.triton import TritonRequest, write_triton_models
from dsmap.runtime import Stabilizer, Translator
from dsmap.runtime.styles.strength import StrengthTranslator

SHAPE = (48, 64, 3)
PATIENCE = 120.0
CLIENTS = 8


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
    """The inputs of a request: arrays, or one text for all frames."""
    inputs = []
    for name, value in {"frames": frames, "domain": "winter", **others}.items():
        value = np.full((len(frames), 1), value.encode(), object) if isinstance(value, str) else value
        kind = {"O": "BYTES", "u": "UINT8", "f": "FP32"}[value.dtype.kind]
        tensor = tritonclient.grpc.InferInput(name, list(value.shape), kind)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


def ask(client, frames, model="tiny", sequence=None, **others):
    """The translated frames."""
    return client.infer(model, tensors_of(frames, **others), **(sequence or {})).as_numpy("translated")


def state_of(client, model):
    """What the server says of a model: (state, reason)."""
    index = client.get_model_repository_index().models
    return next(((m.state, m.reason) for m in index if m.name == model), ("", ""))


def wait_for(client, model, state):
    until = time.monotonic() + PATIENCE
    while state_of(client, model)[0] != state:
        assert time.monotonic() < until, state_of(client, model)
        time.sleep(0.1)


def remove(triton_server, *names):
    """Removes models in one step: the server that polls must not see half of one."""
    for name in names:
        (triton_server.repository / name).rename(triton_server.repository.parent / name)
        shutil.rmtree(triton_server.repository.parent / name)


def test_frames_are_those_of_a_translator(client, translator, tiny_bundle):
    frames = frames_of(0, n=3)
    assert np.array_equal(ask(client, frames), [translator(frame) for frame in frames])
    with Translator.load(tiny_bundle, domain="summer", backend="cpu") as summer:
        assert np.array_equal(ask(client, frames, domain="summer"), [summer(frame) for frame in frames])


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 200, 3), (65, 63, 3), (256, 256, 3)])
def test_any_size(client, translator, shape):
    frame = frames_of(1, shape=shape)
    assert np.array_equal(ask(client, frame)[0], translator(frame[0]))


@pytest.mark.parametrize("style", ["mean", "7", "seed:8", ""])
def test_styles_by_name(client, translator, style):
    frame = frames_of(1)
    code = translator.find_style(style or None)
    assert np.array_equal(ask(client, frame, style=style)[0], translator.submit(frame[0], code)())


def test_styles_by_image_and_by_code(client, translator):
    frames, image = frames_of(2, n=2), frames_of(3, n=2, shape=(70, 90, 3))
    answer = client.infer("tiny", tensors_of(frames, style_image=image))
    codes = answer.as_numpy("style_code")
    assert np.array_equal(codes, [translator.find_style(one) for one in image])
    expected = [translator.submit(frame, code)() for frame, code in zip(frames, codes, strict=True)]
    assert np.array_equal(answer.as_numpy("translated"), expected)
    assert np.array_equal(ask(client, frames, style_code=codes), expected)


def test_the_style_code_alone(client, translator):
    wanted = [tritonclient.grpc.InferRequestedOutput("style_code")]
    answer = client.infer("tiny", tensors_of(frames_of(0, shape=(1, 1, 3)), style="9"), outputs=wanted)
    assert np.array_equal(answer.as_numpy("style_code")[0], translator.find_style(9))
    assert answer.as_numpy("translated") is None


def test_strength(client, tiny_bundle):
    frames = frames_of(4, n=2)
    with Translator.load(tiny_bundle, domain="winter", backend="cpu") as inner:
        mixing = StrengthTranslator(inner, 0.25)
        expected = []
        for frame in frames:
            mixing.start_clip()
            expected.append(mixing(frame))
    assert np.array_equal(ask(client, frames, strength=np.full((2, 1), 0.25, np.float32)), expected)


def test_plain_http(triton_server, translator):
    """What any other client may send: the protocol in JSON."""
    frame = frames_of(5, shape=(16, 24, 3))
    inputs = [
        {"name": "frames", "shape": frame.shape, "datatype": "UINT8", "data": frame.ravel().tolist()},
        {"name": "domain", "shape": [1, 1], "datatype": "BYTES", "data": ["winter"]},
    ]
    address = f"http://127.0.0.1:{triton_server.http}/v2/models/tiny/infer"
    answer = httpx.post(address, json={"inputs": inputs}, timeout=PATIENCE, trust_env=False).json()
    output = next(output for output in answer["outputs"] if output["name"] == "translated")
    assert output["shape"] == list(frame.shape)
    assert np.array_equal(np.array(output["data"], np.uint8).reshape(frame.shape)[0], translator(frame[0]))


OURS = [
    ({"domain": "autumn"}, "the model tiny has no domain 'autumn'\nSend summer or winter."),
    ({"style": "../secret.png"}, "tiny has no style ../secret.png for winter\nSend mean, a seed such as seed:7, or an"),
    ({"style_code": np.zeros((1, 5), np.float32)}, "got a style code of 5 numbers, expected 3 finite ones\nPass a"),
    ({"style": "1", "style_image": frames_of(0)}, "style and style_image are both given\nSend one of them."),
    ({"strength": np.full((1, 1), 2, np.float32)}, "the strength is 2\nUse 0 (the input, reconstructed) to 1"),
    (
        {"frames": frames_of(0, shape=(4100, 4100, 3))},
        "a frame of 4100x4100 has 16.81 million pixels; this server takes",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), OURS, ids=range(len(OURS)))
def test_what_is_wrong_is_said_in_two_lines(client, wrong, message):
    with pytest.raises(InferenceServerException) as refused:
        ask(client, **{"frames": frames_of(0), **wrong})
    assert refused.value.message().startswith(message)
    assert len(refused.value.message().splitlines()) == 2
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


THE_SERVERS = [
    ({"frames": frames_of(0, shape=(8, 8, 4))}, "unexpected shape for input 'frames'"),
    (
        {"frames": frames_of(0).astype(np.float32)},
        "inference input 'frames' data-type is 'FP32'",
    ),
    ({"frames": frames_of(0, n=9, shape=(8, 8, 3))}, "inference request batch-size must be <= 8"),
    ({"style": np.full((3, 1), b"x", object)}, "batch size does not match other inputs"),
    ({"beauty": np.ones((1, 1), np.float32)}, "unexpected inference input 'beauty'"),
]


@pytest.mark.parametrize(("wrong", "message"), THE_SERVERS, ids=range(len(THE_SERVERS)))
def test_what_the_server_itself_refuses(client, wrong, message):
    with pytest.raises(InferenceServerException, match="(?s)" + message):
        ask(client, **{"frames": frames_of(0), **wrong})


def test_frames_without_a_domain_are_refused(client):
    with pytest.raises(InferenceServerException, match="missing required input"):
        client.infer("tiny", tensors_of(frames_of(0))[:1])


def test_videos_are_stabilized_each_by_itself(client, translator):
    clips, stabilizers = {31: frames_of(6, n=4), 32: frames_of(7, n=4)}, {31: Stabilizer(), 32: Stabilizer()}
    for n in range(4):
        for number, clip in clips.items():
            sequence = {"sequence_id": number, "sequence_start": n == 0, "sequence_end": n == 3}
            got = ask(client, clip[n : n + 1], "tiny-stabilised", sequence)[0]
            assert np.array_equal(got, stabilizers[number](clip[n], translator(clip[n])))


def test_a_video_must_begin(client):
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        ask(client, frames_of(0), "tiny-stabilised", {"sequence_id": 77})


class Load:
    """Clients that send frames and check that each gets its own back."""

    def __init__(self, triton_server, tiny_bundle):
        self.server = triton_server
        self.sent, self.expected = [], []
        for seed in range(12):
            domain = ("winter", "summer")[seed % 2]
            frame = frames_of(100 + seed, shape=(16, 16 + 8 * (seed % 3), 3))
            with Translator.load(tiny_bundle, domain=domain, backend="cpu") as translator:
                self.expected.append(translator.submit(frame[0], translator.find_style(seed))())
            self.sent.append((frame, {"domain": domain, "style": str(seed)}))
        self.seconds = []
        self.errors = []

    def run(self, frames, *, patient=False):
        """How many were right: `frames` of every client. `patient`: they ask again where the server is gone, and do not
        end before it was.
        """
        with ThreadPoolExecutor(CLIENTS) as pool:
            return sum(pool.map(lambda number: self._client(number, frames, patient), range(CLIENTS)))

    def _client(self, number, frames, patient):
        right, until = 0, time.monotonic() + PATIENCE
        choose = np.random.default_rng(number)
        with client_of(self.server) as client:
            client.is_server_live()  # connects
            while (right < frames or (patient and not self.errors)) and time.monotonic() < until:
                which = int(choose.integers(len(self.sent)))
                frame, others = self.sent[which]
                begun = time.perf_counter()
                try:
                    got = client.infer("tiny", tensors_of(frame, **others), client_timeout=30).as_numpy("translated")
                except InferenceServerException as error:
                    if not patient:
                        raise
                    self.errors.append(error)
                    time.sleep(0.1)
                    continue
                self.seconds.append(time.perf_counter() - begun)
                assert np.array_equal(got[0], self.expected[which]), "a client got another frame than its own"
                right += 1
        return right


@pytest.fixture
def load(triton_server, tiny_bundle):
    return Load(triton_server, tiny_bundle)


def test_no_frame_is_lost_or_swapped_under_load(load, client):
    begun = time.perf_counter()
    assert load.run(250) == CLIENTS * 250
    seconds = time.perf_counter() - begun
    p50, p99 = np.percentile(np.array(load.seconds) * 1000, [50, 99])
    statistics = client.get_inference_statistics("tiny").model_stats[0]
    print(  # noqa: T201  # for those who look: pytest -s
        f"{CLIENTS * 250} frames in {seconds:.1f} s: p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
        f" {statistics.inference_count / statistics.execution_count:.1f} frames at a time"
    )
    assert len(load.seconds) == CLIENTS * 250


def test_another_bundle_is_added_while_the_first_is_served(load, client, triton_server, tiny_bundle, translator):
    done = threading.Event()

    def go_on():
        right = 0
        while not done.is_set():
            right += load.run(2)
        return right

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(go_on)
        try:
            write_triton_models(TritonRequest(bundle=tiny_bundle, repository=triton_server.repository, name="second"))
            wait_for(client, "second", "READY")
            wait_for(client, "second-stabilised", "READY")
            frames = frames_of(8)
            assert np.array_equal(ask(client, frames, "second")[0], translator(frames[0]))
        finally:
            done.set()
        assert serving.result(PATIENCE) > 0
    said = triton_server.said()
    assert "failed to load" not in said  # no folder that was not yet whole
    assert said.count("loading: second:1") == 1  # and nothing that changes afterwards
    remove(triton_server, "second", "second-stabilised")


def test_a_parameter_that_does_not_work_is_explained(client, triton_server, tiny_bundle, tmp_path):
    write_triton_models(TritonRequest(bundle=tiny_bundle, repository=tmp_path, name="third"))
    config = tmp_path / "third" / "config.pbtxt"
    text, as_it_is = config.read_text(), 'key: "backend" value { string_value: "{}" }'
    config.write_text(text.replace(as_it_is.replace("{}", "auto"), as_it_is.replace("{}", "fpga")))
    assert config.read_text() != text
    served = triton_server.repository / "third"
    shutil.move(tmp_path / "third", served)
    try:
        wait_for(client, "third", "UNAVAILABLE")
        reason = state_of(client, "third")[1]
        assert "no backend named 'fpga'\nKnown backends: auto, tensorrt," in reason
        assert "Traceback" not in reason
        (served / "config.pbtxt").write_text(text)
        wait_for(client, "third", "READY")
        assert ask(client, frames_of(0), "third").shape == (1, *SHAPE)
    finally:
        remove(triton_server, "third")


def test_clients_go_on_when_the_server_is_back(load, client, triton_server):
    """Killed in the middle: what was under way fails with an error that says so, nothing is answered wrongly."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load.run, 60, patient=True)
        while len(load.seconds) < 2 * CLIENTS:
            time.sleep(0.01)
        triton_server.kill()
        while not load.errors:
            assert not running.done()
            time.sleep(0.01)
        triton_server.start()
        assert running.result(PATIENCE) >= CLIENTS * 60
    assert {error.status() for error in load.errors} == {"StatusCode.UNAVAILABLE"}
