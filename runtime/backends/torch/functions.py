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


def layer_norm(x: Tensor, epsilon: float, dtype: torch.dtype | None = None) -> Tensor:
    """Zero mean and unit variance of each sample, as `dtype`; None: as that of `x`."""
    wide, dtype = x.float(), dtype or x.dtype
    if torch.compiler.is_compiling():
        # For group norm, torch.compile writes a copy in float32 with its channels first; and the float32 form of a map
        # would be written if it were used twice.
        variance, mean = torch.var_mean(wide, tuple(range(1, x.dim())), correction=0, keepdim=True)
        return ((x - mean) * torch.rsqrt(variance + epsilon)).to(dtype)
    if x.is_cpu:
        return F.group_norm(wide, 1, eps=epsilon).to(dtype)
    # Group norm's own kernel runs on one block of a GPU for each group: the means of the channels fill it.
    pixels = tuple(range(2, x.dim()))

    def mean_of(y: Tensor) -> Tensor:
        return y.mean(pixels, keepdim=True).mean(1, keepdim=True)

    centred = wide - mean_of(wide)
    return (centred / torch.sqrt(mean_of(centred * centred) + epsilon)).to(dtype)


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


def inner_part(x: Tensor, columns: tuple[int, int], rows: tuple[int, int]) -> Tensor:
    """`x` without its outermost columns and rows: so many before, so many after."""
    return x[..., rows[0] : x.shape[-2] - rows[1], columns[0] : x.shape[-1] - columns[1]]


def pad_by_repeating(x: Tensor, widths: tuple[int, int, int, int]) -> Tensor:
    """Padding by the outermost pixels: so many columns before and after, so many rows."""
    if not torch.compiler.is_compiling():
        return F.pad(x, widths, "replicate")
    # Not F.pad: torch.compile fails where that pads shuffled pixels.
    rows, columns = _repeated(x, -2, *widths[2:]), _repeated(x, -1, *widths[:2])
    return torch.ops.aten._unsafe_index(x, [*[None] * (x.dim() - 2), rows[:, None], columns])


def _repeated(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Which pixels of a line of `x` are those of the padded one."""
    last = x.shape[axis] - 1
    index = torch.arange(-before, last + 1 + after, device=x.device)
    return torch.where(index < 0, 0, torch.where(index > last, last, index))


def add_to_ends(x: Tensor, first: Tensor, last: Tensor, axis: int) -> Tensor:
    """`x`, which may change, with `first` added to its first row (axis 2) or column (3), and `last` to its last."""
    if torch.compiler.is_compiling():
        # Part of the kernel that reads `x`. A change of `x`, or a part of it, would have `x` written first.
        rest = x.shape[axis] - 1
        before, after = ((0, rest), (rest, 0)) if axis == 3 else ((0, 0, 0, rest), (0, 0, rest, 0))
        return x + F.pad(first, before) + F.pad(last, after)
    x.narrow(axis, 0, 1).add_(first)
    x.narrow(axis, x.shape[axis] - 1, 1).add_(last)
    return x


def pad_blocks(x: Tensor, mode: str) -> Tensor:
    """2x2 pixels in four channels, as `F.pixel_shuffle` takes them, with two such blocks more on every side.

    These are three pixels of padding by `mode`, and a fourth that repeats the third.
    """
    pixels = F.pixel_shuffle(x, 2)
    if mode == "reflect":
        padded = pad_by_repeating(F.pad(pixels, (3, 3, 3, 3), "reflect"), (1, 1, 1, 1))
    else:
        padded = pad_by_repeating(pixels, (4, 4, 4, 4))
    return F.pixel_unshuffle(padded, 2)
