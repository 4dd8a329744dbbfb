"""Settings of the generators and discriminators."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dsmap.config.base import MAX_SIDE, MAX_WIDTH, Settings, check_domain_names

PadType = Literal["reflect", "replicate", "zero"]
Contrast = Annotated[float, Field(ge=1, le=2)]
GanType = Literal["lsgan", "nsgan", "ralsgan"]

NOT_SHAPING = frozenset({"model.output", "model.contrast", "model.sharpen", "model.margin", "discriminator.shift"})
"""Settings of the networks on which no weight's shape depends: they may change between runs on the same weights."""


class ModelConfig(Settings):
    """The generators of both domains (paper sections 3.1-3.3). The defaults are the published network."""

    domains: tuple[str, str] = Field(default=("a", "b"), description="names of domains A and B, in this order")
    dim: int = Field(
        default=64,
        ge=1,
        le=MAX_WIDTH,
        description="channels of the first convolution; the content has dim * 2**n_downsample",
    )
    n_downsample: int = Field(
        default=2,
        ge=0,
        le=4,
        description="stride-2 convolutions before the skip connection; with 0 it follows the stem",
    )
    patch: Literal[1, 2, 4] = Field(
        default=1,
        description="side in pixels of the blocks that the first convolution reads and the last one writes "
        "(pixel-unshuffle stem, pixel-shuffle head), for fast networks; 1 is the published network",
    )
    n_res: int = Field(default=4, ge=1, le=64, description="residual blocks in each content encoder and each decoder")
    style_dim: int = Field(default=8, ge=1, le=MAX_WIDTH, description="length of the style code")
    mlp_dim: int = Field(
        default=256,
        ge=1,
        le=MAX_WIDTH,
        description="hidden width of the MLP that turns a style code into AdaIN parameters",
    )
    upsampling: Literal["nearest", "shuffle"] = Field(
        default="nearest",
        description="upsampling in the decoder: nearest and a 5x5 convolution (published), or a 3x3 convolution and "
        "pixel shuffle, which costs the same and can give the four pixels different values",
    )
    pad_type: PadType = Field(
        default="reflect", description="padding of all convolutions except the stride-2 one of the mapping"
    )
    output: Literal["tanh", "clip"] = Field(
        default="tanh",
        description="activation of the decoder's output: tanh (published), or clipping to black and white",
    )
    contrast: tuple[Contrast, Contrast] = Field(
        default=(1.0, 1.0),
        description="factors (1 to 2) on the tanh output of A and B, clipped to black and white, which tanh alone "
        "never reaches",
    )
    sharpen: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="unsharp masking of decoded images: amount of the difference to a 3x3 blur that is added",
    )
    margin: int = Field(
        default=0,
        ge=0,
        le=64,
        description="reflect-pad the input by this many pixels and crop the output, which avoids the border lines of "
        "zero padding",
    )
    mapping: bool = Field(
        default=True, description="use the domain-specific mapping; false decodes the shared content (MUNIT)"
    )
    style_kl: bool = Field(default=False, description="variational style encoder (mean and log-variance)")

    @model_validator(mode="after")
    def _contrast_needs_tanh(self) -> Self:
        if self.contrast != (1, 1) and self.output != "tanh":
            raise ValueError(
                f"model.contrast needs model.output tanh: got {self.contrast[0]:g}, {self.contrast[1]:g} and "
                f"{self.output}, expected 1, 1 or tanh"
            )
        return self

    @model_validator(mode="after")
    def _margin_fits_the_stride(self) -> Self:
        if self.margin % self.multiple_of:
            raise ValueError(f"model.margin must be a multiple of {self.multiple_of} pixels, got {self.margin}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        check_domain_names(self.domains)
        return self

    @property
    def content_dim(self) -> int:
        """Channels of the content features and of the skip connection."""
        return self.dim * 2**self.n_downsample

    @property
    def multiple_of(self) -> int:
        """Height and width of an image must be multiples of this (8 in the published network)."""
        return self.patch * 2 ** (self.n_downsample + 1)

    @property
    def can_hold_every_pixel(self) -> bool:
        """Whether the content can hold every pixel: each position stands for 2x2 blocks of `patch` x `patch`."""
        wide_enough = self.n_downsample == 0 and self.patch > 1 and self.dim >= 12 * self.patch**2
        return wide_enough and self.upsampling == "shuffle" and self.mapping

    @property
    def width_per_pixel(self) -> int:
        """Channels per image pixel in the largest maps, rounded up; memory is proportional to it."""
        return -(-self.dim // self.patch**2)

    @property
    def minimum_size(self) -> int:
        """The smallest height and width: instance norm needs two content positions a side, reflection its margin."""
        return max(2 * self.multiple_of, self.margin + self.multiple_of)

    @property
    def style_minimum_size(self) -> int:
        """The smallest height and width of a style image: its encoder halves it four times, a KL one five times."""
        return max(self.minimum_size, 32 if self.style_kl else 16)


class DiscriminatorConfig(Settings):
    """The multi-scale patch discriminator of each domain."""

    dim: int = Field(default=64, ge=1, le=MAX_WIDTH, description="channels of the first convolution")
    n_layers: int = Field(default=4, ge=1, le=10, description="stride-2 convolutions per scale")
    n_scales: int = Field(
        default=3, ge=1, le=10, description="scales; each sees the image at half the size of the last"
    )
    pad_type: PadType = Field(default="reflect", description="padding of its convolutions")
    gan_type: GanType = Field(default="lsgan", description="adversarial loss")
    features: bool = Field(
        default=False,
        description="also discriminate on maps of the feature network (Projected GAN): learns from fewer images and "
        "iterations",
    )
    shift: int = Field(
        default=0,
        ge=0,
        le=MAX_SIDE,
        description="crop this many rows and columns from images before they are judged, at sides drawn anew each "
        "iteration, so that no pattern in step with the strides goes unnoticed",
    )

    @property
    def minimum_size(self) -> int:
        """The smallest training image: the last scale's last convolution needs two rows to pad by reflection.

        So does the last map of a feature network, 1/16 of the image (SqueezeNet loses its unpadded edge as well).
        """
        of_features = (32 if self.pad_type == "zero" else 40) if self.features else 0
        return max(2 ** (self.n_scales - 1 + self.n_layers), of_features) + self.shift
