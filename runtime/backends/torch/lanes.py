"""Frames in flight on a GPU: each in a lane with a stream, pinned memory and a CUDA graph of its own.

    lane 1   up | translate | down        up | translate | down
    lane 2        up | translate | down        up | translate | down

The first frames of a size run as they come; then the size is compiled, and each lane captures its graph. So a folder of
images of many sizes waits for no compiler, and a video waits once.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch import uint8 as grey

from dsmap.errors import DsmapError, first_line
from dsmap.runtime.backends.base import Frames
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.backends.torch.cuda_device import RecordedKernels, Shape, TorchCuda
from dsmap.runtime.backends.torch.failures import is_out_of_memory

MAX_LANES = 3
"""Frames in flight: small frames do not fill a large GPU, and copies go on beside other frames' kernels."""
MAX_SIZES = 3
"""Sizes whose memory, graphs and compiled code are kept; the least recently used is dropped first."""
UNCOMPILED_FRAMES = 4
"""Of each size."""
Translation = Callable[[Tensor, Tensor], Tensor]
"""Frames and style parameters on the device -> frames there."""


class CaptureError(Exception):
    """CUDA captured no graph: why."""


class Lane:
    """The memory of one frame (or batch) in flight."""

    def __init__(self, cuda: TorchCuda, frames: Shape, params: Tensor) -> None:
        self.stream, self.done = cuda.stream(), cuda.event()
        self.frames_host, self.output_host = cuda.pinned(frames, grey), cuda.pinned(frames, grey)
        self.params_host = cuda.pinned(tuple(params.shape), params.dtype)
        self.frames = cuda.memory(frames, grey, self.stream)
        self.params = cuda.memory(tuple(params.shape), params.dtype, self.stream)
        self.uploaded: Tensor | None = None
        """The style parameters that are on the device."""
        self.captured: RecordedKernels | None = None
        self.given: DeviceFrame | None = None
        """The decoder's frame, as long as the stream may read it."""
        self.result: DeviceResult | None = None
        """Of a frame whose result stays on the device."""


Load = Callable[[Lane], None]
"""Puts on the lane's stream what fills its frames."""
Keep = Callable[[Tensor, Lane], DeviceResult]
"""Puts on the lane's stream what makes the result of a translation that stays on the device."""


class LanesOfSize:
    """The lanes of frames of one shape, and how they are translated."""

    def __init__(self, cuda: TorchCuda, translation: Translation, frames: Shape, params: Tensor, lanes: int) -> None:
        self._cuda, self._shape = cuda, frames
        self.translation = translation
        self.graphs = False
        """Whether frames run as CUDA graphs from now on."""
        self.stays_plain = False
        """Whether there is too little memory to compile it or to capture graphs."""
        self.begun = 0
        """Frames so far."""
        self.lanes = [Lane(cuda, frames, params) for _ in range(lanes)]
        self.free = list(self.lanes)

    def begin(self, lane: Lane, load: Load, params: Tensor, keep: Keep | None) -> None:
        """Puts the translation on the lane's stream. Without `keep`, the result comes to the host.

        Raises what PyTorch raises, and CaptureError where only the capture of a graph fails.
        """
        cuda, stream = self._cuda, lane.stream
        load(lane)
        if lane.uploaded is not params:
            lane.uploaded = None
            lane.params_host.copy_(params)
            cuda.copy(lane.params, lane.params_host, stream)
            lane.uploaded = params
        if self.graphs and lane.captured is None:
            lane.captured = self._capture(lane)
        output = self.run(lane) if lane.captured is None else cuda.launch(lane.captured, stream)
        if tuple(output.shape) != self._shape or output.dtype != grey:
            raise DsmapError(
                f"the model gives {tuple(output.shape)} for frames of {self._shape}", "Export the bundle again."
            )
        lane.result = None if keep is None else keep(output, lane)
        if keep is None:
            cuda.copy(lane.output_host, output, stream)
        cuda.record(lane.done, stream)
        self.begun += 1

    def run(self, lane: Lane) -> Tensor:
        """Translates what is in the lane's memory, without a graph."""
        return self._cuda.run(lambda: self.translation(lane.frames, lane.params), lane.stream)

    def finish(self, lane: Lane) -> Frames | DeviceResult:
        """Waits for the lane's frame, and copies it unless it stays on the device."""
        self._cuda.wait(lane.done)
        result, lane.result, lane.given = lane.result, None, None
        return np.array(lane.output_host.numpy()) if result is None else result

    def _capture(self, lane: Lane) -> RecordedKernels:
        self.run(lane)  # what is allocated and looked for at the first run of a stream must not be captured
        self._cuda.synchronise()
        try:
            return self._cuda.capture(lambda: self.translation(lane.frames, lane.params), lane.stream)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CaptureError(first_line(error)) from error

    def drop_graphs(self) -> None:
        """Frees the graphs. The device must be idle."""
        for lane in self.lanes:
            lane.captured = None

    def close(self) -> None:
        """Frees graphs and memory. Nothing may be in flight."""
        self.free.clear()
        self.lanes.clear()
