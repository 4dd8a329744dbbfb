"""Frames in stripes are whole frames, whatever the network's borders, sizes and stripes."""

import platform
import threading

import clips
import cv2
import numpy as np
import onnxruntime
import pytest
from commands import call
from tiny import make_model, scramble

from dsmap.errors import DsmapError, InputError
from dsmap.export.graphs import write_graph
from dsmap.export.model_graphs import model_graphs
from dsmap.model.cyclegan import CycleGAN, CycleGANConfig
from dsmap.runtime.backends.onnxruntime_session import session_options
from dsmap.runtime.tiles import plan, stripes
from dsmap.runtime.tiles.local_graph import LocalGraph, Norm
from dsmap.runtime.tiles.part_runner import PartRunner
from dsmap.runtime.tiles.statistics import Statistics, adds_in_order
from dsmap.runtime.tiles.stripes import StripedGraph
from dsmap.runtime.translator import Translator
from dsmap.tools import video

CPU = ["CPUExecutionProvider"]


@pytest.fixture(autouse=True)
def low_stripes(monkeypatch):
    """As low as they can be: frames of the tests have several."""
    monkeypatch.setattr(stripes, "STRIPE_BYTES", 1)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, darker to the right and the bottom: statistics of stripes differ from those of the whole."""
    small = np.random.default_rng(seed).integers(60, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width]
    return (large * (1 - 0.5 * y / height - 0.3 * x / width)[..., None]).astype(np.uint8)


def differences(striped: np.ndarray, whole: np.ndarray) -> tuple[int, float]:
    """The largest, and the PSNR in dB."""
    difference = np.abs(striped.astype(int) - whole.astype(int))
    return int(difference.max()), float(10 * np.log10(255**2 / max(1e-9, (difference**2).mean())))


def assert_same(striped: np.ndarray, whole: np.ndarray) -> None:
    assert striped.shape == whole.shape
    largest, psnr = differences(striped, whole)
    assert largest <= 1, f"{largest} grey levels"
    assert psnr > 60
    rows = np.abs(striped.astype(int) - whole.astype(int)).mean((-2, -1)).reshape(-1, whole.shape[-3])
    assert rows.max() < 0.1  # no line: no row differs more than rounding does


@pytest.fixture(scope="module")
def translators():
    """The bundled model, whole and in stripes."""
    with (
        Translator.load(domain="winter", precision="fp32") as whole,
        Translator.load(domain="winter", precision="fp32", tile=True) as striped,
    ):
        yield whole, striped


@pytest.mark.parametrize("size", [(160, 96), (61, 83), (64, 64), (9, 40), (3, 5)])
def test_the_bundled_model_at_any_size(translators, size):
    whole, striped = translators
    frame = picture(*size)
    assert_same(striped(frame), whole(frame))


def test_styles_and_batches(translators):
    whole, striped = translators
    frames = np.stack([picture(80, 56, seed) for seed in (1, 2)])
    for translator in translators:
        translator.set_style(3)
    assert_same(striped(frames), whole(frames))
    codes = [whole.find_style(seed) for seed in (4, 5)]
    first, second = (striped.submit(frames[0], style=code)() for code in codes)
    assert differences(first, second)[0] > 5
    assert_same(second, whole.submit(frames[0], style=codes[1])())


def test_results_do_not_depend_on_the_frames_before(translators):
    striped = translators[1]
    frame = picture(72, 64, 7)
    before = striped(frame)
    striped(picture(40, 88, 8))
    assert np.array_equal(striped(frame), before)


def test_stripes_are_not_frames_of_their_own(translators):
    """The test of the tests: with the statistics of each stripe, results would differ visibly."""
    whole, _ = translators
    frame = picture(160, 96)
    apart = np.concatenate([whole(frame[:80]), whole(frame[80:])])
    assert differences(apart, whole(frame))[0] > 8


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize(("size", "target"), [((160, 128), "winter"), ((59, 77), "summer")])
def test_the_same_bytes(precision, size, target):
    """Where the C library's and ONNX Runtime's order of adding are as here; with odd sides too."""
    frame = picture(*size)
    with (
        Translator.load(domain=target, precision=precision, tile=True) as striped,
        Translator.load(domain=target, precision=precision) as whole,
    ):
        assert striped.precision == whole.precision == precision
        assert "in stripes" in striped.backend_title
        if platform.machine() != "x86_64":
            assert differences(striped(frame), whole(frame))[1] > 43
        else:
            assert np.array_equal(striped(frame), whole(frame))


def test_in_double_precision_where_the_order_is_not_known(monkeypatch):
    """A step of 8 bits more or less moves many others: two CPUs differ as much."""
    monkeypatch.setattr("dsmap.runtime.tiles.backend.adds_in_order", lambda normalise: False)
    frame = picture(160, 128)
    for precision, least in (("int8", 43), ("fp32", 60)):
        with (
            Translator.load(domain="winter", precision=precision, tile=True) as striped,
            Translator.load(domain="winter", precision=precision) as whole,
        ):
            assert differences(striped(frame), whole(frame))[1] > least


def test_what_is_computed_again_is_the_same(translators, monkeypatch):
    """With no memory for tensors larger than the content, their statistics are in double precision."""
    whole, striped = translators
    frame = picture(160, 104)
    kept = striped_plan(striped, 160, 104)
    monkeypatch.setattr(plan, "KEPT_BYTES", 1)
    again = striped_plan(striped, 160, 104)
    assert max(len(step.order) for step in again.steps) > max(len(step.order) for step in kept.steps) == 1
    assert again.kept_bytes < kept.kept_bytes
    assert_same(striped(frame), whole(frame))


def striped_plan(translator, height, width):
    graph = translator._backend._striped
    graph._plans.clear()
    return graph.plan(height, width)


def test_zero_padding_and_folded_upsampling(tiny_bundle):
    frame = picture(136, 88)
    with (
        Translator.load(tiny_bundle, domain="winter", tile=True) as striped,
        Translator.load(tiny_bundle, domain="winter") as whole,
    ):
        assert_same(striped(frame), whole(frame))


def networks():
    """Networks with other borders and norms than the bundles have, and the sides' factor of their frames."""
    cyclegan = CycleGAN(CycleGANConfig(domains=("a", "b"), dim=4, n_res=1)).eval()
    scramble(cyclegan, 0)
    return [
        pytest.param(make_model(pad_type="reflect").eval(), 8, id="reflect"),
        pytest.param(cyclegan, 4, id="cyclegan"),
    ]


@pytest.mark.parametrize(("model", "multiple"), networks())
def test_other_networks(model, multiple, tmp_path, traces):
    data = {}
    for graph in model_graphs(model):
        wanted = graph.domain == ("a" if graph.component == "content_encoder" else "b")
        if wanted and graph.component in ("content_encoder", "mapping", "decoder"):
            write_graph(graph, tmp_path / graph.component)
            data[graph.component] = (tmp_path / graph.component).read_bytes()
    sessions = {name: onnxruntime.InferenceSession(graph, providers=CPU) for name, graph in data.items()}
    params = None
    if len(sessions["decoder"].get_inputs()) == 2:
        shape = sessions["decoder"].get_inputs()[1].shape
        params = np.random.default_rng(0).standard_normal((1, *shape[1:]), np.float32)
    frame = picture(15 * multiple, 11 * multiple)[None]
    assert_same(in_stripes(data, params, multiple)(frame, params), whole_frame(sessions, frame, params))


def in_stripes(data, params, multiple):
    options = session_options(onnxruntime, 1)

    def load(part, layouts, graph):
        session = onnxruntime.InferenceSession(graph, options, providers=CPU)
        return PartRunner(session, part, layouts, multiple, None if params is None else params.shape[1:])

    graph = LocalGraph(data["content_encoder"], data.get("mapping"), data["decoder"])
    return StripedGraph(graph, load, multiple).translate


def whole_frame(sessions, frame, params):
    content, *skip = sessions["content_encoder"].run(None, {"frames": frame})
    if "mapping" in sessions:
        (content,) = sessions["mapping"].run(None, {"content": content, "skip": skip[0]})
    styled = {} if params is None else {"style_params": params}
    return sessions["decoder"].run(None, {"mapped": content, **styled})[0]


def test_statistics_of_stripes_are_those_of_the_whole():
    x = np.random.default_rng(0).normal(100, 1, (1, 6, 50, 31)).astype(np.float32) * np.arange(1, 7)[:, None, None]
    for groups in (1, 3, 6):
        found = Statistics(groups)
        for start, end in ((0, 1), (1, 17), (17, 17), (17, 50)):
            found.add(x[:, :, start:end])
        norm = Norm("x", "y", np.full(groups, 2, np.float32), np.full(groups, 3, np.float32), 1e-5)
        scale, shift = found.scale_and_shift(norm, 6)
        each = x.astype(np.float64).reshape(groups, -1)
        wanted = 2 * (each - each.mean(1, keepdims=True)) / np.sqrt(each.var(1, keepdims=True) + 1e-5) + 3
        assert np.allclose((x * scale + shift).reshape(groups, -1), wanted, atol=2e-4)


def test_another_order_of_adding_is_seen():
    def in_double_precision(x):
        exact = x.astype(np.float64)
        deviation = np.sqrt(exact.var((2, 3), keepdims=True) + 1e-5)
        return ((exact - exact.mean((2, 3), keepdims=True)) / deviation).astype(np.float32)

    assert not adds_in_order(in_double_precision)


def test_a_norm_over_whole_frames_that_is_not_known_is_refused():
    from dsmap.runtime.tiles.onnx_file import Node, Port, write_model

    frames = [Port("frames", np.uint8, (1, None, None, 3))]
    cast = Node("Cast", ("frames",), ("content",), (b"\x0a\x02to\x18\x01\xa0\x01\x02",))
    mean = Node("ReduceMean", ("mapped",), ("frames",))
    encoder = write_model([cast], {}, frames, ["content"], 20)
    decoder = write_model([mean], {}, [Port("mapped", np.float32, (1, None, None, 3))], ["frames"], 20)
    with pytest.raises(DsmapError, match="ReduceMean") as caught:
        LocalGraph(encoder, None, decoder)
    assert "--tile" in caught.value.advice


def test_a_translation_can_be_cancelled(translators):
    striped, frame, ended = translators[1], picture(1600, 400), threading.Event()

    def cancel():
        while not ended.wait(0.05):
            striped.cancel()

    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    with pytest.raises(DsmapError):  # it takes ten seconds otherwise
        striped(frame)
    ended.set()
    canceller.join()
    assert striped(picture(16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize("backend", ["cuda", "openvino", "torch", "tensorrt"])
def test_backends_that_cannot_say_so(backend):
    with pytest.raises(InputError, match=f"--tile is for the backend cpu, and the backend is {backend}"):
        Translator.load(domain="winter", backend=backend, tile=True)


def test_a_video(tmp_path, tiny_bundle):
    """`dsmap video --tile` works with what else changes frames, and an unfinished job remembers it."""
    clip = tmp_path / "clip.mp4"
    clips.make_clip(clip, frames=3, size=(64, 48))
    command = (clip, "--domain", "winter", "--model", tiny_bundle)
    code, out, error = call(video, *command, "--tile", "--stabilize", "--strength", "0.5", "-o", tmp_path / "a.mp4")
    assert code == 0, error
    assert "in stripes" in out
    assert len(clips.read(tmp_path / "a.mp4").times) == 3
    code, _, error = call(video, *command, "--tile", "--backend", "cuda", "-o", tmp_path / "b.mp4")
    assert code == 2
    assert "--tile is for the backend cpu, and the backend is cuda" in error


def test_memory_errors_advise_it(translators, monkeypatch):
    whole, striped = translators
    monkeypatch.setattr("dsmap.runtime.translator.available_bytes", lambda: 700_000_000)
    monkeypatch.setattr(whole, "may_tile", True)
    with pytest.raises(InputError) as caught:
        whole.check_size(2160, 3840)
    assert "--tile" in caught.value.advice
    striped.check_size(2160, 3840)
    with pytest.raises(InputError):
        striped.check_size(4320, 7680)
