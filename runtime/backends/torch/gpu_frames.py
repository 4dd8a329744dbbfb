"""Runs a module on a GPU for frames of several sizes in turn: compiles it, and drops what was used longest ago."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsmap.errors import DsmapError, first_line
from dsmap.runtime.backends.base import Frames, Pending, PendingOnDevice
from dsmap.runtime.backends.concurrency import closed_error
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.torch.cuda_device import Shape, TorchCuda
from dsmap.runtime.backends.torch.device_planes import TorchPlanes
from dsmap.runtime.backends.torch.failures import is_out_of_memory, torch_errors
from dsmap.runtime.backends.torch.lanes import (
    MAX_LANES,
    MAX_SIZES,
    UNCOMPILED_FRAMES,
    CaptureError,
    Keep,
    Lane,
    LanesOfSize,
    Load,
    Translation,
)
from dsmap.runtime.backends.torch.precision import tf32_in_convolutions
from dsmap.runtime.engines.store import log_line

Compile = Callable[[], Translation]
"""The translation, compiled: for the one size that it is called with."""


_MODES = threading.RLock()
"""Whether TF32 is used is a setting of the process: translators in other threads wait while one begins a frame."""


class GpuFrames:
    """Up to `MAX_LANES` frames in flight; calls as those of a `Backend`.

    `tf32`: whether convolutions of float32 may round their factors; None leaves torch's own setting.
    """

    concurrency = 1

    def __init__(
        self,
        cuda: TorchCuda,
        translation: Translation,
        compile_it: Compile | None,
        frames_at_once: int,
        tf32: bool | None,
    ) -> None:
        self._cuda, self._translation, self._compile, self._tf32 = cuda, translation, compile_it, tf32
        self.in_flight = min(max(frames_at_once, 1), MAX_LANES)
        self._sizes: OrderedDict[tuple[Shape, Shape], LanesOfSize] = OrderedDict()
        self._planes = TorchPlanes(cuda)
        self._graphs = True
        self._lock = threading.Lock()
        self._cancelled = 0  # a count: frames begun before the last cancellation are lost

    def submit(self, frames: Frames, params: Tensor) -> Pending:
        """Frames (N, H, W, 3) and style parameters on the host -> frames. What is given is copied at once."""

        def load(lane: Lane) -> None:
            np.copyto(lane.frames_host.numpy(), frames)
            self._cuda.copy(lane.frames, lane.frames_host, lane.stream)

        return self._submit(frames.shape, load, params, None)

    def submit_device(self, frame: DeviceFrame, params: Tensor, *, keep: bool) -> PendingOnDevice:
        """The same for one frame in the device's memory; `keep`: the result stays there."""

        def load(lane: Lane) -> None:
            self._planes.load(frame, lane)

        return self._submit(frame.shape, load, params, self._planes.result if keep else None)

    def _submit(self, shape: Shape, load: Load, params: Tensor, keep: Keep | None) -> Callable[[], Any]:
        begun = self._cancelled
        with torch_errors(), self._modes():
            size = self._find(shape, params)
            with self._lock:
                if not size.free:
                    raise DsmapError(f"more than {self.in_flight} frames are under way", "Wait for one first.")
                lane = size.free.pop(0)
            try:
                self._begin_with_less(size, lambda: self._begin(size, lane, load, params, keep))
            except BaseException:
                # What is left of the frame is done before the lane's next one: its stream keeps the order.
                self._give_back(size, lane)
                raise

        def wait() -> Any:
            try:
                with torch_errors():
                    done = size.finish(lane)
            finally:
                self._give_back(size, lane)
            if begun != self._cancelled:
                raise DsmapError("the translation was cancelled", "Run it again.")
            return done

        return wait

    def cancel(self) -> None:
        """What is in flight is lost. What the GPU has begun ends within milliseconds."""
        self._cancelled += 1

    def close(self) -> None:
        """Frees graphs, memory and, with those who gave it, the translation's weights."""
        with torch_errors():
            self._cuda.synchronise()
            self._translation, self._compile = _closed, None
            while self._sizes:
                self._sizes.popitem()[1].close()
            self._planes = TorchPlanes(self._cuda)
            self._cuda.give_back()

    @contextmanager
    def _modes(self) -> Iterator[None]:
        """Without gradients, and with or without TF32: afterwards as before, as that is a setting of the process."""
        with torch.inference_mode():
            if self._tf32 is None:  # half precision: nobody has to wait while another one compiles
                yield
                return
            with _MODES, tf32_in_convolutions(self._tf32):
                yield

    def _find(self, shape: Shape, params: Tensor) -> LanesOfSize:
        """The lanes of frames of this shape; made on first use, and again after they were dropped."""
        key = shape, tuple(params.shape)
        if (size := self._sizes.get(key)) is not None:
            self._sizes.move_to_end(key)
            return size
        while len(self._sizes) >= MAX_SIZES and self._drop_oldest(None):
            pass
        made: list[LanesOfSize] = []
        self._with_room(
            None, lambda: made.append(LanesOfSize(self._cuda, self._translation, shape, params, self.in_flight))
        )
        self._sizes[key] = made[0]
        return made[0]

    def _with_room(self, keep: LanesOfSize | None, what: Callable[[], None]) -> None:
        """Does something; where the device is full, again without the sizes that were used longest ago."""
        while True:
            try:
                return what()
            except Exception as error:
                if not is_out_of_memory(error) or not self._drop_oldest(keep):
                    raise

    def _drop_oldest(self, keep: LanesOfSize | None) -> bool:
        """Frees the size that was used longest ago and has no frame in flight; False where there is none."""
        for key, size in self._sizes.items():
            if size is not keep and len(size.free) == len(size.lanes):
                del self._sizes[key]
                size.close()
                self._cuda.give_back()
                return True
        return False

    def _begin_with_less(self, size: LanesOfSize, begin: Callable[[], None]) -> None:
        """Begins a frame; where the device stays full, without what only makes its size faster."""
        while True:
            try:
                return self._with_room(size, begin)
            except Exception as error:
                if not is_out_of_memory(error) or not self._with_less(size):
                    raise

    def _with_less(self, size: LanesOfSize) -> bool:
        """Frees a size's graphs, or else its compiled code; False where there is neither."""
        if size.graphs:
            without, size.graphs = "without CUDA graphs", False
        elif size.begun >= UNCOMPILED_FRAMES and not size.stays_plain:
            without, size.translation = "uncompiled", self._translation
        else:
            return False
        size.stays_plain = True
        self._cuda.synchronise()
        size.drop_graphs()
        self._cuda.give_back()
        log_line(f"frames of {_size_of(size.lanes[0])} go on {without}, as the GPU's memory is full")
        return True

    def _begin(self, size: LanesOfSize, lane: Lane, load: Load, params: Tensor, keep: Keep | None) -> None:
        if size.begun >= UNCOMPILED_FRAMES and self._graphs and not size.graphs and not size.stays_plain:
            self._prepare(size, lane)
        try:
            size.begin(lane, load, params, keep)
        except CaptureError as error:
            log_line(f"without CUDA graphs, which makes no difference but in speed: {error}")
            self._graphs = size.graphs = False
            size.begin(lane, load, params, keep)

    def _prepare(self, size: LanesOfSize, lane: Lane) -> None:
        """Compiles the translation for a size where that can be, by a run on what is in the lane's memory."""
        if self._compile is not None:
            told = f"compiling the model for frames of {_size_of(lane)}"
            log_line(f"{told}: about half a minute, a few seconds when it is known")
            before = size.translation
            try:
                with warnings.catch_warnings(action="ignore"):  # advice to programmers
                    size.translation = self._compile()
                    size.run(lane)
                    self._cuda.synchronise()
            except Exception as error:  # the compilers under torch.compile raise types of their own
                size.translation = before
                if is_out_of_memory(error):
                    raise
                log_line(f"uncompiled, which makes no difference but in speed: {first_line(error)[:300]}")
                self._compile = None
        size.graphs = True

    def _give_back(self, size: LanesOfSize, lane: Lane) -> None:
        with self._lock:
            if size.lanes:
                size.free.append(lane)


def _size_of(lane: Lane) -> str:
    batch, height, width, _ = lane.frames.shape
    return f"{batch} of {width}x{height}" if batch > 1 else f"{width}x{height}"


def _closed(_frames: Tensor, _params: Tensor) -> Tensor:
    raise closed_error()
