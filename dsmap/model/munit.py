"""MUNIT's generators: content and style, without a shared content space or mappings (Huang et al., ECCV 2018).

A content of one domain goes straight into the other's decoder. Parts are those of DSMAP where the papers agree: the
style encoder, the MLP, the decoder's layers. Shapes: N images, C channels, H x W an image's size, S the style code's
length; h x w = H/4 x W/4 and widths are those of the published network.
"""

from typing import Annotated, Self

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsmap.config import ModelConfig
from dsmap.config.base import MAX_WIDTH, Settings, check_domain_names
from dsmap.model.layers import ResidualBlock, conv, instance_norm
from dsmap.model.networks import Decoder, StyleEncoder, StyleMLP
from dsmap.model.two_domains import SLOTS, TwoDomainModel


class MUNITConfig(Settings):
    """The generators of a MUNIT. The defaults are the published network."""

    kind: Annotated[str, Field(pattern="^munit$")] = "munit"
    domains: tuple[str, str] = Field(default=("a", "b"), description="names of domains A and B, in this order")
    dim: int = Field(default=64, ge=2, le=MAX_WIDTH, description="channels of the first convolution")
    n_downsample: int = Field(default=2, ge=1, le=4, description="stride-2 convolutions of the content encoder")
    n_res: int = Field(default=4, ge=1, le=64, description="residual blocks in each content encoder and each decoder")
    style_dim: int = Field(default=8, ge=1, le=MAX_WIDTH, description="length of the style code")
    mlp_dim: int = Field(default=256, ge=1, le=MAX_WIDTH, description="hidden width of the MLP behind a style code")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_domain_names(self.domains)
        if self.dim * 2**self.n_downsample > MAX_WIDTH:
            raise ValueError(f"the content may have {MAX_WIDTH} channels, got {self.dim * 2**self.n_downsample}")
        return self

    @property
    def multiple_of(self) -> int:
        """Height and width of an image must be multiples of this."""
        return int(2**self.n_downsample)

    @property
    def minimum_size(self) -> int:
        """The smallest height and width: instance norm needs two content positions a side, the stem's reflection 4."""
        return max(2 * self.multiple_of, 8)

    @property
    def style_minimum_size(self) -> int:
        """The smallest height and width of a style image: its encoder halves it four times."""
        return max(self.minimum_size, 16)

    @property
    def width_per_pixel(self) -> int:
        """Channels per image pixel in the largest maps."""
        return self.dim

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each scale, from the image's on: 64, 128, 256."""
        return tuple(self.dim * 2**i for i in range(self.n_downsample + 1))

    def shared_parts(self) -> ModelConfig:
        """Settings of DSMAP under which the parts that both networks have are MUNIT's."""
        same = ("domains", "dim", "n_downsample", "n_res", "style_dim", "mlp_dim")
        return ModelConfig(mapping=False, **{name: getattr(self, name) for name in same})


class MUNITEncoder(nn.Module):
    """An image -> its content: (N, 3, H, W) in [-1, 1] -> (N, 256, H/4, W/4)."""

    def __init__(self, config: MUNITConfig) -> None:
        super().__init__()
        pad, widths = "reflect", config.widths
        self.stem = conv(3, widths[0], 7, padding=3, pad_type=pad)
        self.downs = nn.ModuleList(
            conv(width, 2 * width, 4, stride=2, padding=1, pad_type=pad) for width in widths[:-1]
        )
        self.blocks = nn.Sequential(*(ResidualBlock(widths[-1], pad) for _ in range(config.n_res)))

    def forward(self, x_nchw: Tensor) -> Tensor:
        y = F.relu(instance_norm(self.stem(x_nchw)))
        for down in self.downs:
            y = F.relu(instance_norm(down(y)))
        content: Tensor = self.blocks(y)
        return content


class MUNIT(TwoDomainModel):
    """The generators of both domains. Parts are named as those of `DSMAP`, by the slot of their own domain."""

    def __init__(self, config: MUNITConfig) -> None:
        super().__init__(config.domains)
        self.config = config
        parts = config.shared_parts()
        self.content_encoders = nn.ModuleDict({slot: MUNITEncoder(config) for slot in SLOTS})
        self.style_encoders = nn.ModuleDict({slot: StyleEncoder(parts) for slot in SLOTS})
        self.style_mlps = nn.ModuleDict({slot: StyleMLP(parts) for slot in SLOTS})
        self.decoders = nn.ModuleDict({slot: Decoder(parts, 1.0, widths=config.widths[::-1]) for slot in SLOTS})

    @property
    def targets(self) -> tuple[str, str]:
        """The domains that there is a generator to: both."""
        return self.config.domains

    def encode(self, x_nchw: Tensor, source: str) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> content (N, 256, H/4, W/4)."""
        content: Tensor = self.content_encoders[self.slot(source)](x_nchw)
        return content

    def encode_style(self, x_nchw: Tensor, domain: str) -> Tensor:
        """Style codes (N, S) of images of `domain`."""
        style: Tensor = self.style_encoders[self.slot(domain)](x_nchw)
        return style

    def decode(self, content_nchw: Tensor, style_ns: Tensor, target: str) -> Tensor:
        """Content of either domain's images and style codes (N, S) -> images of `target` in [-1, 1]."""
        slot = self.slot(target)
        images: Tensor = self.decoders[slot](content_nchw, self.style_mlps[slot](style_ns))
        return images
