"""OpenVINO on real sessions beside ONNX Runtime, and what `auto` makes of it."""

import os
import queue
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile import make_small_bundle, small_graph

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.system.cpu import cpu_name


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def openvino(tiny_bundle) -> Translator:
    pytest.importorskip("openvino")
    return Translator.load(tiny_bundle, domain="winter", backend="openvino", threads=1)


@pytest.fixture(scope="module")
def plain(tiny_bundle) -> Translator:
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


def frames(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def off(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference in grey levels."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def test_equals_onnx_runtime_at_changing_sizes_and_batches(openvino, plain):
    for n, height, width in ((1, 64, 64), (1, 24, 128), (3, 16, 40), (1, 64, 64), (2, 33, 17)):
        batch = frames(n, height, width, seed=height)
        assert off(openvino(batch), plain(batch)) <= 1


def test_half_precision_runs():
    """Where types are converted, OpenVINO gives an output the name of the node before as well."""
    pytest.importorskip("openvino")
    frame_rgb = frames(1, 64, 64)[0]
    found = {}
    for precision in ("fp16", "fp32"):
        translator = Translator.load("summer-winter", domain="winter", backend="openvino", precision=precision)
        found[precision] = translator(frame_rgb).astype(np.int16)
        translator.close()
    assert np.abs(found["fp16"] - found["fp32"]).mean() < 0.5


def test_results_stay_when_the_next_frame_comes(openvino):
    first = openvino(frames(1, 32, 32, 1)[0])
    kept = first.copy()
    openvino(frames(1, 32, 32, 2)[0])
    np.testing.assert_array_equal(first, kept)


def test_frames_that_are_views_or_may_not_be_written_to(openvino, plain):
    image = frames(1, 32, 48)[0]
    image.setflags(write=False)
    mirrored = image[:, ::-1]
    assert off(openvino(image), plain(image)) <= 1
    assert off(openvino(mirrored), plain(mirrored)) <= 1


def test_styles_change_between_frames(openvino, plain):
    image = frames(1, 32, 32)[0]
    outputs = []
    for style in (None, 7, image, 7):
        openvino.set_style(style)
        plain.set_style(style)
        np.testing.assert_allclose(openvino.style, plain.style, atol=1e-4)
        outputs.append(openvino(image))
        assert off(outputs[-1], plain(image)) <= 1
    openvino.set_style(None)
    plain.set_style(None)
    assert off(outputs[0], outputs[1]) > 1
    np.testing.assert_array_equal(outputs[1], outputs[3])


def test_what_runs_is_told(openvino):
    assert openvino.backend_name == "openvino"
    assert openvino.backend_description.startswith("OpenVINO 20")
    assert openvino.backend_description.endswith("on the CPU, fp32")


def test_threads_and_float32_reach_the_compiled_graphs(openvino):
    requests = openvino._backend._free.get()
    openvino._backend._free.put(requests)
    compiled = requests.decoder.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_a_graph_that_openvino_refuses_is_named(tmp_path):
    """One that is what bundle.json says, and still no network: an operator takes what nothing gives."""
    pytest.importorskip("openvino")
    model = small_graph()
    model.graph.node[0].input[1] = "nothing"
    bundle = Bundle.read(make_small_bundle(tmp_path / "bundle", model.SerializeToString()))
    with pytest.raises(DsmapError, match=r"OpenVINO cannot load .*content_encoder\.a\.onnx"):
        Translator(bundle, "b", "openvino")


def test_too_little_memory_says_what_to_do(openvino, monkeypatch):
    class Full:
        def infer(self, *_inputs, **_options):
            raise RuntimeError("Exception from a.cpp:224:\nFailed to allocate 43200000000 bytes of memory\n\n")

    requests = openvino._backend._free.get()
    monkeypatch.setattr(openvino._backend, "_free", queue.SimpleQueue())
    openvino._backend._free.put(requests._replace(encoder=Full()))
    with pytest.raises(DsmapError, match="OpenVINO stopped: Failed to allocate 43200000000 bytes") as caught:
        openvino(frames(1, 16, 16)[0])
    assert "--height" in caught.value.advice


def test_signals_after_a_translator_is_gone(tiny_bundle, tmp_path):
    """OpenVINO's CPU plugin moves signal handlers to a stack of its own: it must stay for as long as they do."""
    pytest.importorskip("openvino")
    code = f"""
import gc, os, signal
import numpy as np
from dsmap.runtime import Translator
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
frame = np.zeros((64, 64, 3), np.uint8)
load = lambda: Translator.load({str(tiny_bundle)!r}, domain='winter', backend='openvino', threads=1)
first = load(); first(frame)
second = load(); second(frame)
for name in ('first', 'second'):
    del globals()[name]
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(handled))
"""
    done = in_python(code, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_without_a_gpu_the_reason_is_told(tiny_bundle):
    module = pytest.importorskip("openvino")
    if any(device.startswith("GPU") for device in module.Core().available_devices):
        pytest.skip("a GPU is here")
    with pytest.raises(DsmapError, match="OpenVINO sees no Intel GPU here; it sees: CPU"):
        Translator.load(tiny_bundle, domain="winter", backend="openvino-gpu")


def in_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )


def test_a_missing_openvino_is_named_with_its_extra(tiny_bundle, tmp_path):
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from dsmap.errors import DsmapError\nfrom dsmap.runtime import Translator\n"
        f"load = lambda name: Translator.load({str(tiny_bundle)!r}, domain='winter', backend=name)\n"
        "try: load('openvino')\nexcept DsmapError as error: print(error)\n"
        "print(load('auto').backend_name)"
    )
    done = in_python(code, tmp_path)
    assert "openvino cannot be imported" in done.stdout, done.stderr
    assert "pip install 'dsmap[openvino]'" in done.stdout
    assert done.stdout.splitlines()[-1] == "cpu"


def test_nothing_is_sent_to_openvinos_makers(tiny_bundle, tmp_path):
    """Importing it alone would: its package for that is not loaded, leaves no file, and can be imported later."""
    pytest.importorskip("openvino")
    code = (
        "import sys\nfrom dsmap.runtime import Translator\n"
        f"Translator.load({str(tiny_bundle)!r}, domain='winter', backend='openvino')\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = in_python(code, tmp_path, HOME=str(tmp_path), LOCALAPPDATA=str(tmp_path))
    assert done.stdout.strip() == "[]", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_processors_vendor_is_read(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Virtual CPU\n\nprocessor\t: 1\n")
    assert cpu_name(cpuinfo) == "GenuineIntel Virtual CPU"
    assert cpu_name(tmp_path / "gone")


def test_names_of_backends_are_offered(tiny_bundle):
    with pytest.raises(InputError) as caught:
        Translator.load(tiny_bundle, domain="winter", backend="vino")
    assert "cpu, openvino, openvino-gpu" in caught.value.advice
