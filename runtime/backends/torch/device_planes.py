"""Conversions between a decoder's or an encoder's planes and RGB, on the stream of a lane."""

from collections.abc import Callable

import torch
from torch import Tensor

from dsmap.runtime.backends.base import Frames
from dsmap.runtime.backends.device_frame import (
    CHROMA,
    LUMA,
    Convert,
    DeviceFrame,
    PlanesToRgb,
    plane_shapes,
)
from dsmap.runtime.backends.device_frame import RGB as RGB_OF_PLANES
from dsmap.runtime.backends.device_result import NV12, RGB, DeviceResult, check_nv12, noise, nv12_graph, pitch_of
from dsmap.runtime.backends.dlpack import Plane
from dsmap.runtime.backends.torch.cuda_device import TorchCuda
from dsmap.runtime.backends.torch.lanes import Lane
from dsmap.runtime.backends.torch.modules import single_module
from dsmap.runtime.bundle.bundle import GraphData


class _Lent:
    """Memory of a result; it returns to where it came from when nobody needs the result any more."""

    def __init__(self, memory: Tensor, free: list[Tensor]) -> None:
        self.memory, self._free = memory, free

    def __del__(self) -> None:
        self._free.append(self.memory)


class TorchPlanes:
    """What converts frames, opened when it is needed and kept while their kind and size stay."""

    def __init__(self, cuda: TorchCuda) -> None:
        self._cuda = cuda
        self._to_rgb: PlanesToRgb | None = None
        self._to_nv12: tuple[tuple[int, int], Callable[[Tensor], Tensor]] | None = None
        # FFmpeg registers the addresses of results with NVENC until the encoder is closed. So they are used again, and
        # not given back to the device, which torch does whenever it captures a graph.
        self._free: list[Tensor] = []

    def load(self, frame: DeviceFrame, lane: Lane) -> None:
        """Puts the conversion of a decoder's frame into the lane's memory on its stream; the lane keeps the frame.

        Raises DsmapError as `PlanesToRgb`.
        """
        if self._to_rgb is None or self._to_rgb.kind != frame.kind:
            self._to_rgb = PlanesToRgb(self._convert, self._on_host, frame.kind)
        lane.given = frame
        self._to_rgb.run(frame, lane)

    def result(self, rgb: Tensor, lane: Lane) -> DeviceResult:
        """The encoder's frame of RGB (1, H, W, 3), when the lane's stream gets there.

        The encoder may hold any number of them. Raises DsmapError as `check_nv12`.
        """
        _, height, width, _ = rgb.shape
        if self._to_nv12 is None or self._to_nv12[0] != (width, height):
            self._to_nv12, self._free = ((width, height), self._checked_nv12(width, height, lane)), []
        convert, cuda = self._to_nv12[1], self._cuda
        made = cuda.run(lambda: convert(rgb), lane.stream)
        memory = self._free.pop() if self._free else cuda.memory(tuple(made.shape), torch.uint8, lane.stream)
        cuda.move(memory, made, lane.stream)
        plane, owner = Plane(memory.data_ptr(), pitch_of(width)), _Lent(memory, self._free)
        return DeviceResult(width=width, height=height, plane=plane, device=cuda.device.type, owner=owner)

    def _convert(self, graph: bytes) -> Convert:
        module = single_module(_graph(graph), LUMA, CHROMA, wanted=RGB_OF_PLANES).to(self._cuda.device)

        def convert(frame: DeviceFrame, lane: Lane) -> None:
            given = [
                self._cuda.adopt(plane, shape, torch.uint16 if frame.kind.ten_bits else torch.uint8, frame)
                for plane, shape in zip((frame.luma, frame.chroma), plane_shapes(frame.kind), strict=True)
            ]
            rgb = self._cuda.run(lambda: module.forward(*given), lane.stream)
            self._cuda.move(lane.frames, rgb, lane.stream)

        return convert

    def _on_host(self, lane: Lane) -> Frames:
        self._cuda.copy(lane.output_host, lane.frames, lane.stream)
        self._cuda.record(lane.done, lane.stream)
        self._cuda.wait(lane.done)
        frame: Frames = lane.output_host.numpy()[0]
        return frame

    def _checked_nv12(self, width: int, height: int, lane: Lane) -> Callable[[Tensor], Tensor]:
        graph, of_noise = _graph(nv12_graph(width, height)), torch.from_numpy(noise(width, height))
        by_cpu = single_module(graph, RGB, wanted=NV12).forward(of_noise)
        module = single_module(graph, RGB, wanted=NV12).to(self._cuda.device)
        cuda, stream = self._cuda, lane.stream
        there, back = cuda.pinned(tuple(of_noise.shape), torch.uint8), cuda.pinned(tuple(by_cpu.shape), torch.uint8)
        there.copy_(of_noise)
        rgb = cuda.memory(tuple(of_noise.shape), torch.uint8, stream)
        cuda.copy(rgb, there, stream)
        cuda.copy(back, cuda.run(lambda: module.forward(rgb), stream), stream)
        cuda.record(lane.done, stream)
        cuda.wait(lane.done)
        check_nv12(back.numpy(), by_cpu.numpy())
        convert: Callable[[Tensor], Tensor] = module.forward
        return convert


def _graph(data: bytes) -> GraphData:
    return GraphData(data, "", "fp32", "the conversion of frames")
