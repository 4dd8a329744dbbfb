"""Layers of the networks, on float tensors (N, C, H, W).

All are pure functions of their inputs (no forward assigns an attribute), so that torch.export accepts them.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-5
_PAD_MODES: dict[str, Literal["reflect", "replicate", "zeros"]] = {
    "reflect": "reflect",
    "replicate": "replicate",
    "zero": "zeros",
}


def conv(
    in_dim: int, out_dim: int, kernel: int, *, stride: int = 1, padding: int = 0, pad_type: str = "zero"
) -> nn.Conv2d:
    """A convolution with bias; `pad_type` is reflect, replicate or zero."""
    return nn.Conv2d(in_dim, out_dim, kernel, stride, padding, padding_mode=_PAD_MODES[pad_type])


def wide(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision, where a variance overflows from values of 256 on."""
    return x.float() if x.dtype == torch.float16 else x


def narrow_like(y: Tensor, x: Tensor) -> Tensor:
    """`y` in half precision if `x` is: the inverse of `wide`."""
    return y.to(x.dtype) if x.dtype == torch.float16 else y


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it has fewer bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def instance_norm(x_nchw: Tensor) -> Tensor:
    """Zero mean and unit variance over (H, W) of each image and channel; no parameters, no running statistics.

    Computed in float32 for half precision.
    """
    return narrow_like(F.instance_norm(wide(x_nchw), eps=NORM_EPS), x_nchw)


def adaptive_instance_norm(x_nchw: Tensor, scale_nc: Tensor, shift_nc: Tensor) -> Tensor:
    """AdaIN: instance norm, then scale and shift (N, C) from a style code. Computed in float32 for half precision."""
    y = F.instance_norm(wide(x_nchw), eps=NORM_EPS)
    return narrow_like(y * scale_nc[:, :, None, None] + shift_nc[:, :, None, None], x_nchw)


def layer_norm(x_nchw: Tensor, weight_c: Tensor, bias_c: Tensor) -> Tensor:
    """Mean and variance over (C, H, W) of each image, then scale and shift per channel.

    Equal to group norm with one group. Computed in float32 for half precision.
    """
    return narrow_like(F.group_norm(wide(x_nchw), 1, weight_c, bias_c, NORM_EPS), x_nchw)


def pixel_mean(x_nchw: Tensor) -> Tensor:
    """Mean over (H, W): (N, C, 1, 1). Computed in float32 for half precision."""
    return narrow_like(wide(x_nchw).mean((2, 3), keepdim=True), x_nchw)


class _Clip(torch.autograd.Function):
    """Clip to [-1, 1]. Gradients also pass outside, unless they would lead further out.

    With the gradient of `clamp`, a pixel that is black by mistake would stay black.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return gradient.masked_fill(((z > 1) & (gradient < 0)) | ((z < -1) & (gradient > 0)), 0)


def to_image(z: Tensor, output: str, contrast: float = 1.0) -> Tensor:
    """Any values -> [-1, 1]: tanh (times `contrast`, then clipped), or `clip`."""
    if output == "tanh":
        x = torch.tanh(z)
        if contrast == 1:
            return x
        z = contrast * x
    return _Clip.apply(z) if torch.is_grad_enabled() and z.requires_grad else z.clamp(-1, 1)


def without_margin(x_nchw: Tensor, margin: int) -> Tensor:
    """`x_nchw` without `margin` rows and columns on every side."""
    return x_nchw[..., margin:-margin, margin:-margin] if margin else x_nchw


def sharpened(x_nchw: Tensor, amount: float, black: float = -1.0, white: float = 1.0) -> Tensor:
    """Unsharp masking: images plus `amount` of the difference to a 3x3 binomial blur, clipped to black and white.

    An `amount` of 0 changes nothing. The blur is two averages of 2x2 pixels.
    """
    if not amount:
        return x_nchw
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(x_nchw, (1, 1, 1, 1), mode="replicate"), 2, stride=1), 2, stride=1)
    return (x_nchw + amount * (x_nchw - blurred)).clamp(black, white)


class LayerNorm(nn.Module):
    """`layer_norm` with the scale initialised uniformly in [0, 1), the shift to 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x_nchw: Tensor) -> Tensor:
        return layer_norm(x_nchw, self.weight, self.bias)


class ResidualBlock(nn.Module):
    """3x3 conv, instance norm, leaky ReLU (slope 0: ReLU), 3x3 conv, instance norm, plus the input."""

    def __init__(self, dim: int, pad_type: str, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope
        self.conv1 = conv(dim, dim, 3, padding=1, pad_type=pad_type)
        self.conv2 = conv(dim, dim, 3, padding=1, pad_type=pad_type)

    def forward(self, x_nchw: Tensor) -> Tensor:
        y = instance_norm(self.conv1(x_nchw))
        y = F.leaky_relu(y, self.slope) if self.slope else F.relu(y)
        return x_nchw + instance_norm(self.conv2(y))


class AdainResidualBlock(nn.Module):
    """A residual block whose two norms get scale and shift from the style."""

    n_norms = 2

    def __init__(self, dim: int, pad_type: str) -> None:
        super().__init__()
        self.conv1 = conv(dim, dim, 3, padding=1, pad_type=pad_type)
        self.conv2 = conv(dim, dim, 3, padding=1, pad_type=pad_type)

    def forward(self, x_nchw: Tensor, scales_nlc: Tensor, shifts_nlc: Tensor) -> Tensor:
        """`scales_nlc` and `shifts_nlc` are (N, 2, C): one row for each of the two norms."""
        y = F.relu(adaptive_instance_norm(self.conv1(x_nchw), scales_nlc[:, 0], shifts_nlc[:, 0]))
        return x_nchw + adaptive_instance_norm(self.conv2(y), scales_nlc[:, 1], shifts_nlc[:, 1])


class UpsampleConv(nn.Module):
    """Nearest upsampling x2, 5x5 conv, layer norm, ReLU.

    Computed as the equivalent 3x3 conv at the low resolution: 36 instead of 100 multiplications per input pixel and
    pair of channels, with the same gradients of the 5x5 kernel. Exact for every padding. `plain` disables this: equal
    up to rounding, slower.
    """

    phase_taps: Tensor

    def __init__(self, in_dim: int, out_dim: int, pad_type: str) -> None:
        super().__init__()
        self.conv = conv(in_dim, out_dim, 5, padding=2, pad_type=pad_type)
        self.norm = LayerNorm(out_dim)
        self.plain = False
        self.register_buffer("phase_taps", phase_taps(5), persistent=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        if self.plain:
            return F.relu(self.norm(self.conv(F.interpolate(x_nchw, scale_factor=2.0, mode="nearest"))))
        weight, bias = fold_upsampling(self.conv.weight, self.conv.bias, self.phase_taps)
        if self.conv.padding_mode == "zeros":
            y = F.pixel_shuffle(F.conv2d(x_nchw, weight, bias, padding=1), 2)
        else:
            y = F.pixel_shuffle(F.conv2d(_repeat_edge(x_nchw), weight, bias), 2)
        if self.conv.padding_mode == "reflect":  # not a padding of the low-resolution map
            _reflect_border(y, x_nchw, self.conv.weight)
        return F.relu(self.norm(y))


class ShuffleConv(nn.Module):
    """3x3 conv to four times the channels, pixel shuffle x2, layer norm, ReLU: (N, I, H, W) -> (N, O, 2H, 2W)."""

    def __init__(self, in_dim: int, out_dim: int, pad_type: str) -> None:
        super().__init__()
        self.conv = conv(in_dim, 4 * out_dim, 3, padding=1, pad_type=pad_type)
        self.norm = LayerNorm(out_dim)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return F.relu(self.norm(F.pixel_shuffle(self.conv(x_nchw), 2)))


def _repeat_edge(x_nchw: Tensor) -> Tensor:
    """Replication padding, one pixel wide. Not `F.pad`: torch.compile computes a wrong gradient for it here."""
    return _repeat_ends(_repeat_ends(x_nchw, 2, 1), 3, 1)


def _repeat_ends(x: Tensor, dim: int, count: int) -> Tensor:
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
    return torch.cat([first] * count + [x] + [last] * count, dim)


def _reflect_border(y_nchw: Tensor, x_nchw: Tensor, weight: Tensor) -> None:
    """Change, in place, the outer ring of a conv over an upsampled map from replication to reflection padding.

    `y_nchw` (N, O, 2H, 2W) came from `x_nchw` (N, I, H, W), upsampled x2, and the 5x5 kernel `weight`. Only its first
    and last rows and columns reach the second padded pixel, where reflection reads the map's second row (column) and
    replication its first. Rows are read along reflected columns and columns along replicated rows, which makes the
    corners right.
    """
    for edge, inner, tap in ((0, 1, 0), (-1, -2, 4)):
        row = F.interpolate(x_nchw[:, :, inner] - x_nchw[:, :, edge], scale_factor=2.0, mode="nearest")
        y_nchw[:, :, edge] += F.conv1d(F.pad(row, (2, 2), mode="reflect"), weight[:, :, tap])
        column = F.interpolate(x_nchw[..., inner] - x_nchw[..., edge], scale_factor=2.0, mode="nearest")
        y_nchw[..., edge] += F.conv1d(_repeat_ends(column, 2, 2), weight[..., tap])


def phase_taps(kernel: int) -> Tensor:
    """M (2, 3, kernel): M[p, a, t] = 1 where tap t of output phase p reads the low-resolution pixel at offset a - 1.

    On a line upsampled x2 by repetition, phase p of pixel n reads 2n + p + t - r, which lies in pixel
    n + floor((p + t - r) / 2), with r = (kernel - 1) / 2.
    """
    taps = torch.zeros(2, 3, kernel)
    for phase in range(2):
        for tap in range(kernel):
            taps[phase, (phase + tap - kernel // 2) // 2 + 1, tap] = 1
    return taps


def fold_upsampling(weight: Tensor, bias: Tensor | None, taps: Tensor) -> tuple[Tensor, Tensor | None]:
    """The 3x3 conv at the low resolution that equals nearest upsampling x2 and then `weight` (O, I, k, k).

    Returns weight (4 O, I, 3, 3) and bias (4 O), a channel's four phases side by side as `F.pixel_shuffle` expects.
    """
    out_dim, in_dim, kernel, _ = weight.shape
    # s, t: taps of the kernel; p, q: phases; a, b: taps of the folded kernel. One matrix product does it all.
    matrix = torch.einsum("pas,qbt->stpqab", taps, taps).reshape(kernel**2, 36)
    folded = (weight.reshape(out_dim * in_dim, kernel**2) @ matrix).view(out_dim, in_dim, 4, 3, 3)
    return folded.transpose(1, 2).flatten(0, 1), None if bias is None else bias.repeat_interleave(4)
