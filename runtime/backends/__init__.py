"""What runs the graphs. A backend is one class behind one small interface, and one line in `BACKENDS`.

A backend that is named runs or stops with the reason; only `auto` chooses, and says what it chose and why.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle import Bundle

Frames = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.float32]


class Backend(ABC):
    """The graphs of one direction of a bundle, loaded and ready.

    Made with (bundle, target, threads); raises DsmapError with the reason when it cannot run here. Calls come from one
    thread at a time.
    """

    name: str
    """What --backend calls it."""
    description: str
    """What really runs, with versions: one short line."""

    @abstractmethod
    def __init__(self, bundle: Bundle, target: str, threads: int | None = None) -> None: ...

    @abstractmethod
    def translate(self, frames_nhwc: Frames, style_ns: Codes) -> Frames:
        """uint8 RGB (N, H, W, 3), sizes as the bundle wants them, and style codes (N, S) -> uint8 RGB (N, H, W, 3)."""

    @abstractmethod
    def encode_style(self, frames_nhwc: Frames) -> Codes:
        """Pictures of the target domain, uint8 RGB (N, H, W, 3) -> style codes (N, S)."""


class Choice(NamedTuple):
    """A loaded backend and, in one line, why it was taken."""

    backend: Backend
    reason: str


def _onnxruntime_cpu() -> type[Backend]:
    from dsmap.runtime.backends.onnxruntime_cpu import OnnxRuntimeCPU

    return OnnxRuntimeCPU


BACKENDS: dict[str, Callable[[], type[Backend]]] = {"cpu": _onnxruntime_cpu}
"""By name, in the order `auto` tries them."""


def load_backend(name: str, bundle: Bundle, target: str, threads: int | None = None) -> Choice:
    """The backend called `name` with the graphs that translate to `target`.

    `auto` takes the first of `BACKENDS` that runs and tells why not the others; any other name runs or raises.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise InputError(f"no backend named {name!r}", f"Known backends: auto, {', '.join(BACKENDS)}.")
        return Choice(BACKENDS[name]()(bundle, target, threads), "as asked")
    refusals = []
    for candidate, find in BACKENDS.items():
        try:
            backend = find()(bundle, target, threads)
        except DsmapError as error:
            refusals.append((candidate, error))
            continue
        return Choice(backend, "; ".join(f"{n}: {e.fact}" for n, e in refusals) or "the first that runs here")
    raise DsmapError(
        "no backend runs here: " + "; ".join(f"{n}: {e.fact}" for n, e in refusals), refusals[-1][1].advice
    )
