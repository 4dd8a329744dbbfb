"""The torch backend's way on a GPU, on a stand-in for PyTorch's CUDA whose streams run as late as they may."""

import gc
import itertools
import threading
import weakref
from dataclasses import replace

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest
import torch
from device_frames import by_host, on_device, picture, plane_values
from torch_doubles import LateTorchCuda, spy

from dsmap.errors import DsmapError
from dsmap.runtime.backends import dlpack
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU
from dsmap.runtime.backends.torch import backend as torch_backend
from dsmap.runtime.backends.torch import device_planes, devices
from dsmap.runtime.backends.torch.backend import TorchBackend
from dsmap.runtime.backends.torch.gpu_frames import GpuFrames
from dsmap.runtime.backends.torch.lanes import MAX_SIZES, UNCOMPILED_FRAMES
from dsmap.runtime.backends.torch.precision import tf32_in_convolutions
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.video.rgb_to_frame import RgbToFrame


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


@pytest.fixture(scope="module")
def by_cpu(bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, "winter", BackendSettings(threads=1))


@pytest.fixture
def gpu(monkeypatch) -> LateTorchCuda:
    """A machine with a GPU, as far as the backend can tell; nothing is compiled unless a test says how."""
    cuda = LateTorchCuda()
    monkeypatch.setattr(torch_backend, "find_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch_backend, "name_of", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch_backend, "TorchCuda", lambda: cuda)
    monkeypatch.setattr(torch_backend, "why_not_compiled", lambda device: None)
    monkeypatch.setattr(torch_backend, "compiled", lambda module: module.forward)
    monkeypatch.setattr(torch.fx.GraphModule, "to", lambda self, device: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    to = torch.Tensor.to
    on_cpu = lambda self, where, *more: self if isinstance(where, torch.device) else to(self, where, *more)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", on_cpu)
    return cuda


def frames(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def styles(n: int, seed: int = 0) -> np.ndarray:
    return np.repeat(np.random.default_rng(seed).standard_normal((1, 3)).astype(np.float32), n, 0)


def make(bundle, at_once=3, **settings) -> TorchBackend:
    return TorchBackend(bundle, "winter", BackendSettings(frames_at_once=at_once, threads=1, **settings))


def right(by_cpu, got, image, style) -> None:
    expected = by_cpu.translate(image, style)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_equals_the_cpu_at_changing_sizes_batches_and_styles(gpu, bundle, by_cpu):
    backend = make(bundle)
    assert (backend.in_flight, backend.on_host) == (3, False)
    done = []
    for i, (n, height, width) in enumerate([(1, 32, 40), (2, 16, 24), (1, 32, 40), (1, 48, 16)] * 4):
        image, style = frames(n, height, width, i), styles(n, i // 3)
        done.append((backend.translate(image, style), image, style))
    for one in done:  # after all: a result may not change with the next frame
        right(by_cpu, *one)
    weights = [weakref.ref(weight) for weight in backend._frames._translation.__self__.buffers()]
    backend.close()
    assert gpu.used() == 0
    assert [weight for weight in weights if weight() is not None] == []
    with pytest.raises(DsmapError, match="the translator is closed"):
        backend.translate(frames(1, 16, 16), styles(1))


def test_frames_under_way_do_not_mix(gpu, bundle, by_cpu):
    """Three at a time, waited for in any order and from other threads, the style changing, frames changed at once."""
    backend = make(bundle)
    for round_, order in enumerate(itertools.permutations(range(3))):
        begun = []
        for i in range(3):
            image, style = frames(1, 24, 32, 3 * round_ + i), styles(1, (round_ + i) // 2)
            begun.append((backend.submit(image, style), image.copy(), style))
            image[:] = 0  # it was copied
        with pytest.raises(DsmapError, match="more than 3 frames are under way"):
            backend.submit(image, style)
        for i in order:
            wait, image, style = begun[i]
            got: list[np.ndarray] = []
            thread = threading.Thread(target=lambda wait=wait, got=got: got.append(wait()))
            thread.start()
            thread.join()
            right(by_cpu, got[0], image, style)
    assert "launch" in gpu.log
    backend.close()


def test_a_size_is_compiled_once_it_has_had_its_first_frames(gpu, bundle, by_cpu, monkeypatch, caplog):
    made: list[int] = []
    monkeypatch.setattr(torch_backend, "compiled", lambda module: spy(made, lambda: len(made), module.forward))
    backend = make(bundle, at_once=2)
    assert backend.description == f"torch {devices.version()} on NVIDIA H200, fp32 with TF32, compiled"
    assert caplog.messages == []
    for i in range(UNCOMPILED_FRAMES):
        right(by_cpu, backend.translate(frames(1, 24, 16, i), styles(1)), frames(1, 24, 16, i), styles(1))
    assert (made, caplog.messages) == ([], [])
    for i in range(6):
        right(by_cpu, backend.translate(frames(1, 24, 16, i), styles(1)), frames(1, 24, 16, i), styles(1))
    assert made
    line = "compiling the model for frames of 16x24: about half a minute, a few seconds when it is known"
    assert caplog.messages == [line]
    # Of two lanes both were captured once, and every frame since was a launch.
    assert (gpu.log.count("capture"), gpu.log.count("launch")) == (2, 6)
    for i in range(UNCOMPILED_FRAMES + 1):
        backend.translate(frames(2, 16, 16, i), styles(2))
    assert caplog.messages == [line, line.replace("16x24", "2 of 16x16")]
    backend.close()


def test_a_style_goes_up_only_when_it_changes(gpu, bundle):
    backend = make(bundle, at_once=1)
    gpu.log.clear()
    for i in range(12):
        backend.translate(frames(1, 16, 16, i), styles(1, i // 6))
    assert gpu.log.count("copy") == 12 + 12 + 2
    backend.close()


def test_a_compiler_that_fails_is_told_once_and_frames_are_the_same(gpu, bundle, by_cpu, monkeypatch, caplog):
    def broken(*_given):
        raise RuntimeError("Failed to find C compiler.\nMore.")

    monkeypatch.setattr(torch_backend, "compiled", lambda module: broken)
    backend = make(bundle, at_once=1)
    for i in range(14):
        image = frames(1, 16, 16 + 8 * (i // 7), i)
        right(by_cpu, backend.translate(image, styles(1)), image, styles(1))
    told = "uncompiled, which makes no difference but in speed: Failed to find C compiler."
    assert caplog.messages.count(told) == 1
    assert len(caplog.messages) == 2
    assert "launch" in gpu.log  # as CUDA graphs all the same
    backend.close()


def test_a_refused_capture_is_told_once_and_frames_are_the_same(gpu, bundle, by_cpu, caplog):
    backend = make(bundle, at_once=2)
    gpu.fail["capture"] = RuntimeError("CUDA error: operation not permitted when stream is capturing\nMore.")
    for i in range(14):
        image = frames(1, 16, 16 + 8 * (i // 7), i)
        right(by_cpu, backend.translate(image, styles(1)), image, styles(1))
    assert caplog.text.count("without CUDA graphs, which makes no difference but in speed: CUDA error: operation") == 1
    assert "launch" not in gpu.log
    backend.close()


def test_no_triton_is_said(gpu, bundle, monkeypatch, caplog):
    monkeypatch.setattr(torch_backend, "why_not_compiled", lambda device: "eager: Triton is not installed")
    backend = make(bundle)
    assert backend.description.endswith(", eager: Triton is not installed")
    assert caplog.messages == [backend.description]
    for i in range(8):
        backend.translate(frames(1, 16, 16, i), styles(1))
    assert len(caplog.messages) == 1
    assert "launch" in gpu.log
    backend.close()


def test_the_last_sizes_are_kept_and_give_way_where_the_device_is_full(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=1)
    for i in range(2 * MAX_SIZES + 2):
        backend.translate(frames(1, 16, 16 + 8 * i), styles(1))
        assert len(backend._frames._sizes) <= MAX_SIZES
    held = gpu.used()
    assert 0 < held < 3 * (16 * 80 * 3 + 4096)
    gpu.room = held + 16 * 96 * 3 // 2  # room for the style, and for half a frame more
    image = frames(1, 24, 96)
    right(by_cpu, backend.translate(image, styles(1)), image, styles(1))
    assert len(backend._frames._sizes) < MAX_SIZES
    gpu.room = 100
    with pytest.raises(DsmapError, match=r"torch stopped: CUDA out of memory\. Tried to allocate 2.00 GiB\.") as caught:
        backend.translate(frames(1, 64, 64), styles(1))
    assert "--height" in caught.value.advice
    gpu.room = 1 << 40
    right(by_cpu, backend.translate(image, styles(1)), image, styles(1))
    backend.close()


def test_a_size_with_a_frame_under_way_is_not_dropped(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=1)
    image = frames(1, 16, 16)
    wait = backend.submit(image, styles(1))
    for i in range(MAX_SIZES + 1):
        backend.translate(frames(1, 24, 16 + 8 * i), styles(1))
    right(by_cpu, wait(), image, styles(1))
    backend.close()


def test_a_frame_that_fails_leaves_the_next_ones_right(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=2)
    image, style = frames(1, 16, 16), styles(1)
    for _ in range(3):
        for what in ("copy", "run", "launch", "wait"):
            gpu.fail[what] = RuntimeError("CUDA error: an illegal instruction was encountered")
            pending = None
            if what in ("wait",):
                pending = backend.submit(frames(1, 16, 16, 1), styles(1, 1))
            elif what == "copy" or what in gpu.log[-4:]:
                with pytest.raises(DsmapError, match="torch stopped: CUDA error"):
                    backend.submit(frames(1, 16, 16, 1), styles(1, 1))
            if pending is not None:
                with pytest.raises(DsmapError, match="torch stopped: CUDA error"):
                    pending()
            gpu.fail.clear()
            begun = [backend.submit(image, style) for _ in range(2)]
            for wait in begun:
                right(by_cpu, wait(), image, style)
    backend.close()


def test_what_was_cancelled_raises_and_what_comes_later_does_not(gpu, bundle, by_cpu):
    backend = make(bundle, at_once=2)
    image, style = frames(1, 16, 16), styles(1)
    waits = [backend.submit(image, style) for _ in range(2)]
    backend.cancel()
    for wait in waits:
        with pytest.raises(DsmapError, match="cancelled"):
            wait()
    right(by_cpu, backend.translate(image, style), image, style)
    backend.close()


def test_a_full_device_makes_frames_slower_and_no_fewer(gpu, bundle, by_cpu, monkeypatch, caplog):
    """Too little memory for a graph, or for compiling: the size goes on as its first frames did, which is told once."""
    full = torch.OutOfMemoryError("CUDA out of memory.")
    backend = make(bundle, at_once=2)
    gpu.fail["capture"] = full
    for i in range(UNCOMPILED_FRAMES + 4):
        right(by_cpu, backend.translate(frames(1, 24, 16, i), styles(1)), frames(1, 24, 16, i), styles(1))
    assert caplog.messages[1:] == ["frames of 16x24 go on without CUDA graphs, as the GPU's memory is full"]
    assert gpu.log.count("capture") == 1
    del gpu.fail["capture"]
    for i in range(UNCOMPILED_FRAMES + 2):  # another size has its own
        backend.translate(frames(1, 16, 16, i), styles(1))
    assert gpu.log.count("capture") > 1
    caplog.clear()

    def too_large(*_given):
        raise full

    monkeypatch.setattr(torch_backend, "compiled", lambda module: too_large)
    for i in range(UNCOMPILED_FRAMES + 4):
        right(by_cpu, backend.translate(frames(1, 32, 16, i), styles(1)), frames(1, 32, 16, i), styles(1))
    tries = ["compiling the model for frames of 16x32: about half a minute, a few seconds when it is known"] * 3
    told = "frames of 16x32 go on uncompiled, as the GPU's memory is full"
    assert caplog.messages == [*tries, told]  # again without each of the other sizes
    gpu.fail["run"] = full
    with pytest.raises(DsmapError, match="CUDA out of memory") as caught:
        backend.translate(frames(1, 32, 16), styles(1))
    assert "smaller size" in caught.value.advice
    backend.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda: None,
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends.cudnn, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    ],
)
def test_tf32_is_as_said_whatever_the_process_has_set(use):
    conv, rnn = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    try:
        use()
        before = conv.fp32_precision, rnn.fp32_precision
        for allowed in (True, False):
            with tf32_in_convolutions(allowed):
                assert (conv.fp32_precision == "tf32") == allowed
                assert torch.backends.cudnn.allow_tf32 == allowed
            assert (conv.fp32_precision, rnn.fp32_precision) == before
    finally:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        torch.backends.cudnn.allow_tf32 = True
    assert torch.backends.cudnn.allow_tf32


def test_half_precision_waits_for_nobody():
    """Another translator compiles for half a minute within its setting of TF32."""
    with GpuFrames(LateTorchCuda(), None, None, 1, True)._modes():
        began = threading.Event()

        def other() -> None:
            with GpuFrames(LateTorchCuda(), None, None, 1, None)._modes():
                began.set()

        threading.Thread(target=other, daemon=True).start()
        assert began.wait(60)


def test_tf32_is_as_said_and_afterwards_as_before(gpu, bundle):
    """torch allows it in convolutions by default, and the setting is the process's."""
    before = torch._C._get_cudnn_allow_tf32()
    for precision, allowed, arithmetic in (("auto", True, "fp32 with TF32"), ("fp32", False, "fp32")):
        backend = make(bundle, precision=precision)
        assert f"H200, {arithmetic}, compiled" in backend.description
        seen: list[bool] = []
        backend._frames._translation = spy(seen, torch._C._get_cudnn_allow_tf32, backend._frames._translation)
        for i in range(UNCOMPILED_FRAMES):
            backend.translate(frames(1, 16, 16, i), styles(1))
        assert set(seen) <= {allowed, before}
        assert allowed in seen
        assert torch._C._get_cudnn_allow_tf32() == before
        backend.close()


def test_half_precision_is_taken_where_the_bundle_has_it(gpu):
    shipped = Bundle.read(find_model("summer-winter"))
    backend = make(shipped)
    assert backend.precision == "fp16"
    assert ", fp16, compiled" in backend.description
    backend.close()


def test_a_gpu_that_torch_has_no_kernels_for_is_named(gpu, bundle, monkeypatch):
    def refuse(*_given):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nMore.")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 1))
    monkeypatch.setattr(torch_backend, "translation_module", lambda *_given: FakeModule(refuse))
    with pytest.raises(DsmapError, match=r"torch .* has no kernels for compute capability 12\.1"):
        make(bundle)
    monkeypatch.setattr(torch_backend, "translation_module", lambda *_given: FakeModule(lambda x, _: x.float()))
    with pytest.raises(DsmapError, match=r"the model gives torch\.float32 of \(1, 16, 16, 3\)"):
        make(bundle)


class FakeModule:
    def __init__(self, forward) -> None:
        self.forward = forward

    def to(self, _device):
        return self


def test_why_nothing_is_compiled(monkeypatch):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert devices.why_not_compiled(torch.device("cpu")) == "eager"
    assert devices.why_not_compiled(cuda) == "eager: Triton is not installed"
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    assert devices.why_not_compiled(cuda) == "eager: Triton needs compute capability 7.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setenv("CC", "no-such-compiler")
    assert devices.why_not_compiled(cuda) == "eager: Triton needs a C compiler"
    monkeypatch.setenv("CC", "sh")
    assert devices.why_not_compiled(cuda) is None


def test_a_gpu_that_torch_does_not_use_is_said(bundle, monkeypatch, caplog):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("a GPU is here")
    monkeypatch.setattr(devices, "current_architecture", lambda: "9.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    backend = make(bundle)
    assert backend.description.endswith("on the CPU (this torch is built without CUDA), fp32, eager")
    assert caplog.messages == [backend.description]


def test_translators_in_two_threads_leave_torch_as_it_was():
    """TF32 is the process's: one begins a frame while another is within its own."""
    inside, go_on, before = threading.Event(), threading.Event(), torch.backends.cudnn.allow_tf32
    seen: list[bool] = []

    def first() -> None:
        with GpuFrames(LateTorchCuda(), None, None, 1, not before)._modes():
            inside.set()
            go_on.wait(90)

    def second() -> None:
        inside.wait(90)
        with GpuFrames(LateTorchCuda(), None, None, 1, before)._modes():
            first_.join(90)
            seen.append(torch.backends.cudnn.allow_tf32)

    first_, second_ = threading.Thread(target=first), threading.Thread(target=second)
    first_.start()
    second_.start()
    inside.wait(90)
    second_.join(0.2)
    go_on.set()
    second_.join(90)
    assert seen == [before]
    assert torch.backends.cudnn.allow_tf32 == before


def test_frames_of_a_decoder_stay_on_the_device(gpu, bundle, by_cpu):
    """NV12 and P010, sizes in turn, three under way; a frame is kept as long as the stream may read it."""
    backend = make(bundle)
    assert backend.takes_device_frames
    for round_ in range(3):
        for size, ten_bits in (((32, 24), False), ((40, 16), True)):
            begun = []
            for i in range(3):
                frame = picture(*size, 1, False, ten_bits, phase=round_ + i)
                given, style = on_device(frame, False), styles(1, i)
                begun.append((backend.submit_device(given, style), by_host(frame)[None], style, weakref.ref(given)))
                del frame, given
            lanes = backend._frames._find((1, size[1], size[0], 3), backend._params(styles(1))).lanes
            assert {id(lane.given) for lane in lanes} == {id(kept()) for *_, kept in begun}
            for wait, rgb, style, kept in begun:
                apart = np.abs(wait().astype(int) - by_cpu.translate(rgb, style))
                assert apart.max() <= 4  # random weights make more of a level of the frame
                assert apart.mean() < 0.5
                gc.collect()
                assert kept() is None
    assert "launch" in gpu.log
    host = frames(1, 24, 32)
    right(by_cpu, backend.translate(host, styles(1)), host, styles(1))  # the lanes take those of the host again
    backend.close()


def test_results_stay_on_the_device_for_its_encoder(gpu, bundle):
    backend = make(bundle)
    given = on_device(picture(32, 24, 1, False, False), False)
    expected = plane_values(RgbToFrame("nv12")(backend.submit_device(given, styles(1))()[0]))
    used: set[int] = set()
    for order in itertools.permutations(range(3)):
        begun = [backend.submit_device(given, styles(1), keep=True) for _ in range(3)]
        results = [begun[i]() for i in order]
        taken = [av.VideoFrame.from_dlpack(result.planes(), format="nv12") for result in results]
        for planes in map(plane_values, taken):
            assert max(np.abs(one - two).max() for one, two in zip(planes, expected, strict=True)) <= 1
        used |= {result.plane.address for result in results}
    assert len(used) == 3 + len(begun)  # those that are held, and those of the frames after them
    assert len({result.plane.address for result in results}) == 3
    del results, taken
    gc.collect()
    assert not dlpack._lent
    backend.close()


def test_a_device_that_converts_otherwise_ends_it(gpu, bundle, by_cpu, monkeypatch):
    backend = make(bundle)
    given = on_device(picture(32, 24, 1, False, False), False)
    with monkeypatch.context() as patch:
        patch.setattr(device_planes, "noise", lambda width, height: np.zeros((1, height, width, 3), np.uint8))
        patch.setattr(LateTorchCuda, "copy", lambda self, target, source, stream: target.fill_(9))
        with pytest.raises(DsmapError, match="frames that the GPU makes for its encoder differ from the CPU's by"):
            backend._frames._planes._checked_nv12(32, 24, backend._frames._find((1, 24, 32, 3), torch.zeros(1)).free[0])
    mixed = replace(given, chroma=given.luma)
    with pytest.raises(DsmapError, match="frames in the memory of the GPU are not the decoder's"):
        backend.submit_device(mixed, styles(1))
    host = frames(1, 24, 32)
    right(by_cpu, backend.translate(host, styles(1)), host, styles(1))
    backend.close()
