"""NV12 of RGB by the graph that a GPU runs, here on the CPU, beside the conversion of the host; whose memory it is."""

import contextlib
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import onnxruntime as ort
import pytest
from device_frames import by_host, picture, plane_values
from device_frames import on_device as on_a_device
from onnx import TensorProto, helper

from dsmap.errors import DsmapError
from dsmap.runtime.backends import dlpack
from dsmap.runtime.backends.device_frame import SITINGS
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.backends.frame_binding import FrameBinding
from dsmap.runtime.backends.gpu_graph import FRAMES, OUTPUT
from dsmap.runtime.backends.onnxruntime_planes import SessionPlanes
from dsmap.runtime.video import device_encoding
from dsmap.runtime.video.rgb_to_frame import RgbToFrame


def session(graph: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"])


def on_device(rgb: np.ndarray) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(rgb[None], "cpu", 0)


def converter(width: int, height: int) -> Callable[[ort.OrtValue], DeviceResult]:
    return SessionPlanes(ort, session, session, "cpu").to_nv12(width, height)


@pytest.mark.parametrize("size", [(64, 48), (70, 34), (16, 16)])
def test_nv12_is_within_a_level_of_the_hosts(size: tuple[int, int]) -> None:
    width, height = size
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    smooth = (np.sin(rows / 5 + [0, 1, 2]) * 60 + np.cos(columns / [7, 9, 11]) * 60 + 128).astype(np.uint8)
    edges = np.where((columns // 9 + rows // 5 + [0, 1, 2]) % 3 == 0, 255, 0).astype(np.uint8)
    of_size = converter(width, height)
    for rgb in (noise, smooth, edges):
        frame = av.VideoFrame.from_dlpack(of_size(on_device(rgb)).planes(), format="nv12")
        expected = RgbToFrame("nv12")(rgb)
        assert frame.planes[0].line_size % 256 == 0
        for ours, hosts in zip(plane_values(frame), plane_values(expected), strict=True):
            apart = np.abs(ours - hosts)
            assert apart.max() <= 1
            assert apart.mean() < 0.05
        same = RgbToFrame()(rgb).reformat(format="nv12")  # what encoders of yuv420p are given
        assert all(map(np.array_equal, plane_values(same), plane_values(expected)))


def test_chroma_lies_directly_behind_the_luma() -> None:
    """FFmpeg tells NVENC the address of the luma alone."""
    result = converter(70, 34)(on_device(np.zeros((34, 70, 3), np.uint8)))
    luma, chroma = (dlpack.read_plane(capsule)[0] for capsule in result.planes())
    assert (luma.address, luma.pitch) == (result.owner.data_ptr(), 256)
    assert chroma == dlpack.Plane(luma.address + 34 * 256, 256)
    dlpack._lent.clear()  # the capsules were not used


def test_memory_is_kept_as_long_as_frames_need_it() -> None:
    of_size = converter(64, 48)
    assert not dlpack._lent
    rgb = np.random.default_rng(2).integers(0, 256, (2, 48, 64, 3), np.uint8)
    frames = [av.VideoFrame.from_dlpack(of_size(on_device(one)).planes(), format="nv12") for one in rgb]
    gc.collect()
    kept = [plane_values(frame) for frame in frames]
    of_size(on_device(255 - rgb[0]))  # would write where memory was free
    assert all(
        np.array_equal(*pair)
        for frame, one in zip(frames, kept, strict=True)
        for pair in zip(plane_values(frame), one, strict=True)
    )
    assert len(dlpack._lent) == 4
    del frames
    gc.collect()
    assert not dlpack._lent


def test_what_converts_is_kept_while_the_size_stays_and_no_longer() -> None:
    """A job's first frame comes from the host, the others from the decoder: jobs of one size open nothing anew."""
    of_any_size = [TensorProto.UINT8, (None, None, None, 3)]
    infos = [helper.make_tensor_value_info(name, *of_any_size) for name in (FRAMES, OUTPUT)]
    graph = helper.make_graph([helper.make_node("Identity", [FRAMES], [OUTPUT])], "same", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    opened: list[weakref.ref] = []

    def counted(graph: bytes) -> ort.InferenceSession:
        opened.append(weakref.ref(made := session(graph)))
        return made

    planes, style = SessionPlanes(ort, counted, session, "cpu"), np.zeros((1, 1), np.float32)
    smallest = np.zeros((1, 16, 16, 3), np.uint8)
    binding = FrameBinding(ort, session(model.SerializeToString()), "cpu", smallest, None, planes)
    decoded = picture(64, 48, 1, False, False)
    given, host = on_a_device(decoded, False), np.random.default_rng(4).integers(0, 256, (1, 48, 64, 3), np.uint8)
    expected = plane_values(RgbToFrame("nv12")(by_host(decoded)))
    for _ in range(2):
        assert np.array_equal(binding.run(host, style), host)
        assert np.abs(binding.run(given, style)[0].astype(int) - by_host(decoded)).max() <= 1
        kept = binding.run(given, style, keep=True)
        assert isinstance(kept, DeviceResult)
        frame = av.VideoFrame.from_dlpack(kept.planes(), format="nv12")
        assert max(np.abs(one - two).max() for one, two in zip(plane_values(frame), expected, strict=True)) <= 2
    assert len(opened) == len(SITINGS) + 1
    assert np.array_equal(binding.run(smallest, style), smallest)
    gc.collect()
    assert [one() for one in opened] == [None] * len(opened)


def test_what_ffmpeg_does_not_take_is_not_blamed_on_the_disk(monkeypatch) -> None:
    monkeypatch.setattr(device_encoding, "primary_context", contextlib.nullcontext)  # there is none, with a GPU too
    memory = np.zeros((72, 256), np.uint8)
    result = DeviceResult(width=64, height=48, plane=dlpack.Plane(memory.ctypes.data, 256), device="cuda", owner=memory)
    with pytest.raises(DsmapError, match="FFmpeg does not take frames in the GPU's memory: ") as caught:
        device_encoding.DeviceEncoding().frame(result)
    assert "--hwaccel" in caught.value.advice
    assert not dlpack._lent


AT_THE_EXIT = """
import sys
import cv2, av, numpy as np
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.backends.dlpack import Plane

memory = np.zeros((72, 256), np.uint8)
result = DeviceResult(width=64, height=48, plane=Plane(memory.ctypes.data, 256), device="cpu", owner=memory)
sys.outlives_other_modules = av.VideoFrame.from_dlpack(result.planes(), format="nv12")
"""


def test_frames_that_are_left_when_the_interpreter_exits_do_no_harm() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_EXIT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_device_that_converts_otherwise_is_not_used() -> None:
    def swapped(graph: bytes) -> ort.InferenceSession:
        import onnx

        model = onnx.load_from_string(graph)
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == "chroma_weights")
        values = onnx.numpy_helper.to_array(weights)
        weights.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), weights.name))
        return session(model.SerializeToString())

    with pytest.raises(
        DsmapError, match=r"frames that the GPU makes for its encoder differ from the CPU's by \d+ levels"
    ):
        SessionPlanes(ort, swapped, session, "cpu").to_nv12(64, 48)
