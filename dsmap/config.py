"""Settings of the network and of its training, checked when they are made. No torch in here.

A preset is a YAML file in `dsmap/presets/`; `load_train_config` lays a user's YAML file and `--set key=value` over it.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsmap.common.files import read_regular
from dsmap.errors import InputError

PadType = Literal["reflect", "replicate", "zero"]
Contrast = Annotated[float, Field(ge=1, le=2)]
GanType = Literal["lsgan", "nsgan", "ralsgan"]

MAX_STEPS = 10**9
MAX_NAME = 100
MAX_WIDTH, MAX_SIDE = 4096, 16_384
"""Of channels and of images: what a file says is believed up to here, as memory and time go by it."""
_MAX_YAML = 100_000  # bytes

DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What a domain may be called: names become parts of file names."""


class Settings(BaseModel):
    """Frozen, keyword-only settings that refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SettingsT = TypeVar("SettingsT", bound=Settings)


class ModelConfig(Settings):
    """The generators of both domains (paper sections 3.1-3.3). The defaults are the published network."""

    domains: tuple[str, str] = Field(default=("a", "b"), description="names of the two domains, in the order A, B")
    dim: int = Field(
        default=64,
        ge=1,
        le=MAX_WIDTH,
        description="channels of the first convolution; content has dim * 2**n_downsample",
    )
    n_downsample: int = Field(
        default=2, ge=0, le=4, description="stride-2 convs before the skip connection; 0: the stem"
    )
    patch: Literal[1, 2, 4] = Field(
        default=1,
        description="the first conv takes, the last one gives, blocks of this side in pixels: pixel-unshuffle stem and "
        "pixel-shuffle head of a network for video; 1 is the published network",
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
        description="how the decoder doubles the size: nearest upsampling and a 5x5 conv, as published, or a 3x3 conv "
        "and pixel shuffle, which costs the same and tells the four pixels apart",
    )
    pad_type: PadType = Field(
        default="reflect", description="padding of every convolution but the mapping's stride-2 one"
    )
    output: Literal["tanh", "clip"] = Field(
        default="tanh",
        description="how the decoder's last conv becomes an image: tanh, as published, or cut off at black and white; "
        "it shapes no weight",
    )
    contrast: tuple[Contrast, Contrast] = Field(
        default=(1.0, 1.0),
        description="images of A and B are tanh times this (1 to 2), cut off at black and white, which photographs "
        "hold and tanh does not; it shapes no weight",
    )
    sharpen: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="how much of what a blur of 3x3 pixels takes is added to every image that is decoded; it shapes "
        "no weight",
    )
    margin: int = Field(
        default=0,
        ge=0,
        le=64,
        description="pixels that are added on every side, by mirroring the image, and cut off what is decoded: with "
        "zero padding the outermost ones come out as lines; it shapes no weight",
    )
    mapping: bool = Field(default=True, description="domain-specific mapping; false decodes the shared content (MUNIT)")
    style_kl: bool = Field(default=False, description="variational style encoder (mean and log-variance)")

    @model_validator(mode="after")
    def _contrast_is_of_tanh(self) -> Self:
        if self.contrast != (1, 1) and self.output != "tanh":
            raise ValueError(
                f"model.contrast goes with model.output tanh: got {self.contrast[0]:g}, {self.contrast[1]:g} and "
                f"{self.output}, expected 1, 1 or tanh"
            )
        return self

    @model_validator(mode="after")
    def _margin_is_of_whole_positions(self) -> Self:
        if self.margin % self.multiple_of:
            raise ValueError(f"model.margin must be a multiple of {self.multiple_of} pixels, got {self.margin}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.domains[0] == self.domains[1]:
            raise ValueError(f"the two domains need different names, got {self.domains[0]!r} twice")
        for name in self.domains:
            if not DOMAIN_NAME.fullmatch(name) or len(name) > MAX_NAME:
                raise ValueError(
                    f"a domain's name is up to {MAX_NAME} letters, digits, - and _, got {name[: MAX_NAME + 1]!r}"
                )
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
    def has_room(self) -> bool:
        """Whether the content can hold every pixel: one of its positions stands for 2x2 blocks of `patch` x `patch`."""
        room = self.n_downsample == 0 and self.patch > 1 and self.dim >= 12 * self.patch**2
        return room and self.upsampling == "shuffle" and self.mapping

    @property
    def width_per_pixel(self) -> int:
        """Channels for each pixel of an image where the maps are largest, rounded up; memory goes by it."""
        return -(-self.dim // self.patch**2)

    @property
    def minimum_size(self) -> int:
        """The smallest height and width: instance norm needs two content positions a side, a mirror its margin."""
        return max(2 * self.multiple_of, self.margin + self.multiple_of)

    @property
    def style_minimum_size(self) -> int:
        """The smallest height and width of a style image: its encoder halves it four times, a KL one five times."""
        return max(self.minimum_size, 32 if self.style_kl else 16)


class DiscriminatorConfig(Settings):
    """The multi-scale patch discriminator of each domain."""

    dim: int = Field(default=64, ge=1, le=MAX_WIDTH, description="channels of the first convolution")
    n_layers: int = Field(default=4, ge=1, le=10, description="stride-2 convs per scale")
    n_scales: int = Field(default=3, ge=1, le=10, description="scales; each next one sees the image at half the size")
    pad_type: PadType = Field(default="reflect", description="padding of its convolutions")
    gan_type: GanType = Field(default="lsgan", description="adversarial loss")
    features: bool = Field(
        default=False,
        description="also judge what the feature network sees (Projected GAN): learns from fewer images and steps",
    )

    shift: int = Field(
        default=0,
        ge=0,
        le=MAX_SIDE,
        description="images are judged without so many of their rows and columns, from the one or the other side as "
        "drawn anew for each iteration: no pattern in step with the strides escapes",
    )

    @property
    def minimum_size(self) -> int:
        """The smallest training image: the last scale's last conv needs two rows to pad by reflection.

        So does the last map of a feature network, which is 1/16 of the image, of SqueezeNet less its unpadded edge.
        """
        of_features = (32 if self.pad_type == "zero" else 40) if self.features else 0
        return max(2 ** (self.n_scales - 1 + self.n_layers), of_features) + self.shift


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
        default=0.0, ge=0, description="MSGAN's term: different styles shall give different images"
    )
    appearance: float = Field(
        default=0.0, ge=0, description="brightness, colour, contrast and detail change as the domains differ in them"
    )
    feature_matching: float = Field(
        default=0.0,
        ge=0,
        description="the feature network shall see in translations, on average, what it sees in real images; needs "
        "discriminator.features",
    )
    kl: float = Field(default=0.0, ge=0, description="KL divergence of the style code; needs model.style_kl")


class OptimizerConfig(Settings):
    """Adam, and how the learning rate falls."""

    lr: float = Field(default=1e-4, gt=0, description="learning rate at the start")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's first-moment decay")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's second-moment decay")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2 penalty added to the gradient")
    schedule: Literal["step", "cosine", "constant"] = Field(default="step", description="how the learning rate falls")
    step_size: int = Field(
        default=100_000, ge=1, le=MAX_STEPS, description="schedule step: iterations between two drops"
    )
    gamma: float = Field(default=0.5, gt=0, le=1, description="schedule step: factor of each drop")
    clip_norm: float | None = Field(
        default=None, gt=0, description="gradients of each step are scaled down to this L2 norm; null leaves them"
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
    flip: bool = Field(default=True, description="mirror half of the crops left to right")
    batch_size: int = Field(default=2, ge=1, le=100_000, description="images of each domain per iteration and process")
    workers: int = Field(
        default=2,
        ge=0,
        le=1000,
        description="processes that read images, at most; 0 reads in the training process. Never more than CPUs",
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
    steps: int = Field(default=200_000, ge=1, le=MAX_STEPS, description="iterations in all")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of weights, data order and random styles")
    twin_init: bool = Field(
        default=False,
        description="both domains start with the same weights, which keeps light and dark from being swapped",
    )
    identity_init: bool = Field(
        default=False,
        description="generators start as sharp copies of the image: needs model.n_downsample 0, upsampling shuffle, "
        "patch 2 and dim 48 or more",
    )
    style_scale: tuple[float, float] = Field(
        default=(1.0, 1.0),
        description="random styles are N(0, I) times a factor drawn from (min, max); 0 trains the mean",
    )
    shared_style_draw: bool = Field(
        default=False,
        description="both steps of an iteration see the same random styles: one decoding less; the authors draw twice",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="arithmetic of the networks; losses, weights and Adam stay in float32"
    )
    compile: Literal["auto"] | bool = Field(default="auto", description="torch.compile the networks")
    cuda_graph: Literal["auto"] | bool = Field(
        default="auto", description="repeat iterations as a CUDA graph: on one GPU, which small networks leave waiting"
    )
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the averaged generators that are exported"
    )
    log_every: int = Field(default=50, ge=1, le=MAX_STEPS, description="iterations between two lines of the log")
    sample_every: int = Field(default=1000, ge=1, le=MAX_STEPS, description="iterations between two sample grids")
    checkpoint_every: int = Field(default=1000, ge=1, le=MAX_STEPS, description="iterations between two checkpoints")
    keep_checkpoints: int = Field(
        default=3, ge=1, le=MAX_STEPS, description="how many of the latest checkpoints are kept, beside the best"
    )
    score_pictures: int = Field(
        default=32,
        ge=0,
        le=10_000,
        description="images of each domain on which a checkpoint is scored, to keep the best one; 0: none",
    )
    tensorboard: bool = Field(default=True, description="write RUN/tensorboard")

    @property
    def uses_features(self) -> bool:
        """Whether the feature network takes part."""
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
        if self.identity_init and not self.model.has_room:
            raise ValueError(
                "identity_init needs room for every pixel: model.patch 2 or 4, n_downsample 0, upsampling shuffle, a "
                f"mapping, and dim of 12 * patch**2 or more, got dim {self.model.dim}"
            )
        if self.loss.feature_matching > 0 and not self.discriminator.features:
            raise ValueError("loss.feature_matching needs discriminator.features: true, got false")
        if self.loss.kl > 0 and not self.model.style_kl:
            raise ValueError("loss.kl needs model.style_kl: true, got model.style_kl: false")
        return self


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("dsmap.presets").iterdir() if p.name.endswith(".yaml")
    )


def load_train_config(
    preset: str = "paper", config_path: Path | None = None, overrides: Iterable[str] = (), **fields: Any
) -> TrainConfig:
    """A training configuration from a preset, a YAML file over it, `key=value` strings over that, and `fields` on top.

    `overrides` use dots for nesting ("loss.cycle=3") and YAML for values. `fields` are nested; None is left out.
    Raises InputError for unknown presets, files, keys (with the nearest known one) and values out of range.
    """
    if preset not in preset_names():
        raise InputError(f"no preset named {preset!r}", f"Known presets: {', '.join(preset_names())}.")
    tree = parse_yaml(
        (resources.files("dsmap.presets") / f"{preset}.yaml").read_text(encoding="utf-8"), f"preset {preset}"
    )
    if config_path is not None:
        _merge(tree, read_yaml(config_path, "the settings in"))
    for override in overrides:
        _merge(tree, _parse_override(override))
    _merge(tree, {key: value for key, value in fields.items() if value is not None})
    return parse_settings(TrainConfig, tree, "the training configuration")


def parse_settings(kind: type[SettingsT], tree: Mapping[str, Any], where: str) -> SettingsT:
    """`tree` as settings of type `kind`; InputError names the key, and the nearest known key for a misspelt one."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = known_keys(kind)
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or difflib.get_close_matches(
                key.rsplit(".", 1)[-1], [name.rsplit(".", 1)[-1] for name in known], n=1, cutoff=0.5
            )
            advice = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}."
            raise InputError(f"unknown key {key!r} in {where}", advice) from error
        message = first["msg"].removeprefix("Value error, ")
        got = f", got {_shortened(first['input'])}" if first["type"] != "value_error" else ""
        raise InputError(
            f"{where}: {key + ': ' if key else ''}{message}{got}", "Correct that value and run again."
        ) from error


def known_keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every settable key of `kind`, nested ones with dots."""
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file, which `what` names in errors. Raises InputError for anything else."""
    data = read_regular(path, limit=_MAX_YAML, what=what)
    try:
        return parse_yaml(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {what} {path}: {error}", "Save it as UTF-8.") from error


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that YAML holds; aliases are refused, as a few lines of them grow to more than a memory holds."""
    try:
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: dates that are none, endless numbers
        raise InputError(f"{where} is not valid YAML: {_shortened(error, str)}", "Correct the file.") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply", "Correct the file.") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(
            f"{where} holds a {type(tree).__name__}, expected keys and values", "Write `key: value` lines."
        )
    return tree


class _Loader(yaml.SafeLoader):
    """YAML's plain values, without aliases and without keys that are there twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"it has an alias (*{event.anchor}): write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice", node.start_mark)
        return mapping


def _shortened(value: object, text: Callable[[object], str] = repr, most: int = 300) -> str:
    line = " ".join(text(value).split())
    return line if len(line) <= most else f"{line[:most]} ..."


def override_key(text: str) -> str:
    """The key of a `key=value`."""
    return text.partition("=")[0].strip()


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"--set {text!r} is not KEY=VALUE", "Write it like --set loss.cycle=3.")
    tree: Any = _scalar(value)
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return tree


def _scalar(value: str) -> Any:
    try:
        parsed = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return value
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
