"""Parts of the generators (paper section 3; widths for dim 64, n_downsample 2 in the shape comments).

Shapes: N images, C channels, H x W an image's size, h x w = H/8 x W/8 the content's, S the style code's length.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.config import ModelConfig
from dsmap.model.layers import (
    AdainResidualBlock,
    LayerNorm,
    ResidualBlock,
    ShuffleConv,
    UpsampleConv,
    conv,
    instance_norm,
    pixel_mean,
    sharpened,
    to_image,
    without_margin,
)

LRELU_SLOPE = 0.01


class ContentEncoder(nn.Module):
    """E: an image of one domain -> its domain-specific content h and the skip feature for the mapping."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, pad = config.dim, config.pad_type
        self.margin = config.margin
        self.stem = _stem(config)
        self.downs = nn.ModuleList(
            conv(dim * 2**i, dim * 2 ** (i + 1), 4, stride=2, padding=1, pad_type=pad)
            for i in range(config.n_downsample)
        )
        self.mid = conv(config.content_dim, config.content_dim, 4, stride=2, padding=1, pad_type=pad)
        self.blocks = nn.Sequential(*(ResidualBlock(config.content_dim, pad) for _ in range(config.n_res)))

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) in [-1, 1] -> content (N, 256, H/8, W/8) and skip (N, 256, H/4, W/4).

        Both are larger by the network's margin, if any.
        """
        y = self.stem(F.pad(x_nchw, (self.margin,) * 4, mode="reflect") if self.margin else x_nchw)
        # N, 64, H, W. Without any norm the content would keep colours and contrast, and the style would have no effect.
        y = F.leaky_relu(y, LRELU_SLOPE) if self.downs else F.relu(instance_norm(y))
        for down in self.downs:
            y = F.relu(instance_norm(down(y)))
        skip = y  # N, 256, H/4, W/4
        return self.blocks(F.relu(instance_norm(self.mid(y)))), skip


class SharedEncoder(nn.Module):
    """E_shared: domain-specific content -> shared (domain-invariant) content; one for both domains.

    One residual block with a leaky ReLU; nothing follows the addition.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.block = ResidualBlock(config.content_dim, config.pad_type, slope=LRELU_SLOPE)

    def forward(self, content_nchw: Tensor) -> Tensor:
        """(N, 256, h, w) -> (N, 256, h, w)."""
        return self.block(content_nchw)


class DomainMapping(nn.Module):
    """Phi: shared content -> the content space of one target domain (paper section 3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.content_dim
        self.up = nn.ConvTranspose2d(dim, dim, 3, stride=2, padding=1, output_padding=1)
        self.up_norm = LayerNorm(dim)
        self.down = conv(dim, dim, 3, stride=2, padding=1, pad_type="zero")  # zero for every pad_type
        self.down_norm = LayerNorm(dim)

    def forward(self, shared_nchw: Tensor, skip_nchw: Tensor) -> Tensor:
        """Shared content (N, 256, h, w) and the source encoder's skip (N, 256, 2h, 2w) -> (N, 256, h, w)."""
        y = F.relu(self.up_norm(self.up(shared_nchw))) + skip_nchw
        return self.down_norm(self.down(y))


class StyleEncoder(nn.Module):
    """S: an image -> its style code."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = _style_widths(config)
        self.stem = _stem(config)
        self.downs = nn.ModuleList(
            conv(i, o, 4, stride=2, padding=1, pad_type=config.pad_type) for i, o in pairwise(widths)
        )
        self.head = nn.Conv2d(widths[-1], config.style_dim, 1)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> style code (N, S)."""
        y = F.relu(self.stem(x_nchw))
        for down in self.downs:
            y = F.relu(down(y))
        return self.head(pixel_mean(y)).flatten(1)


class KLStyleEncoder(nn.Module):
    """The variational style encoder: an image -> mean and log-variance of its style code."""

    n_blocks = 4

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        widths = [dim * min(i + 1, 4) for i in range(self.n_blocks + 1)]
        self.stem = conv(3, dim, 4, stride=2, padding=1, pad_type=config.pad_type)
        self.blocks = nn.Sequential(*(_PooledBlock(i, o, config.pad_type) for i, o in pairwise(widths)))
        self.mean = nn.Linear(widths[-1], config.style_dim)
        self.log_variance = nn.Linear(widths[-1], config.style_dim)

    def distribution(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) in [-1, 1] -> mean and log-variance, each (N, S)."""
        y = pixel_mean(F.leaky_relu(self.blocks(self.stem(x_nchw)), 0.2)).flatten(1)
        return self.mean(y), self.log_variance(y)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """The mean, which is the style code outside training. (N, 3, H, W) -> (N, S)."""
        return self.distribution(x_nchw)[0]


class _PooledBlock(nn.Module):
    """Pre-activation residual block that halves the size (2x2 average pooling on both branches)."""

    def __init__(self, in_dim: int, out_dim: int, pad_type: str) -> None:
        super().__init__()
        self.conv1 = conv(in_dim, in_dim, 3, padding=1, pad_type=pad_type)
        self.conv2 = conv(in_dim, out_dim, 3, padding=1, pad_type=pad_type)
        self.shortcut = nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, x_nchw: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(x_nchw, 0.2))
        y = F.avg_pool2d(self.conv2(F.leaky_relu(y, 0.2)), 2)
        return y + self.shortcut(F.avg_pool2d(x_nchw, 2))


class StyleMLP(nn.Module):
    """Style code -> scales and shifts of all AdaIN layers of a decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_norms = AdainResidualBlock.n_norms * config.n_res
        self.dim = config.content_dim
        sizes = [config.style_dim, config.mlp_dim, config.mlp_dim, self.n_norms * 2 * self.dim]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, style_ns: Tensor) -> Tensor:
        """(N, S) -> style parameters (N, L, 2, C): for each of L norms C shifts, then C scales."""
        y = style_ns
        for layer in self.layers[:-1]:
            y = F.relu(layer(y))
        return self.layers[-1](y).unflatten(1, (self.n_norms, 2, self.dim))


class Decoder(nn.Module):
    """G: content in one domain's space and style parameters -> an image of that domain."""

    def __init__(self, config: ModelConfig, contrast: float, widths: Sequence[int] | None = None) -> None:
        """`widths`: channels before the first upsampling and after each; None: the published 256, 256, 128, 64."""
        super().__init__()
        dim, pad = config.content_dim, config.pad_type
        widths = widths or [dim, dim] + [dim // 2 ** (i + 1) for i in range(config.n_downsample)]
        self.patch, self.output = config.patch, config.output
        self.contrast, self.sharpen, self.margin = contrast, config.sharpen, config.margin
        self.blocks = nn.ModuleList(AdainResidualBlock(dim, pad) for _ in range(config.n_res))
        up = ShuffleConv if config.upsampling == "shuffle" else UpsampleConv
        self.ups = nn.ModuleList(up(i, o, pad) for i, o in pairwise(widths))
        kernel = 7 if config.patch == 1 else 3
        self.tail = conv(widths[-1], 3 * config.patch**2, kernel, padding=kernel // 2, pad_type=pad)

    def forward(self, mapped_nchw: Tensor, style_params_nl2c: Tensor) -> Tensor:
        """Mapped content (N, 256, h, w), style parameters (N, L, 2, 256) -> (N, 3, H, W) in [-1, 1]."""
        shifts, scales = style_params_nl2c[:, :, 0], style_params_nl2c[:, :, 1]
        y = mapped_nchw
        for i, block in enumerate(self.blocks):
            y = block(y, scales[:, 2 * i : 2 * i + 2], shifts[:, 2 * i : 2 * i + 2])
        for up in self.ups:
            y = up(y)
        z = self.tail(y)
        z = without_margin(z if self.patch == 1 else F.pixel_shuffle(z, self.patch), self.margin)
        return sharpened(to_image(z, self.output, self.contrast), self.sharpen)


def _stem(config: ModelConfig) -> nn.Conv2d:
    """The first conv of an encoder. Pixel-unshuffle by p and a 3x3 conv are one conv of kernel 3 p and stride p."""
    p = config.patch
    kernel, padding = (7, 3) if p == 1 else (3 * p, p)
    return conv(3, config.dim, kernel, stride=p, padding=padding, pad_type=config.pad_type)


def _style_widths(config: ModelConfig) -> Sequence[int]:
    """Widths of the style encoder before and after its stride-2 convs: doubled twice, then held.

    There are four, minus the halvings of a stem that reads blocks of pixels.
    """
    halvings = config.patch.bit_length() - 1
    return [config.dim * 2 ** min(i, 2 - halvings) for i in range(5 - halvings)]
