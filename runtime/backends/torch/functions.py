"""Functions that a rebuilt module calls, where torch has none that does the same."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_norm(x: Tensor, scale: Tensor | None, shift: Tensor | None, epsilon: float) -> Tensor:
    """Zero mean and unit variance over all but sample and channel, then scale and shift of each channel."""
    wide = x.float()
    if x.is_cpu and not torch.compiler.is_compiling():
        # The same with a group for each channel, where it is several times faster and keeps channels last.
        return F.group_norm(wide, x.shape[1], scale, shift, epsilon).to(x.dtype)
    return F.instance_norm(wide, weight=scale, bias=shift, eps=epsilon).to(x.dtype)


def layer_norm(x: Tensor, epsilon: float) -> Tensor:
    """Zero mean and unit variance of each sample."""
    wide = x.float()
    if x.is_cpu or torch.compiler.is_compiling():
        return F.group_norm(wide, 1, eps=epsilon).to(x.dtype)
    # Group norm's own kernel runs on one block of a GPU for each group: the means of the channels fill it.
    pixels = tuple(range(2, x.dim()))

    def mean(y: Tensor) -> Tensor:
        return y.mean(pixels, keepdim=True).mean(1, keepdim=True)

    centred = wide - mean(wide)
    return (centred / torch.sqrt(mean(centred * centred) + epsilon)).to(x.dtype)


def depth_to_space(x_nchw: Tensor, side: int) -> Tensor:
    """Blocks of `side` x `side` pixels from channels, of which the first of all blocks come first (ONNX's DCR)."""
    n, c, h, w = x_nchw.shape
    blocks = x_nchw.reshape(n, side, side, c // side**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // side**2, h * side, w * side)


def reshape(x: Tensor, shape: tuple[int, ...], keep: bool) -> Tensor:
    """`x` in another shape; with `keep` a 0 keeps the size that it has."""
    return x.reshape([x.shape[i] if keep and side == 0 else side for i, side in enumerate(shape)])


def sizes_of(x: Tensor, start: int, end: int | None) -> tuple[int, ...]:
    """Sizes of `x`, from `start` on."""
    return tuple(x.shape[start:end])


def chosen(sizes: tuple[int, ...], index: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """One of the sizes, or several."""
    return sizes[index] if isinstance(index, int) else tuple(sizes[one] for one in index)


def joined(*parts: int | tuple[int, ...]) -> tuple[int, ...]:
    """All sizes in a row."""
    return tuple(size for part in parts for size in ((part,) if isinstance(part, int) else part))


def quotient(a: int, b: int) -> int:
    """Rounded towards 0, as ONNX divides integers."""
    return int(a / b) if a * b < 0 else a // b


def part_of(x: Tensor, axes: tuple[int, ...], starts: Any, ends: Any, steps: tuple[int, ...]) -> Tensor:
    """`x` from `starts` to before `ends` on these axes."""
    cuts = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return x[tuple(cuts)]
