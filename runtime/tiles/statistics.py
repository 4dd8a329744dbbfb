"""Mean and variance of tensors that come in stripes."""

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.tiles.local_graph import Norm

Float32 = npt.NDArray[np.float32]


class Statistics:
    """Over all pixels of each group of channels, in double precision."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._count = 0
        self._mean = np.zeros(groups)
        self._squares = np.zeros(groups)  # summed squares of the differences to the mean

    def add(self, x_nchw: Float32) -> None:
        """Adds the pixels of a stripe (1, C, H, W). Where stripes are cut changes no more than the rounding."""
        pixels = x_nchw.shape[2] * x_nchw.shape[3]
        if not pixels:
            return
        channels = np.array([cv2.meanStdDev(channel) for channel in x_nchw[0]]).reshape(-1, 2)
        means = channels[:, 0].reshape(self._groups, -1)
        mean = means.mean(1)
        squares = pixels * (channels[:, 1] ** 2).reshape(means.shape).sum(1) + pixels * (
            (means - mean[:, None]) ** 2
        ).sum(1)
        new, before = pixels * means.shape[1], self._count
        self._count += new
        step = mean - self._mean
        self._mean += step * new / self._count
        self._squares += squares + step**2 * before * new / self._count

    def scale_and_shift(self, norm: Norm, channels: int) -> tuple[Float32, Float32]:
        """What normalises: `x * scale + shift`, both (1, channels, 1, 1)."""
        scale = norm.weight / np.sqrt(self._squares / self._count + norm.epsilon)
        shift = norm.bias - scale * self._mean
        each = channels // self._groups
        wide = [np.repeat(numbers, each).astype(np.float32).reshape(1, channels, 1, 1) for numbers in (scale, shift)]
        return wide[0], wide[1]
