"""The runtime on real ONNX Runtime sessions, beside torch."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator
from dsmap.runtime.backends.onnxruntime_session import one_line, onnxruntime_errors
from dsmap.runtime.bundle.bundle import Sizes
from dsmap.runtime.translator import pad_frames

SIZES = Sizes(multiple_of=8, minimum=16, style_minimum=16, trained_at=64)


@pytest.fixture(scope="module")
def translator(tiny_bundle: Path) -> Translator:
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


@pytest.fixture(autouse=True)
def _mean_style(translator: Translator):
    yield
    translator.set_style(None)


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@torch.no_grad()
def by_torch(model, frame_rgb: np.ndarray, style: np.ndarray) -> np.ndarray:
    x_nchw = torch.from_numpy(frame_rgb.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    y_nchw = model.translate(x_nchw, "summer", "winter", torch.from_numpy(style)[None])
    return ((y_nchw[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()


def test_equals_torch_at_several_sizes(translator, tiny_model):
    mean = np.array([-0.5, 0.75, 0.125], np.float32)
    for height, width in ((16, 16), (64, 40), (24, 128)):
        out = translator(frame(height, width))
        assert out.dtype == np.uint8
        assert np.abs(out - by_torch(tiny_model, frame(height, width), mean)).max() <= 1


def test_direction_and_backend_are_told(translator):
    assert (translator.source, translator.target, translator.model_name) == ("summer", "winter", "tiny")
    assert translator.backend_name == "cpu"
    assert "ONNX Runtime" in translator.backend_description
    assert translator.backend_reason


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (15, 17), (17, 64), (64, 17), (31, 33), (8, 200)])
def test_any_size_comes_back_as_it_went_in(translator, height, width):
    assert translator(frame(height, width)).shape == (height, width, 3)


def test_padding_is_at_the_right_and_bottom_and_cropped_again(translator):
    whole = frame(32, 40)
    padded = cv2.copyMakeBorder(whole[:30, :37], 0, 2, 0, 3, cv2.BORDER_REFLECT_101)
    np.testing.assert_array_equal(translator(whole[:30, :37]), translator(padded)[:30, :37])


def test_pad_reflects_or_replicates():
    row = np.arange(13, dtype=np.uint8)
    image = np.repeat(np.repeat(row[None, :, None], 16, 0), 3, 2)
    assert pad_frames(image[None], SIZES)[0, 0, :, 0].tolist() == [*range(13), 11, 10, 9]
    assert pad_frames(image[None, :, :2], SIZES)[0, 0, :, 0].tolist() == [0] + [1] * 15
    fitting = frame(16, 24)[None]
    assert pad_frames(fitting, SIZES).shape == fitting.shape


def test_a_batch_equals_its_frames(translator):
    frames = np.stack([frame(20, 28, seed) for seed in range(3)])
    singly = np.stack([translator(f) for f in frames])
    assert np.abs(translator(frames).astype(int) - singly).max() <= 1


def test_input_is_left_alone_and_may_be_a_view(translator):
    frames = frame(40, 40)
    before = frames.copy()
    mirrored = translator(frames[:, ::-1])
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(mirrored, translator(np.ascontiguousarray(frames[:, ::-1])))


def test_styles_differ_and_can_be_changed_between_frames(translator):
    image = frame(32, 32)
    mean = translator(image)
    translator.set_style(7)
    seven = translator(image)
    translator.set_style(8)
    eight = translator(image)
    assert len({mean.tobytes(), seven.tobytes(), eight.tobytes()}) == 3
    translator.set_style(7)
    np.testing.assert_array_equal(translator(image), seven)
    translator.set_style(None)
    np.testing.assert_array_equal(translator(image), mean)


def test_image_style_is_that_of_torch(translator, tiny_model, tmp_path):
    image = frame(48, 64, 5)
    with torch.no_grad():
        x_nchw = torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        expected = tiny_model.encode_style(x_nchw, "winter")[0].numpy()
    np.testing.assert_allclose(translator.find_style(image), expected, atol=1e-5)
    write_rgb(tmp_path / "style.png", image)
    np.testing.assert_allclose(translator.find_style(tmp_path / "style.png"), expected, atol=1e-5)
    np.testing.assert_allclose(translator.find_style(str(tmp_path / "style.png")), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (300, 200), (20, 900), (1, 1)])
def test_style_images_of_any_size(translator, height, width):
    assert translator.find_style(frame(height, width)).shape == (3,)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_frame_is_refused(translator, bad):
    with pytest.raises(InputError, match="expected uint8"):
        translator(bad)
    with pytest.raises(InputError, match="expected uint8"):
        translator.set_style(bad)


def test_what_was_passed_instead_is_named(translator):
    with pytest.raises(InputError, match=r"got uint8 \(8, 8\), expected uint8") as caught:
        translator(np.zeros((8, 8), np.uint8))
    assert "grey" in caught.value.advice
    with pytest.raises(InputError, match="got a dict as the style"):
        translator.set_style({})
    with pytest.raises(InputError, match="did you mean winter"):
        Translator.load(translator.bundle.folder, domain="wintr")


def test_bad_styles_are_refused_and_the_old_one_stays(translator, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    before = translator.style.copy()
    for bad in (tmp_path / "gone.png", tmp_path / "text.png", -1):
        with pytest.raises(InputError):
            translator.set_style(bad)
    np.testing.assert_array_equal(translator.style, before)


def test_true_is_no_seed_and_threads_are_counted_from_one(translator, tiny_bundle):
    with pytest.raises(InputError, match="the style is True"):
        translator.set_style(True)
    for threads in (0, -2):
        with pytest.raises(InputError, match=f"threads is {threads}"):
            Translator.load(tiny_bundle, domain="winter", threads=threads)


def test_memory_is_checked_once_for_each_new_size(tiny_bundle, monkeypatch):
    from dsmap.runtime import translator as module

    fresh = Translator.load(tiny_bundle, domain="winter", threads=1)
    asked, room = [], [37 * 4 * 32 * 32]  # the width is 4
    monkeypatch.setattr(module, "available_bytes", lambda: asked.append(1) or room[0])
    fresh.check_size(32, 32)
    with pytest.raises(InputError, match="a frame of 33x32 needs about"):
        fresh.check_size(32, 33)  # 40 columns after padding
    with pytest.raises(InputError, match="2 frames at once of 32x32"):
        fresh(np.stack([frame(32, 32)] * 2))
    asked.clear()
    for _ in range(3):
        fresh(frame(32, 32))
    assert len(asked) == 1
    room[0] = 0
    fresh(frame(24, 32))  # the backend still holds the memory of the larger one
    with pytest.raises(InputError):
        fresh(frame(40, 32))
    monkeypatch.setattr(module, "available_bytes", lambda: None)
    fresh(frame(40, 32))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_the_second_frame_takes_no_more_memory_than_the_first(tmp_path):
    """Nor more than is said before the work; in a process of its own, and with the model that comes with dsmap."""
    code = """
import re, numpy as np
from dsmap.runtime import Translator
from dsmap.runtime.system.memory import translation_bytes
translator = Translator.load("summer-winter", domain="winter", backend="cpu")
frame = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), np.uint8)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
peaks = [peak()]
for _ in range(3):
    translator(frame)
    peaks.append(peak())
first, later = ((kib - peaks[0]) * 1024 for kib in (peaks[1], peaks[-1]))
print(later / first, later / translation_bytes(768, 1024, batch=1, dim=16))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    growth, of_estimate = map(float, done.stdout.split())
    assert growth < 1.3
    assert 0.5 < of_estimate < 1.1


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model failed", "Load model failed"),
        (
            "/src/provider.cc:19 T& Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load libx.so",
            "Failed to load libx.so",
        ),
        (
            "[ONNXRuntimeError] : 11 : EP_FAIL : /a/b.cc:3 Make(int) [ONNXRuntimeError] : 11 : EP_FAIL : /c/d.cc:136"
            " Init()::<lambda()> result == Status::Success was false. No adapter: none",
            "No adapter: none",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : helper.cc:4 Generate Program needs f16", "Program needs f16"),
        (
            "/src/cuda_call.cc:154 std::conditional_t<A, B> CudaCall(T, const char*) [with T = cudaError]"
            " /src/cuda_call.cc:146 CudaCall() CUDA failure 35: CUDA driver version is insufficient"
            " ; GPU=0 ; hostname=box ; file=/src/a.cc",
            "CUDA failure 35: CUDA driver version is insufficient",
        ),
        ("\x1b[31msomething else\x1b[m\nand more", "something else"),
        ("", "Exception"),
    ],
)
def test_onnxruntimes_messages_are_told_without_its_sources(message, told):
    assert one_line(Exception(message)) == told


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", "Update the NVIDIA driver"),
        (
            "Status Message: CUDA error cudaErrorLaunchFailure:unspecified launch failure",
            "Run nvidia-smi and dsmap doctor",
        ),
        ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED", "Run nvidia-smi and dsmap doctor"),
        ("CUDA failure 2: out of memory", "Translate at a smaller size"),
        ("Failed to allocate memory for requested buffer of size 512", "Translate at a smaller size"),
        ("Got invalid dimensions for input: frames", "Export the bundle again."),
    ],
)
def test_advice_is_about_what_failed(message, advice):
    with pytest.raises(DsmapError) as caught, onnxruntime_errors():
        raise RuntimeError(message)
    assert caught.value.advice.startswith(advice)


def test_what_fails_in_onnxruntime_is_one_line(translator, capfd):
    with pytest.raises(DsmapError) as caught:
        translator._backend.translate(frame(2, 2)[None], np.zeros((1, 3), np.float32))
    assert caught.value.fact.startswith("ONNX Runtime stopped: ")
    assert "\n" not in caught.value.fact
    assert caught.value.advice == "Export the bundle again."
    assert capfd.readouterr().err == ""  # it would print the same, in red


def test_a_failed_allocation_in_onnxruntime_advises_a_smaller_height():
    from dsmap.runtime.backends.onnxruntime_cpu import _run

    class Session:
        def run(self, outputs, inputs, options):
            raise RuntimeError("\x1b[1;31mFailed to allocate memory for requested buffer of size 9\x1b[m\nmore")

    with pytest.raises(DsmapError) as caught:
        _run(Session(), [], {})
    assert caught.value.fact == "ONNX Runtime stopped: Failed to allocate memory for requested buffer of size 9"
    assert "--height" in caught.value.advice


@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_onnxruntime_says_what_to_install(tiny_bundle, monkeypatch, empty):
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime") if empty else None)
    with pytest.raises(DsmapError) as caught:
        Translator.load(tiny_bundle, domain="winter")
    assert "pip install 'dsmap[cpu]'" in caught.value.advice


def test_unknown_backend_domain_model(tiny_bundle):
    with pytest.raises(InputError, match="no backend named 'warp'"):
        Translator.load(tiny_bundle, domain="winter", backend="warp")
    with pytest.raises(InputError, match="autumn"):
        Translator.load(tiny_bundle, domain="autumn")
    with pytest.raises(InputError, match="spring"):
        Translator.load("spring", domain="winter")


def test_a_named_backend_never_falls_back(tiny_bundle, monkeypatch):
    from dsmap.runtime.backends import registry

    def broken():
        raise DsmapError("no such card", "Buy one.")

    monkeypatch.setitem(registry.BACKENDS, "cuda", broken)
    with pytest.raises(DsmapError, match="no such card"):
        Translator.load(tiny_bundle, domain="winter", backend="cuda")
    on_cpus = {name: registry.BACKENDS[name] for name in ("openvino", "cpu")}
    monkeypatch.setattr(registry, "BACKENDS", {"cuda": broken, **on_cpus})
    translator = Translator.load(tiny_bundle, domain="winter", backend="auto")
    assert translator.backend_name == "cpu"  # OpenVINO is taken by name alone
    assert translator.backend_reason == "cuda: no such card"  # auto says why not the other


def test_the_runtime_needs_no_torch(tiny_bundle, tmp_path):
    """In a process where importing torch, onnx or yaml fails."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'yaml', 'safetensors'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from dsmap.runtime import Translator\n"
        f"t = Translator.load({str(tiny_bundle)!r}, domain='winter')\n"
        "print(t(np.zeros((20, 20, 3), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.stdout.strip() == "(20, 20, 3)", done.stderr


def test_what_a_translator_says_of_its_model(tiny_bundle):
    with Translator.load(tiny_bundle, domain="Winter", backend="cpu") as translator:
        assert (translator.source, translator.target, translator.domains) == ("summer", "winter", ("summer", "winter"))
        assert translator.styles == tuple(translator.bundle.manifest.styles["winter"].named)
    with pytest.raises(InputError, match="has no domain 'autumn'"):
        Translator.load(tiny_bundle, domain="autumn")


def test_a_style_code_is_a_style(tiny_bundle):
    translator = Translator.load(tiny_bundle, domain="winter", backend="cpu")
    mixed = (translator.find_style(1) + translator.find_style(None)) / 2
    translator.set_style(mixed.astype(np.float64))
    assert translator.style.dtype == np.float32
    np.testing.assert_allclose(translator.style, mixed)
    for wrong in (np.zeros(7), np.full(mixed.shape, np.nan)):
        with pytest.raises(InputError, match=rf"got a style code of {wrong.size} numbers, expected 3 finite ones"):
            translator.set_style(wrong)
    np.testing.assert_allclose(translator.style, mixed)


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [(0, 1, r"\(x \* 255\)"), (-1, 1, r"\(\(x \+ 1\) \* 127.5\)"), (0, 255, r"pass x\.round")],
)
def test_floats_are_refused_with_what_makes_frames_of_them(tiny_bundle, low, high, advice):
    translator = Translator.load(tiny_bundle, domain="winter", backend="cpu")
    frame = np.linspace(low, high, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    with pytest.raises(InputError, match=r"got float32 \(32, 32, 3\), expected uint8") as caught:
        translator(frame)
    assert re.search(rf"The values are {low} to {high}: .*{advice}", caught.value.advice)
