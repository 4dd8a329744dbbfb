"""Memory of one frame for an ONNX Runtime session: what is bound to the graph, on the device and on the host.

A frame is copied into pinned memory and goes to the device from there; the result comes back into pinned memory in the
session's own stream. All of it is kept while the size stays the same.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dsmap.runtime.backends.base import Codes, Frames
from dsmap.runtime.backends.device_frame import DeviceFrame, PlanesToRgb
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.backends.gpu_graph import FRAMES, OUTPUT, STYLE
from dsmap.runtime.backends.onnxruntime_planes import SessionPlanes
from dsmap.runtime.backends.pinned_memory import PinnedMemory

_SHRINK = "memory.enable_memory_arena_shrinkage"


class FrameBinding:
    """Runs a session for one frame at a time. Each thread has its own."""

    def __init__(
        self,
        ort: Any,
        session: Any,
        device: str,
        smallest: Frames,
        style_params: Callable[[Codes], Codes] | None,
        planes: SessionPlanes,
    ) -> None:
        """`device`: cuda or cpu. `smallest`: the smallest frame that the graph takes. `style_params`: the decoder's
        parameters for style codes; None without styles. `planes`: opens what converts frames of a decoder, and for an
        encoder, within the device.
        """
        self._ort, self._session, self._device = ort, session, device
        self._smallest, self._style_params, self._planes = smallest, style_params, planes
        self._converter: PlanesToRgb | None = None
        self._host = PinnedMemory() if device == "cuda" else None
        self._shape: tuple[int, ...] | None = None
        self._style: Codes | None = None  # the codes whose parameters are on the device
        self._frames: Any = None
        self._style_value: Any = None
        self._binding: Any = None
        # RGB on the device for results that stay there, and what converts it; whether the graph writes it.
        self._kept_result: tuple[Any, Callable[[Any], DeviceResult]] | None = None
        self._keeps = False
        self._upload: Frames | None = None
        self._download: Frames | None = None

    def run(self, frames_nhwc: Frames | DeviceFrame, style_ns: Codes, *, keep: bool = False) -> Frames | DeviceResult:
        """The translated frames, in memory of their own; `keep`: one frame, on the device.

        Raises ONNX Runtime's errors, and DsmapError as `Backend.submit_device`.
        """
        options = self._ort.RunOptions()
        if self._shape != frames_nhwc.shape:
            if self._shape is not None and self._smallest.shape not in (self._shape, frames_nhwc.shape):
                # ONNX Runtime gives memory back at the end of a run alone: one that takes next to none comes first.
                self.run(self._smallest, style_ns[:1])
            self._bind(frames_nhwc.shape, style_ns)
            options.add_run_config_entry(_SHRINK, "gpu:0" if self._device == "cuda" else "cpu:0")
        assert self._download is not None
        self._load(frames_nhwc)
        if self._style_params is not None and (self._style is None or not np.array_equal(self._style, style_ns)):
            self._style = None
            self._style_value.update_inplace(self._style_params(style_ns))
            self._style = style_ns.copy()
        if keep:
            return self._run_and_keep(options)
        if self._keeps:
            self._binding.bind_ortvalue_output(OUTPUT, self._ort.OrtValue.ortvalue_from_numpy(self._download))
            self._keeps = False
        self._session.run_with_iobinding(self._binding, options)
        return self._download.copy()

    def _run_and_keep(self, options: Any) -> DeviceResult:
        if self._kept_result is None:
            assert self._shape is not None
            rgb = self._ort.OrtValue.ortvalue_from_shape_and_type(list(self._shape), np.uint8, self._device, 0)
            _, height, width, _ = self._shape
            self._kept_result = rgb, self._planes.to_nv12(width, height)
        rgb, to_nv12 = self._kept_result
        if not self._keeps:
            self._binding.bind_ortvalue_output(OUTPUT, rgb)
            self._keeps = True
        self._session.run_with_iobinding(self._binding, options)
        return to_nv12(rgb)

    def _load(self, frames_nhwc: Frames | DeviceFrame) -> None:
        if isinstance(frames_nhwc, DeviceFrame):
            if self._converter is None or self._converter.kind != frames_nhwc.kind:
                self._converter = self._planes.to_rgb(frames_nhwc.kind)
            self._converter.run(frames_nhwc, self._frames)
            return
        assert self._upload is not None
        self._upload[...] = frames_nhwc
        self._frames.update_inplace(self._upload)

    def free(self) -> None:
        """Frees all of it."""
        self._shape = self._frames = self._style_value = self._binding = self._kept_result = self._converter = None
        self._keeps = False
        self._upload = self._download = None
        if self._host is not None:
            self._host.free()

    def _bind(self, shape: tuple[int, ...], style_ns: Codes) -> None:
        self.free()  # before the new size is bound: the memory of both may not fit
        value = self._ort.OrtValue
        self._upload, self._download = self._host_array(shape), self._host_array(shape)
        self._frames = value.ortvalue_from_shape_and_type(list(shape), np.uint8, self._device, 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(FRAMES, self._frames)
        if self._style_params is not None:
            params = self._style_params(style_ns)
            self._style_value = value.ortvalue_from_shape_and_type(list(params.shape), np.float32, self._device, 0)
            self._style_value.update_inplace(params)
            self._style = style_ns.copy()
            self._binding.bind_ortvalue_input(STYLE, self._style_value)
        # Translated frames are as large as those that come in.
        self._binding.bind_ortvalue_output(OUTPUT, value.ortvalue_from_numpy(self._download))
        self._shape = shape

    def _host_array(self, shape: tuple[int, ...]) -> Frames:
        return np.empty(shape, np.uint8) if self._host is None else self._host.array(shape)
