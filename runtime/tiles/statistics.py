"""Mean and variance of tensors that come in stripes, and what norms make of them."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsmap.runtime.tiles.local_graph import Norm
from dsmap.runtime.tiles.part_runner import Layout
from dsmap.runtime.tiles.rows import Rows

Float32 = npt.NDArray[np.float32]
ScaleAndShift = tuple[Float32, Float32]
"""What normalises: `x * scale + shift`, both (1, channels, 1, 1)."""
_LANES = 8


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

    def scale_and_shift(self, norm: Norm, channels: int) -> ScaleAndShift:
        """What normalises."""
        scale = norm.weight / np.sqrt(self._squares / self._count + norm.epsilon)
        return _for_channels(scale, norm.bias - scale * self._mean, channels)


def scale_and_shift_of(rows: Rows, norm: Norm, pixels: int) -> ScaleAndShift:
    """As of a norm of ONNX Runtime, to the last bit: its float32 sums, in its order. `rows`: all, `pixels` a channel.

    Steps of 8 bits turn the least difference into a grey level somewhere, which double precision would make.
    """
    channels, groups = rows.layout.channels, len(norm.weight)
    numbers = np.empty(2 * _LANES + pixels, np.float32)
    count = np.float32(pixels * (channels // groups))
    totals = []
    for group in np.arange(channels).reshape(groups, -1):
        total, squares = _OrderedSum(skip=-int(group[0]) * pixels % 4), _OrderedSum()
        for channel in group:
            rows.channel(channel, into=numbers[2 * _LANES :])
            total.add(numbers)
        mean = total.value() / count
        for channel in group:
            if len(group) > 1:
                rows.channel(channel, into=numbers[2 * _LANES :])
            data = numbers[2 * _LANES :]
            np.subtract(data, mean, out=data)
            np.multiply(data, data, out=data)
            squares.add(numbers)
        totals.append((mean, squares.value() / count))
    mean, variance = np.array(totals, np.float32).T
    scale = np.float32(1) / np.sqrt(variance + np.float32(norm.epsilon)) * norm.weight
    return _for_channels(scale, norm.bias - mean * scale, channels)


def adds_in_order(normalise: Callable[[Float32], Float32]) -> bool:
    """Whether `normalise`, a norm of ONNX Runtime without weights, is what `scale_and_shift_of` takes it for."""
    x = np.random.default_rng(0).normal(0.3, 1, (1, 3, 61, 83)).astype(np.float32)
    rows = Rows(Layout(3, np.float32, Fraction(1), 0), 61)
    rows.add(x)
    norm = Norm("x", "y", np.ones(3, np.float32), np.zeros(3, np.float32), 1e-5)
    scale, shift = scale_and_shift_of(rows, norm, x[0, 0].size)
    return np.array_equal(normalise(x), x * scale + shift)


def _for_channels(scale: npt.NDArray[Any], shift: npt.NDArray[Any], channels: int) -> ScaleAndShift:
    each = channels // len(scale)
    wide = [np.repeat(numbers, each).astype(np.float32).reshape(1, channels, 1, 1) for numbers in (scale, shift)]
    return wide[0], wide[1]


class _OrderedSum:
    """Adds up float32 numbers in eight lanes, as Eigen does without AVX."""

    def __init__(self, skip: int = 0) -> None:
        """`skip`: how many numbers stand before the first at a multiple of 16 bytes. They are added last."""
        self._skip = skip
        self._lanes = np.zeros(_LANES, np.float32)
        self._head = self._rest = np.empty(0, np.float32)

    def add(self, numbers: Float32) -> None:
        """Adds all but the first 16, which are overwritten."""
        skip, rest = self._skip, len(self._rest)
        if skip:
            self._head, self._skip = numbers[2 * _LANES : 2 * _LANES + skip].copy(), 0
        row = numbers[_LANES + skip - rest :]
        row[:_LANES], row[_LANES : _LANES + rest] = self._lanes, self._rest
        end = len(row) // _LANES * _LANES
        self._lanes = cv2.reduce(row[:end].reshape(-1, _LANES), 0, cv2.REDUCE_SUM)[0]
        self._rest = row[end:].copy()
        if skip:
            numbers[2 * _LANES : 2 * _LANES + skip] = self._head

    def value(self) -> np.float32:
        """The sum of all."""
        four, rest = self._lanes[:4] + self._lanes[4:], self._rest
        if len(rest) >= 4:
            four, rest = four + rest[:4], rest[4:]
        total = (four[0] + four[2]) + (four[1] + four[3])
        for number in (*self._head, *rest):
            total += number
        return np.float32(total)
