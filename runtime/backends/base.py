"""The interface of a backend, its settings, and the types of what goes in and comes out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError
from dsmap.runtime.bundle.bundle import Bundle

Frames = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.float32]
Pending = Callable[[], Frames]
"""Waits for frames that are under way and gives them; raises what went wrong. Called once."""


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """How a backend runs its graphs."""

    threads: int | None = None
    """Of a CPU backend; None is all cores that this process may use."""
    precision: str = "auto"
    """One that the bundle has, or auto: what suits the backend."""
    frames_at_once: int = 1
    """How many frames the caller will have under way: 1 for the least delay, more for the most frames a second."""
    cuda_binding: str = "auto"
    """What reaches CUDA: cuda-python, pycuda, or auto."""
    trust_engines: bool = False
    """Whether a bundle's TensorRT engines are loaded that this user has not built: engines are code."""
    source: str | None = None
    """The domain of the frames; None: the other than the target. The target itself: frames are reconstructed."""


DEFAULT_SETTINGS = BackendSettings()


class Backend(ABC):
    """The graphs of one direction of a bundle, loaded and ready.

    Made with (bundle, target, settings); raises DsmapError with the reason when it cannot run here. Calls
    come from one thread at a time, but for those of what `submit` gave and `cancel`.
    """

    name: str
    """What --backend calls it."""
    description: str
    """What really runs, with versions: one short line."""
    precision: str
    """Of the graphs that run: fp32, fp16 or int8."""
    in_flight: int = 1
    """How many submitted batches may be under way at once; more than one only where that is faster."""

    concurrency: int = 1
    """How many of them are computed at the same time, each in memory of its own."""
    on_host: bool = True
    """Whether what lies between the graphs is in the host's memory."""

    @abstractmethod
    def __init__(self, bundle: Bundle, target: str, settings: BackendSettings = DEFAULT_SETTINGS) -> None: ...

    @abstractmethod
    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        """uint8 RGB (N, H, W, 3), sizes as the bundle wants them, and style codes (N, S) -> uint8 RGB (N, H, W, 3)."""

    def submit(self, frames_nhwc: Frames, style_ns: Codes) -> Pending:
        """Begins what `translate` does and returns at once where the backend can; the results are the same.

        The frames may not be changed until they have been waited for. At most `in_flight` at a time.
        """
        done = self.translate(frames_nhwc, style_ns)
        return lambda: done

    def cancel(self) -> None:  # noqa: B027  # most have nothing to end
        """Ends what is under way as soon as possible, from any thread: waiting for it raises DsmapError."""

    def close(self) -> None:  # noqa: B027  # nor to give back
        """Gives back what the backend holds outside of Python's memory. Nothing may be under way."""

    @abstractmethod
    def encode_style(self, frames_nhwc: Frames) -> Codes:
        """Images of the target domain, uint8 RGB (N, H, W, 3) -> style codes (N, S)."""


class Choice(NamedTuple):
    """A loaded backend and, in one line, why it was taken."""

    backend: Backend
    reason: str


def best_precision(bundle: Bundle, wanted: str, preferred: tuple[str, ...]) -> str:
    """`wanted`, or for auto the first of `preferred` that the bundle has."""
    return next(p for p in preferred if p in bundle.precisions) if wanted == "auto" else wanted


def need_gpu() -> str:
    """The compute capability of the first NVIDIA GPU ("8.9"), asked of the driver: quick, and before any import.

    Raises DsmapError where there is no GPU or no driver.
    """
    from dsmap.runtime.engines.tensorrt_api import current_architecture

    capability = current_architecture()
    if capability is None:
        raise DsmapError("no NVIDIA GPU or driver here", "Look with nvidia-smi, or use --backend cpu.")
    return capability
