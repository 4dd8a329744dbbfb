"""Arrays for frames, used again: new ones of several megabytes cost the system a millisecond each."""

import threading

import numpy as np
import numpy.typing as npt

_MOST = 16  # more than a pipeline has under way


class FramePool:
    """Gives arrays out and takes them back, from any thread. What is never given back is just garbage."""

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """A uint8 array of that shape, with anything in it."""
        with self._lock:
            for i, array in enumerate(self._free):
                if array.shape == shape:
                    return self._free.pop(i)
        return np.empty(shape, np.uint8)

    def give(self, array: npt.NDArray[np.uint8]) -> None:
        """Nobody uses it any more."""
        with self._lock:
            if len(self._free) < _MOST and array.flags.owndata and not any(array is other for other in self._free):
                self._free.append(array)
