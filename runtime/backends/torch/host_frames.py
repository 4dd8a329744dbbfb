"""Runs a module as it is, on a CPU or on Apple's GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, fx

from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Codes, Frames, Pending
from dsmap.runtime.backends.concurrency import TranslationPool, threads_each
from dsmap.runtime.backends.torch.failures import torch_errors


class HostFrames:
    """On a CPU several frames at once, in threads; elsewhere one. Calls as those of a `Backend`."""

    def __init__(self, module: fx.GraphModule, device: torch.device, threads: int, frames_at_once: int) -> None:
        self._module, self._device = module, device
        self._pool = TranslationPool(frames_at_once if device.type == "cpu" else 1, self._translate)
        self.in_flight, self.concurrency = self._pool.in_flight, self._pool.concurrency
        self._threads = threads_each(threads, self.concurrency) if self.concurrency > 1 else threads

    def submit(self, frames: Frames, style: Codes, params: Tensor) -> Pending:
        """Frames (N, H, W, 3), their codes and the parameters of these on the device -> frames."""
        return self._pool.submit(frames, style, params)

    def cancel(self) -> None:
        """Cancels frames that have not begun."""
        self._pool.cancel()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()

    def _translate(self, frames: Frames, style: Codes, params: Tensor) -> Frames:
        with torch_errors(), torch.inference_mode(), cpu_threads(self._threads):
            given = torch.from_numpy(np.require(frames, requirements=("C", "W"))).to(self._device)
            output = self._module.forward(given, params).cpu().numpy()
        if output.shape != frames.shape:
            raise DsmapError(f"the model gives {output.shape} for frames of {frames.shape}", "Export the bundle again.")
        return np.ascontiguousarray(output)


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """This thread's computations take so many threads; afterwards as many as before, as the setting is torch's own."""
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)
