"""RGB of NV12 and P010 by the graph that a GPU runs, here on the CPU, beside the conversion of the host."""

from dataclasses import replace

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import onnxruntime as ort
import pytest
from device_frames import CENTRE, WEIGHTS, by_host, on_device, picture

from dsmap.errors import DsmapError
from dsmap.runtime.backends.device_frame import DeviceFrame, PlanesToRgb, planes_graph
from dsmap.runtime.backends.onnxruntime_planes import SessionPlanes


def session(graph: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"])


PLANES = SessionPlanes(ort, session, session, "cpu")
to_rgb = PLANES.to_rgb


def run(converter: PlanesToRgb, frame: DeviceFrame) -> np.ndarray:
    target = ort.OrtValue.ortvalue_from_shape_and_type(list(frame.shape), np.uint8, "cpu", 0)
    converter.run(frame, target)
    return target.numpy()[0]


@pytest.mark.parametrize("ten_bits", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_rgb_is_within_a_level_of_the_hosts(matrix: int, full: bool, ten_bits: bool) -> None:
    for size in ((64, 48), (70, 34)):  # 70: rows are longer than that in memory
        frame = picture(*size, matrix, full, ten_bits)
        given = on_device(frame, full)
        got = run(to_rgb(given.kind), given)
        apart = np.abs(got.astype(int) - by_host(frame))
        assert apart.max() <= 1
        assert apart.mean() < 0.03
        assert np.ptp(got, axis=(0, 1)).min() > 50  # it has colours


def test_the_siting_is_found_once_frames_show_it() -> None:
    grey = av.VideoFrame(64, 48, "nv12")
    for plane in grey.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    grey.colorspace, grey.color_range = 1, 1
    given = on_device(grey, False)
    converter = to_rgb(given.kind)
    for _ in range(2):
        assert np.array_equal(run(converter, given), by_host(grey))  # any siting would do
    first = on_device(picture(64, 48, 1, False, False), False)
    run(converter, first)
    (kept,) = converter._conversions
    expected = to_rgb(given.kind)
    expected._conversions = [PLANES._convert(planes_graph(given.kind, CENTRE), given.kind)]
    later = on_device(picture(64, 48, 1, False, False, phase=2), False)
    assert kept is not None
    assert np.array_equal(run(converter, later), run(expected, later))


def test_one_of_30_frames_is_compared_while_they_are_grey() -> None:
    """A clip that begins in black shows its siting late."""
    grey = av.VideoFrame(64, 48, "nv12")
    for plane in grey.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    grey.colorspace, grey.color_range = 1, 1
    given, compared = on_device(grey, False), []
    counted = replace(given, to_rgb=lambda: compared.append(1) or by_host(grey))
    converter = to_rgb(given.kind)
    for _ in range(60):
        assert np.array_equal(run(converter, counted), by_host(grey))
    assert len(compared) == 31
    coloured = picture(64, 48, 1, False, False)
    got = run(converter, on_device(coloured, False)).astype(int)
    assert np.abs(got - by_host(coloured)).max() <= 1
    assert len(converter._conversions) == 1


@pytest.mark.parametrize("of", ["rgb", "planes"])
def test_noise_is_no_reason_to_stop(of: str) -> None:
    """Beyond the range of RGB, more values than usual differ by more than a level."""
    rng = np.random.default_rng(0)
    frame = av.VideoFrame(128, 128, "nv12")
    if of == "rgb":
        noise = av.VideoFrame.from_ndarray(rng.integers(0, 256, (128, 128, 3), np.uint8), format="rgb24")
        frame = noise.reformat(format="nv12", dst_colorspace=1, dst_color_range=1)
    else:
        for plane in frame.planes:
            plane.update(rng.integers(16, 236, plane.buffer_size, np.uint8).tobytes())
    frame.colorspace, frame.color_range = 1, 1
    given = on_device(frame, False)
    converter = to_rgb(given.kind)
    apart = np.abs(run(converter, given).astype(int) - by_host(frame))
    assert 0.001 < (apart > 1).mean() < 0.01
    assert len(converter._conversions) == 1


def test_planes_that_are_not_the_decoders_stop_it() -> None:
    frame, other = picture(64, 48, 1, False, False), picture(64, 48, 1, False, False, phase=1)
    given, wrong = on_device(frame, False), on_device(other, False)
    mixed = DeviceFrame(
        kind=given.kind, luma=given.luma, chroma=wrong.chroma, owner=other, wait=given.wait, to_rgb=given.to_rgb
    )
    with pytest.raises(DsmapError, match=r"\d+\.\d\d% of the values differ by more than a level, the worst by \d+"):
        run(to_rgb(given.kind), mixed)
