"""Conversions between a decoder's or an encoder's planes and RGB within a device, by ONNX Runtime."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dsmap.runtime.backends.device_frame import (
    CHROMA,
    LUMA,
    Convert,
    DeviceFrame,
    PlanesKind,
    PlanesToRgb,
    plane_shapes,
)
from dsmap.runtime.backends.device_frame import RGB as RGB_OF_PLANES
from dsmap.runtime.backends.device_result import NV12, RGB, DeviceResult, check_nv12, noise, nv12_graph, pitch_of
from dsmap.runtime.backends.dlpack import Plane


class SessionPlanes:
    """Opens what converts frames of one size. Each of it is for one thread; what it makes is done on return."""

    def __init__(
        self, ort: Any, new_session: Callable[[bytes], Any], new_session_on_cpu: Callable[[bytes], Any], device: str
    ) -> None:
        """`new_session`: opens an ONNX graph on `device`: "cuda", or "cpu" where planes are in ordinary memory."""
        self._ort, self._device = ort, device
        self._new_session, self._new_session_on_cpu = new_session, new_session_on_cpu

    def to_rgb(self, kind: PlanesKind) -> PlanesToRgb:
        """What writes the RGB of a decoder's frames into OrtValues."""
        return PlanesToRgb(lambda graph: self._convert(graph, kind), lambda target: target.numpy()[0], kind)

    def _convert(self, graph: bytes, kind: PlanesKind) -> Convert:
        session = self._new_session(graph)
        (luma, chroma), number = plane_shapes(kind), np.uint16 if kind.ten_bits else np.uint8

        def convert(frame: DeviceFrame, target: Any) -> None:
            binding = session.io_binding()
            binding.bind_input(LUMA, self._device, 0, number, luma, frame.luma.address)
            binding.bind_input(CHROMA, self._device, 0, number, chroma, frame.chroma.address)
            binding.bind_ortvalue_output(RGB_OF_PLANES, target)
            session.run_with_iobinding(binding)

        return convert

    def to_nv12(self, width: int, height: int) -> Callable[[Any], DeviceResult]:
        """What makes an encoder's frame of RGB, an OrtValue (1, H, W, 3). Raises DsmapError as `check_nv12`."""
        graph = nv12_graph(width, height)
        session, shape = self._new_session(graph), [height * 3 // 2, pitch_of(width)]

        def convert(rgb: Any) -> DeviceResult:
            # Memory of its own for each frame: the encoder holds several.
            memory = self._ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._device, 0)
            binding = session.io_binding()
            binding.bind_ortvalue_input(RGB, rgb)
            binding.bind_ortvalue_output(NV12, memory)
            session.run_with_iobinding(binding)
            plane = Plane(memory.data_ptr(), shape[1])
            return DeviceResult(width=width, height=height, plane=plane, device=self._device, owner=memory)

        of_noise = noise(width, height)
        here = convert(self._ort.OrtValue.ortvalue_from_numpy(of_noise, self._device, 0))
        check_nv12(here.owner.numpy(), self._new_session_on_cpu(graph).run([NV12], {RGB: of_noise})[0])
        return convert
