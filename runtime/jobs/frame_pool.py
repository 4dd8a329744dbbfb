"""Reusing the memory of frames: allocating several megabytes takes a millisecond."""

import threading

import numpy as np
import numpy.typing as npt

_MAX_FREE = 16  # more than a pipeline has in flight


class FramePool:
    """Lends arrays, from any thread. One that is never given back is freed as usual."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """A uint8 array of that shape, uninitialised."""
        with self._lock:
            for i, array in enumerate(self._free):
                if array.shape == shape:
                    return self._free.pop(i)
        return np.empty(shape, np.uint8)

    def give(self, array: npt.NDArray[np.uint8]) -> None:
        """Take back an array that nobody uses any more."""
        with self._lock:
            if len(self._free) < _MAX_FREE and array.flags.owndata and not any(array is other for other in self._free):
                self._free.append(array)
