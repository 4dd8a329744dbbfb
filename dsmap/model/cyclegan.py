"""CycleGAN's generators: a ResNet between strided and transposed convolutions, without styles (Zhu et al., ICCV 2017).

Each direction is a network of its own. It is cut where the image is smallest, into a content encoder and a decoder, so
that it runs as the other models do. Shapes: N images, C channels, H x W an image's size, D = `dim`.
"""

from itertools import pairwise
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsmap.config.base import MAX_WIDTH, Settings, check_domain_names
from dsmap.model.layers import conv, instance_norm, wide
from dsmap.model.two_domains import TwoDomainModel

N_DOWNSAMPLE = 2


class CycleGANConfig(Settings):
    """The generators of a CycleGAN. The defaults are the published network."""

    kind: Annotated[str, Field(pattern="^cyclegan$")] = "cyclegan"
    domains: tuple[str, str] = Field(default=("a", "b"), description="names of domains A and B, in this order")
    dim: int = Field(default=64, ge=2, le=MAX_WIDTH, description="channels of the first convolution")
    n_res: int = Field(default=9, ge=1, le=64, description="residual blocks")

    @model_validator(mode="after")
    def _two_names(self) -> Self:
        check_domain_names(self.domains)
        return self

    @property
    def style_dim(self) -> int:
        """Length of a style code: there are no styles."""
        return 0

    @property
    def multiple_of(self) -> int:
        """Height and width of an image must be multiples of this."""
        return int(2**N_DOWNSAMPLE)

    @property
    def minimum_size(self) -> int:
        """The smallest height and width: reflection by 3 pixels must fit the image in blocks of 2x2."""
        return 4 * self.multiple_of

    @property
    def style_minimum_size(self) -> int:
        """As `minimum_size`: there are no style images."""
        return self.minimum_size

    @property
    def width_per_pixel(self) -> int:
        """Channels per image pixel in the largest maps."""
        return self.dim


class ResnetEncoder(nn.Module):
    """The first half of a generator: (N, 3, H, W) in [-1, 1] -> (N, 4 D, H/4, W/4)."""

    def __init__(self, config: CycleGANConfig) -> None:
        super().__init__()
        dim = config.dim
        self.stem = conv(3, dim, 7, padding=3, pad_type="reflect")
        self.downs = nn.ModuleList(
            conv(dim * 2**i, dim * 2 ** (i + 1), 3, stride=2, padding=1) for i in range(N_DOWNSAMPLE)
        )

    def forward(self, x_nchw: Tensor) -> Tensor:
        y = F.relu(instance_norm(self.stem(x_nchw)))
        for down in self.downs:
            y = F.relu(instance_norm(down(y)))
        return y


class ResnetBlock(nn.Module):
    """Reflection, 3x3 conv, instance norm and ReLU, the same without ReLU, plus the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = conv(dim, dim, 3, padding=1, pad_type="reflect")
        self.conv2 = conv(dim, dim, 3, padding=1, pad_type="reflect")

    def forward(self, x_nchw: Tensor) -> Tensor:
        y = F.relu(instance_norm(self.conv1(x_nchw)))
        return x_nchw + instance_norm(self.conv2(y))


class ResnetDecoder(nn.Module):
    """The second half of a generator: (N, 4 D, H/4, W/4) -> (N, 3, H, W) in [-1, 1]."""

    def __init__(self, config: CycleGANConfig) -> None:
        super().__init__()
        widths = [config.dim * 2**i for i in range(N_DOWNSAMPLE, -1, -1)]
        self.blocks = nn.ModuleList(ResnetBlock(widths[0]) for _ in range(config.n_res))
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(wide_, narrow, 3, stride=2, padding=1, output_padding=1)
            for wide_, narrow in pairwise(widths)
        )
        self.tail = conv(config.dim, 3, 7, padding=3, pad_type="reflect")

    def forward(self, content_nchw: Tensor) -> Tensor:
        y = content_nchw
        for block in self.blocks:
            y = block(y)
        for up in self.ups:
            y = F.relu(instance_norm(up(y)))
        return torch.tanh(wide(self.tail(y)))


class CycleGAN(TwoDomainModel):
    """The generators of one direction or of both, by the names of their domains."""

    def __init__(self, config: CycleGANConfig, targets: tuple[str, ...] | None = None) -> None:
        """`targets`: the domains that there is a generator to; None: both."""
        super().__init__(config.domains)
        self.config = config
        self.targets = tuple(d for d in config.domains if targets is None or d in targets)
        sources = [d for d in config.domains if config.domains[1 - config.domains.index(d)] in self.targets]
        self.content_encoders = nn.ModuleDict({self.slot(domain): ResnetEncoder(config) for domain in sources})
        self.decoders = nn.ModuleDict({self.slot(domain): ResnetDecoder(config) for domain in self.targets})

    def encode(self, x_nchw: Tensor, source: str) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> content (N, 4 D, H/4, W/4)."""
        content: Tensor = self.content_encoders[self.slot(source)](x_nchw)
        return content

    def decode(self, content_nchw: Tensor, target: str) -> Tensor:
        """Content of the other domain's images -> images of `target` in [-1, 1]."""
        images: Tensor = self.decoders[self.slot(target)](content_nchw)
        return images
