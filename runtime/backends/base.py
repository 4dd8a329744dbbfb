"""The interface of a backend, its settings, and the types of what goes in and comes out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.backends.device_frame import DeviceFrame
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.bundle.bundle import Bundle

Frames = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.float32]
Pending = Callable[[], Frames]
"""Waits for submitted frames and returns the result; raises the error of the translation. Called once."""
PendingOnDevice = Callable[[], Frames | DeviceResult]
"""The same where results may stay in the memory of a device."""


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """How a backend runs its graphs."""

    threads: int | None = None
    """Threads of a CPU backend; None: all cores that this process may use."""
    precision: str = "auto"
    """fp32, fp16 or int8, as the bundle has; auto: what suits the backend."""
    frames_at_once: int = 1
    """Frames that the caller keeps in flight: 1 for the lowest delay, more for more frames a second."""
    at_once_on_host: int | None = None
    """At most so many of them where their activations are in the host's memory; None: no other limit."""
    cuda_binding: str = "auto"
    """Python binding to CUDA: cuda-python, pycuda, or auto."""
    streams: int | None = None
    """Compute streams of a GPU, for the backends that have several; None: what suits the backend."""
    trust_engines: bool = False
    """Load a bundle's TensorRT engines, which are code, even if this user has not built them."""
    tile: bool = False
    """Translate frames in stripes: little memory, for large frames. The backend `cpu` can."""
    source: str | None = None
    """Domain of the frames; None: the one that is not the target. With the target itself, frames are reconstructed."""

    @property
    def host_frames_at_once(self) -> int:
        """`frames_at_once` for a backend that is `on_host`."""
        return min(self.frames_at_once, self.at_once_on_host or self.frames_at_once)


DEFAULT_SETTINGS = BackendSettings()


class Backend(ABC):
    """The graphs of one direction of a bundle, loaded and ready.

    The constructor raises DsmapError with the reason when the backend cannot run here. Calls come from one thread at a
    time, except of `cancel` and of what `submit` returned.
    """

    name: str
    """What --backend calls it."""
    description: str
    """What really runs, with versions, in one short line."""
    title: str = ""
    """Where it runs and by what, in few words: "CPU (ONNX Runtime)"; empty: `description` has to do."""
    precision: str
    """Of the graphs that run: fp32, fp16 or int8."""
    in_flight: int = 1
    """Batches that may be submitted at a time; more than one only where that is faster."""

    fault: str | None = None
    """What is wrong with its frames, where some were compared with the CPU's at load; `auto` does not take it then."""
    takes_streams: bool = False
    """Whether it heeds `BackendSettings.streams`."""
    concurrency: int = 1
    """How many of them are computed at a time, each in memory of its own."""
    on_host: bool = True
    """Whether activations are in the host's memory."""

    takes_device_frames: bool = False
    """Whether `submit_device` takes frames that a decoder left in the memory of the GPU."""

    @abstractmethod
    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None: ...

    @abstractmethod
    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        """uint8 RGB (N, H, W, 3) of a size that the bundle takes, and style codes (N, S) -> uint8 RGB (N, H, W, 3)."""

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        """Starts what `translate` does, and returns at once where the backend can; the results are the same.

        The frames must not be changed until the result has been waited for. At most `in_flight` at a time.
        """
        done = self.translate(frames_nhwc, style_ns)
        return lambda: done

    def submit_device(self, frame: DeviceFrame, style_ns: Codes, *, keep: bool = False) -> PendingOnDevice:
        """As `submit`, where `takes_device_frames`, for one frame of a size that the bundle takes.

        `keep`: the result stays in the device's memory, as a `DeviceResult`. Waiting raises DsmapError when the frame
        is not what it is by way of the host: see `PlanesToRgb`, and `check_nv12` for results.
        """
        raise NotImplementedError

    def bytes_for(self, height: int, width: int) -> int | None:
        """About how much memory a frame of that size takes; None: as a whole frame does by the network's width."""
        return None

    def cancel(self) -> None:  # noqa: B027  # most have nothing to cancel
        """Cancels what is in flight as soon as possible, from any thread: waiting for it raises DsmapError."""

    def close(self) -> None:  # noqa: B027  # or to free
        """Frees what the backend holds outside of Python's memory. Nothing may be in flight."""

    @abstractmethod
    def encode_style(self, frames_nhwc: Frames) -> Codes:
        """Images of the target domain, uint8 RGB (N, H, W, 3) -> style codes (N, S)."""


class Choice(NamedTuple):
    """A loaded backend and, in one line, why it was chosen."""

    backend: Backend
    reason: str
    brief: str = ""
    """What one should know of the choice, in few words; empty where the backend was named."""

    @property
    def title(self) -> str:
        """Where it runs, by what and in which precision, in few words."""
        backend = self.backend
        return f"{backend.title}, {backend.precision}" if backend.title else backend.description


def best_precision(bundle: Bundle, wanted: str, preferred: tuple[str, ...]) -> str:
    """`wanted`, or for auto the first of `preferred` that the bundle has."""
    return next(p for p in preferred if p in bundle.precisions) if wanted == "auto" else wanted


NO_GPU = "no NVIDIA GPU or driver here"


def need_gpu() -> str:
    """The compute capability of the first NVIDIA GPU ("8.9"), from the driver: quick, and without imports.

    Raises DsmapError without a GPU or its driver.
    """
    from dsmap.runtime.engines.tensorrt_api import current_architecture

    capability = current_architecture()
    if capability is None:
        raise DsmapError(NO_GPU, "Run nvidia-smi to check it, or use --backend cpu.")
    return capability
