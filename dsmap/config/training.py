"""Settings of losses, optimisers, data and the run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dsmap.config.base import MAX_SIDE, MAX_STEPS, Settings
from dsmap.config.networks import DiscriminatorConfig, ModelConfig


class LossWeights(Settings):
    """Weight of each term of the generators' loss (paper equations 1-7; the contextual one is in the code only)."""

    image: float = Field(default=10.0, ge=0, description="image reconstruction")
    domain_content: float = Field(default=2.0, ge=0, description="domain-specific content (dsc): trains the mapping")
    shared_content: float = Field(default=2.0, ge=0, description="domain-invariant content (dic)")
    style: float = Field(default=10.0, ge=0, description="style reconstruction")
    cycle: float = Field(default=5.0, ge=0, description="cycle reconstruction")
    adversarial: float = Field(default=1.0, ge=0, description="adversarial")
    contextual: float = Field(default=1.0, ge=0, description="contextual (perceptual) loss on a feature network")
    mode_seeking: float = Field(
        default=0.0, ge=0, description="mode seeking (MSGAN): different styles give different images"
    )
    appearance: float = Field(
        default=0.0,
        ge=0,
        description="appearance: brightness, colour, contrast and detail change as much as the domains differ",
    )
    feature_matching: float = Field(
        default=0.0,
        ge=0,
        description="feature matching: mean features of translations match those of real images; needs "
        "discriminator.features",
    )
    kl: float = Field(default=0.0, ge=0, description="KL divergence of the style code; needs model.style_kl")


class OptimizerConfig(Settings):
    """Adam and its learning-rate schedule."""

    lr: float = Field(default=1e-4, gt=0, description="initial learning rate")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's first-moment decay")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's second-moment decay")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2 penalty added to the gradient")
    schedule: Literal["step", "cosine", "constant"] = Field(default="step", description="learning-rate schedule")
    step_size: int = Field(
        default=100_000, ge=1, le=MAX_STEPS, description="iterations between two drops of the step schedule"
    )
    gamma: float = Field(default=0.5, gt=0, le=1, description="factor of each drop of the step schedule")
    clip_norm: float | None = Field(
        default=None, gt=0, description="clip the gradient of each step to this L2 norm; null disables clipping"
    )
    content_lr_factor: float = Field(
        default=1.0,
        gt=0,
        description="learning-rate factor of the content encoders; 2 comes close to the authors' code",
    )
    discriminator_lr_factor: float = Field(
        default=1.0, gt=0, description="learning-rate factor of the discriminators (two time scales)"
    )


class DataConfig(Settings):
    """How images become batches."""

    shorter_side: int = Field(
        default=192, ge=16, le=MAX_SIDE, description="images are resized to this shorter side, in pixels"
    )
    crop: int = Field(default=192, ge=16, le=MAX_SIDE, description="side of the random square crop, in pixels")
    scale_jitter: tuple[float, float] = Field(default=(1.0, 1.0), description="random zoom before the crop, (min, max)")
    flip: bool = Field(default=True, description="flip half of the crops horizontally")
    batch_size: int = Field(default=2, ge=1, le=100_000, description="images of each domain per iteration and process")
    workers: int = Field(
        default=2,
        ge=0,
        le=1000,
        description="maximum number of processes that read images, at most one per CPU; 0: the training process reads",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise ValueError(f"data.scale_jitter must be 0 < min <= max, got {low}, {high}")
        if self.crop > self.shorter_side * low:
            raise ValueError(
                f"data.crop ({self.crop}) must not exceed data.shorter_side times the smallest data.scale_jitter "
                f"({self.shorter_side * low:g})"
            )
        return self


class TrainConfig(Settings):
    """Everything that decides a training run."""

    model: ModelConfig = ModelConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossWeights = LossWeights()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    features: str = Field(
        default="vgg16",
        description="feature network of the contextual loss and of discriminator.features: vgg16 (torchvision) or a "
        "SqueezeNet .npz file",
    )
    steps: int = Field(default=200_000, ge=1, le=MAX_STEPS, description="total number of iterations")
    seed: int = Field(default=0, ge=0, lt=2**63, description="random seed of weights, data order and random styles")
    twin_init: bool = Field(
        default=False,
        description="initialise both domains with the same weights, so that light and dark are not swapped",
    )
    identity_init: bool = Field(
        default=False,
        description="initialise the generators to reproduce their input: needs model.n_downsample 0, upsampling "
        "shuffle, patch 2 or 4 and dim of 12 * patch**2 or more",
    )
    style_scale: tuple[float, float] = Field(
        default=(1.0, 1.0),
        description="random styles are N(0, I) times a factor drawn from (min, max); 0 is the mean style",
    )
    shared_style_draw: bool = Field(
        default=False,
        description="use the same random styles for discriminators and generators, which saves a decoding; the authors "
        "draw twice",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="precision of the networks; losses, weights and Adam stay in float32"
    )
    compile: Literal["auto"] | bool = Field(default="auto", description="compile the networks with torch.compile")
    cuda_graph: Literal["auto"] | bool = Field(
        default="auto", description="capture iterations as a CUDA graph (one GPU): speeds up small networks"
    )
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the moving average of the generators, which is exported"
    )
    log_every: int = Field(default=50, ge=1, le=MAX_STEPS, description="iterations between log lines")
    sample_every: int = Field(default=1000, ge=1, le=MAX_STEPS, description="iterations between sample grids")
    checkpoint_every: int = Field(default=1000, ge=1, le=MAX_STEPS, description="iterations between checkpoints")
    keep_checkpoints: int = Field(
        default=3, ge=1, le=MAX_STEPS, description="number of latest checkpoints to keep, beside the best"
    )
    score_pictures: int = Field(
        default=32,
        ge=0,
        le=10_000,
        description="images of each domain on which checkpoints are scored, to keep the best; 0 disables scoring",
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard logs to RUN/tensorboard")

    @property
    def uses_features(self) -> bool:
        """Whether a feature network is needed."""
        return bool(self.loss.contextual) or self.discriminator.features

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        multiple = self.model.multiple_of
        if self.data.crop % multiple:
            raise ValueError(f"data.crop must be a multiple of {multiple}, got {self.data.crop}")
        smallest = max(self.model.minimum_size, self.discriminator.minimum_size)
        if self.data.crop < smallest:
            raise ValueError(f"data.crop must be at least {smallest} for this network, got {self.data.crop}")
        if not 0 <= self.style_scale[0] <= self.style_scale[1]:
            raise ValueError(f"style_scale must be 0 <= min <= max, got {self.style_scale[0]}, {self.style_scale[1]}")
        if self.identity_init and not self.model.can_hold_every_pixel:
            raise ValueError(
                "identity_init needs a network that can hold every pixel: model.patch 2 or 4, n_downsample 0, "
                f"upsampling shuffle, a mapping, and dim of 12 * patch**2 or more, got dim {self.model.dim}"
            )
        if self.loss.feature_matching > 0 and not self.discriminator.features:
            raise ValueError("loss.feature_matching needs discriminator.features: true, got false")
        if self.loss.kl > 0 and not self.model.style_kl:
            raise ValueError("loss.kl needs model.style_kl: true, got model.style_kl: false")
        return self
