"""What answers the requests of Triton's clients, without the server around it."""

import contextlib
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Stabilizer, Translator
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.triton import interface
from dsmap.runtime.triton.requests import read_request
from dsmap.runtime.triton.serving import BundleServer
from dsmap.runtime.triton.settings import ServingSettings, read_settings


@pytest.fixture(scope="module")
def server(tiny_bundle):
    server = BundleServer(ServingSettings(bundle=tiny_bundle, max_batch=8, backend="cpu", max_pixels=10_000))
    yield server
    server.close()


@pytest.fixture(scope="module")
def sequences(tiny_bundle):
    server = BundleServer(ServingSettings(bundle=tiny_bundle, max_batch=8, backend="cpu", stabilised=True))
    yield server
    server.close()


@pytest.fixture(scope="module")
def translator(tiny_bundle):
    with Translator.load(tiny_bundle, domain="winter", backend="cpu") as translator:
        yield translator


def test_damage_to_what_is_not_needed_yet_is_found_at_the_start(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, folder := tmp_path / "model")
    encoder = folder / "style_encoder.winter.onnx"
    data = bytearray(encoder.read_bytes())
    data[-1] ^= 1
    encoder.write_bytes(data)
    with pytest.raises(InputError, match="has changed since it was exported"):
        BundleServer(ServingSettings(bundle=folder, max_batch=1, backend="cpu"))


def frames_of(seed, n=1, shape=(48, 64, 3)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def request(frames, outputs=(), *, sequence=0, begins=False, ends=False, **others):
    """As the server's Python backend hands it over."""
    tensors = {"frames": frames, "domain": "winter", **others}
    arrays = {
        name: np.full((len(frames), 1), value.encode(), object) if isinstance(value, str) else value
        for name, value in tensors.items()
    }
    return read_request(arrays, outputs=frozenset(outputs), sequence=sequence, begins=begins, ends=ends)


def only(server, *arguments, **others):
    """The answer to one request."""
    (answer,) = server.answer([request(*arguments, **others)])
    if isinstance(answer, DsmapError):
        raise answer
    return answer


def test_requests_of_several_sizes_and_domains_are_answered_in_their_order(server, tiny_bundle, translator):
    summer = Translator.load(tiny_bundle, domain="summer", backend="cpu")
    batches = [frames_of(seed, n, (40 + 8 * seed, 56, 3)) for seed, n in enumerate((1, 3, 2, 5))]
    requests = [request(frames, domain=("winter", "summer")[i % 2]) for i, frames in enumerate(batches)]
    for i, (answer, frames) in enumerate(zip(server.answer(requests), batches, strict=True)):
        expected = [(translator, summer)[i % 2](frame) for frame in frames]
        assert np.array_equal(answer["translated"], expected)


def test_each_row_has_its_own_domain_and_style(server, translator, tiny_bundle):
    frames = frames_of(5, n=3)
    domains = np.array([[b"winter"], [b"SUMMER"], [b"winter"]], object)
    styles = np.array([[b""], [b"seed:3"], [b"4"]], object)
    answer = only(server, frames, domain=domains, style=styles)
    with Translator.load(tiny_bundle, domain="summer", backend="cpu") as summer:
        expected = [
            translator(frames[0]),
            summer.submit(frames[1], summer.find_style(3))(),
            translator.submit(frames[2], translator.find_style(4))(),
        ]
        assert np.array_equal(answer["translated"], expected)
        assert np.array_equal(answer["style_code"][1], summer.find_style(3))


def test_a_style_image_is_encoded_once(server, translator):
    image, before = frames_of(6, shape=(80, 70, 3)), server.styles.encoded
    for seed in range(3):
        answer = only(server, frames_of(seed, n=2), style_image=np.concatenate([image, image]))
        assert np.array_equal(answer["style_code"], [translator.find_style(image[0])] * 2)
    assert server.styles.encoded == before + 1
    only(server, frames_of(0), style_image=image ^ 1)
    only(server, frames_of(0), style_image=image, domain="summer")  # another encoder
    assert server.styles.encoded == before + 3


def test_the_oldest_style_makes_room(tiny_bundle, monkeypatch):
    monkeypatch.setattr("dsmap.runtime.triton.styles.KEPT", 2)
    server = BundleServer(ServingSettings(bundle=tiny_bundle, backend="cpu"))
    for seed in (1, 2, 1, 3, 1):
        only(server, frames_of(0), outputs=["style_code"], style_image=frames_of(seed))
    assert server.styles.encoded == 3
    only(server, frames_of(0), outputs=["style_code"], style_image=frames_of(2))
    assert server.styles.encoded == 4


def test_a_code_in_place_of_a_style(server, translator):
    code = np.array([[0.5, -1.0, 2.0]], np.float32)
    answer = only(server, frames_of(7), style_code=code, style="")  # an empty text says nothing
    assert np.array_equal(answer["translated"][0], translator.submit(frames_of(7)[0], code[0])())


def test_names_of_styles_may_be_in_other_letters(server):
    assert only(server, frames_of(0), outputs=["style_code"], style="Mean").keys() == {"style_code"}
    with pytest.raises(InputError, match="no style Meaning"):
        only(server, frames_of(0), style="Meaning")


def test_large_frames_are_not_under_way_together(server, monkeypatch):
    """Of several clients too: no more pixels than the largest frame may have."""
    under_way, most, submit = [], [], Translator.submit

    def counted(translator, frame, *others):
        wait = submit(translator, frame, *others)
        under_way.append(frame)
        most.append(sum(one.shape[0] * one.shape[1] for one in under_way))

        def finish():
            under_way.pop(0)
            return wait()

        return finish

    monkeypatch.setattr(Translator, "submit", counted)
    monkeypatch.setattr(Translator, "in_flight", 8, raising=False)
    for translator in server.directions._translators.values():
        monkeypatch.setattr(translator, "in_flight", 8)
    small, large = frames_of(0, 2, (40, 40, 3)), frames_of(1, 2, (80, 80, 3))
    answers = server.answer([request(frames) for frames in (small, large, small, large)])
    assert [answer["translated"].shape for answer in answers] == [f.shape for f in (small, large, small, large)]
    assert max(most) <= server.settings.max_pixels
    assert 3200 in most


def test_the_code_alone_is_quick(server, translator, monkeypatch):
    monkeypatch.setattr(Translator, "submit", None)
    answer = only(server, frames_of(0, shape=(1, 1, 3)), outputs=["style_code"], style="9")
    assert list(answer) == ["style_code"]
    assert np.array_equal(answer["style_code"][0], translator.find_style(9))


@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_strength_mixes_each_frame_with_its_own_reconstruction(server, tiny_bundle, strength):
    frames = frames_of(8, n=3)
    with Translator.load(tiny_bundle, domain="winter", backend="cpu") as inner:
        mixing = StrengthTranslator(inner, strength)
        expected = []
        for frame in frames:
            mixing.start_clip()
            expected.append(mixing(frame))
        answer = only(server, frames, strength=np.full((3, 1), strength, np.float32))
        assert np.array_equal(answer["translated"], expected)


def test_a_domain_of_its_own_is_reconstructed(server, translator):
    frames = frames_of(9)
    answer = only(server, frames, source="winter", domain="winter")
    assert not np.array_equal(answer["translated"][0], translator(frames[0]))
    assert answer["translated"].shape == frames.shape


WRONG = [
    ({"domain": "autumn"}, "the model tiny has no domain 'autumn'", "Send summer or winter."),
    ({"domain": "win\x1bter"}, r"the model tiny has no domain 'win\x1bter'", "Send summer or winter."),
    ({"domain": ""}, "the model tiny has no domain ''", "Send summer or winter."),
    ({"source": "autumn"}, "the model tiny has no source 'autumn'", "Send summer or winter."),
    ({"style": "snowy"}, "tiny has no style snowy for winter", "Send mean, a seed such as seed:7, or an image"),
    ({"style": "./photo.jpg"}, "tiny has no style ./photo.jpg for winter", "Send mean"),
    ({"style": "seed:-1"}, "seed:-1 is not a valid seed", "Use a whole number of 0 or more, such as seed:7."),
    ({"style": "seed:x"}, "tiny has no style seed:x for winter", "Send mean"),
    ({"style": "x" * 3000}, "style has 3000 bytes, expected at most 2000", "Send a name."),
    ({"style": "9" * 1500}, f"{'9' * 40}... is not a valid seed", "Use a whole number"),
    ({"domain": np.array([[b"\xff\xfe"]], object)}, "domain b'\\xff\\xfe' is not UTF-8", "Send text as UTF-8."),
    ({"style": "3", "style_code": np.zeros((1, 3), np.float32)}, "style and style_code are both given", "Send one"),
    ({"style_code": np.zeros((1, 4), np.float32)}, "got a style code of 4 numbers, expected 3 finite ones", "Pass a"),
    (
        {"style_code": np.full((1, 3), np.nan, np.float32)},
        "got a style code of 3 numbers",
        "Pass a code of this model.",
    ),
    (
        {"style_code": np.full((1, 3), -1e30, np.float32)},
        "the style code has a number of size 1e+30",
        "Send numbers up",
    ),
    ({"style_code": np.full((1, 3), np.inf, np.float32)}, "the style code has a number of size inf", "Send numbers up"),
    (
        {"style_image": np.zeros((1, 1, 10_001, 3), np.uint8)},
        "a style image of 10001x1 has 0.010001 million pixels; this server takes 0.01 million",
        "Send a smaller one",
    ),
    (
        {"frames": np.zeros((1, 1, 3000, 3), np.uint8)},
        "a frame of 3000x1, padded as the model needs it, has ",
        "Send smaller",
    ),
    ({"strength": np.array([[1.5]], np.float32)}, "the strength is 1.5", "Use 0 (the input, reconstructed) to 1"),
    ({"strength": np.array([[np.nan]], np.float32)}, "the strength is nan", "Use 0"),
    ({"frames": np.zeros((1, 0, 64, 3), np.uint8)}, "got uint8 (1, 0, 64, 3), expected uint8 (N, H, W, 3)", "Pass RGB"),
    ({"frames": np.zeros((1, 101, 100, 3), np.uint8)}, "a frame of 100x101 has 0.0101 million pixels", "Send smaller"),
]


@pytest.mark.parametrize(("wrong", "fact", "advice"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_what_is_wrong_is_said_in_two_lines(server, wrong, fact, advice):
    with pytest.raises(InputError) as refused:
        only(server, **{"frames": frames_of(0), **wrong})
    lines = str(refused.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(fact)
    assert lines[1].startswith(advice)


def test_the_error_of_one_request_is_its_own(server, translator, monkeypatch, caplog):
    frames = frames_of(10, n=2)
    requests = [request(frames), request(frames, domain="autumn"), InputError("fact", "advice"), request(frames)]
    answers = server.answer(requests)
    for number in (0, 3):
        assert np.array_equal(answers[number]["translated"], [translator(frame) for frame in frames])
    assert [str(answers[number]).splitlines()[0] for number in (1, 2)] == [
        "the model tiny has no domain 'autumn'",
        "fact",
    ]

    def broken(*_arguments):
        raise RuntimeError("out of luck\nmore")

    with monkeypatch.context() as patched:
        patched.setattr(Translator, "submit", broken)
        (answer,) = server.answer([request(frames)])
    assert str(answer) == "the translation has failed: out of luck\nThe server's log says more."
    assert "a frame could not be translated" in caplog.text


def test_sequences_are_stabilized_each_by_itself(sequences, translator):
    clips = {5: frames_of(11, n=4), "six": frames_of(12, n=4)}
    stabilizers = {key: Stabilizer() for key in clips}
    for n in range(4):
        asked = [request(clip[n : n + 1], sequence=key, begins=n == 0, ends=n == 3) for key, clip in clips.items()]
        for answer, (key, clip) in zip(sequences.answer(asked), clips.items(), strict=True):
            assert np.array_equal(answer["translated"][0], stabilizers[key](clip[n], translator(clip[n])))


def test_a_sequence_that_begins_again_has_no_history(sequences, translator):
    frames = frames_of(13, n=2)
    for frame in frames:
        answer = only(sequences, frame[None], sequence=7, begins=True)
        assert np.array_equal(answer["translated"][0], translator(frame))


def test_the_source_style_of_a_sequence_is_that_of_its_first_frame(sequences, tiny_bundle):
    frames, stabilizer = frames_of(14, n=3), Stabilizer()
    with Translator.load(tiny_bundle, domain="winter", backend="cpu") as inner:
        mixing = StrengthTranslator(inner, 0.5)
        for n, frame in enumerate(frames):
            half = np.full((1, 1), 0.5, np.float32)
            answer = only(sequences, frame[None], sequence=8, begins=n == 0, ends=n == 2, strength=half)
            assert np.array_equal(answer["translated"][0], stabilizer(frame, mixing(frame)))


def test_sequences_that_never_end_take_bounded_memory(sequences):
    for number in range(100, 100 + 2 * interface.MAX_SEQUENCES):
        only(sequences, frames_of(0, shape=(8, 8, 3)), sequence=number, begins=True)
    assert len(sequences._sequences) <= interface.MAX_SEQUENCES


def arguments_of(bundle, tmp_path, **parameters):
    """What Triton passes to `initialize`."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "bundle").symlink_to(bundle)
    sha256 = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    given = {"dsmap_bundle_sha256": sha256, **parameters}
    config = {"max_batch_size": 4, "parameters": {name: {"string_value": value} for name, value in given.items()}}
    return {
        "model_config": json.dumps(config),
        "model_repository": str(tmp_path),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


def test_settings_are_those_of_the_configuration(tiny_bundle, tmp_path):
    parameters = {"backend": "openvino", "precision": "fp16", "trust_engines": "true", "max_megapixels": "2.5"}
    settings = read_settings(arguments_of(tiny_bundle, tmp_path, **parameters, stabilised="true"))
    assert settings == ServingSettings(
        bundle=tmp_path / "1" / "bundle",
        max_batch=4,
        backend="openvino",
        precision="fp16",
        trust_engines=True,
        max_pixels=2_500_000,
        stabilised=True,
        bundle_sha256=hashlib.sha256((tiny_bundle / "bundle.json").read_bytes()).hexdigest(),
    )


def test_a_client_that_means_another_bundle_is_told(tiny_bundle, tmp_path):
    """The others get their frames."""
    with contextlib.closing(BundleServer(read_settings(arguments_of(tiny_bundle, tmp_path)))) as server:
        tensors = {"frames": frames_of(0), "domain": np.array([[b"winter"]], object)}
        own = server.settings.bundle_sha256
        requests = [
            read_request(tensors, parameters=json.dumps({"dsmap_bundle_sha256": sha256}))
            for sha256 in (own, "f" * 64, "")
        ]
        fine, refused, unsaid = server.answer(requests)
    assert np.array_equal(fine["translated"], unsaid["translated"])
    assert refused.exit_code == 2  # it is the request's, and nothing to resume
    assert "Put that bundle there again" in refused.advice
    assert refused.fact == "the bundle tiny on the server is not the one that this client began with"


@pytest.mark.parametrize(
    ("parameter", "value", "fact"),
    [
        ("trust_engines", "maybe", "the parameter trust_engines is 'maybe'"),
        ("max_megapixels", "huge", "the parameter max_megapixels is 'huge'"),
        ("max_megapixels", "nan", "the parameter max_megapixels is 'nan'"),
        ("max_megapixels", "0", "the parameter max_megapixels is '0'"),
        ("dsmap_bundle_sha256", "abc", "is not the bundle of config.pbtxt: SHA-256 "),
    ],
)
def test_a_parameter_without_meaning_stops_the_load(tiny_bundle, tmp_path, parameter, value, fact):
    with pytest.raises(InputError) as refused:
        read_settings(arguments_of(tiny_bundle, tmp_path, **{parameter: value}))
    assert fact in refused.value.fact


@pytest.mark.parametrize(
    ("backend", "precision", "fact"),
    [
        ("fpga", "auto", "no backend named 'fpga'"),
        ("cpu", "int8", "the model tiny has no int8 graphs; it has fp32"),
        ("tensorrt", "auto", "no NVIDIA GPU or driver here"),
    ],
)
def test_a_backend_that_does_not_run_stops_the_load(tiny_bundle, backend, precision, fact):
    if backend == "tensorrt" and os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")
    with pytest.raises(DsmapError) as refused:
        BundleServer(ServingSettings(bundle=tiny_bundle, backend=backend, precision=precision))
    assert refused.value.fact == fact


@pytest.mark.parametrize(("seen", "device", "expected"), [(None, 1, "1"), ("2,3", 1, "3"), ("GPU-abc", 0, "GPU-abc")])
def test_an_instance_sees_the_gpu_that_triton_gave_it(tiny_bundle, tmp_path, monkeypatch, seen, device, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen or "")
    arguments = arguments_of(tiny_bundle, tmp_path)
    read_settings(arguments | {"model_instance_kind": "GPU", "model_instance_device_id": str(device)})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
