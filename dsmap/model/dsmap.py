"""The DSMAP model: the generators of both domains behind one interface, by domain name."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsmap.config import ModelConfig
from dsmap.errors import InputError
from dsmap.model.layers import ShuffleConv
from dsmap.model.networks import (
    ContentEncoder,
    Decoder,
    DomainMapping,
    KLStyleEncoder,
    SharedEncoder,
    StyleEncoder,
    StyleMLP,
)
from dsmap.model.two_domains import SLOTS, TwoDomainModel


class Content(NamedTuple):
    """The result of `DSMAP.encode` (in the published network C = 256 and the scale is 1/8)."""

    shared: Tensor
    """c = E_shared(h): domain-invariant content, (N, C, H/8, W/8)."""
    skip: Tensor
    """The encoder's feature at twice that size, which the mapping adds, (N, C, H/4, W/4)."""
    domain_specific: Tensor
    """h = E(x): content in the image's own domain, (N, C, H/8, W/8)."""


class DSMAP(TwoDomainModel):
    """Encoders, mappings and decoders of two named domains (Chang et al., ECCV 2020).

    A mapping is stored under the slot of the domain it maps TO.
    Images are float tensors (N, 3, H, W) in [-1, 1], RGB, height and width multiples of `config.multiple_of`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.domains)
        self.config = config
        style_encoder = KLStyleEncoder if config.style_kl else StyleEncoder
        self.shared_encoder = SharedEncoder(config)
        self.content_encoders = nn.ModuleDict({slot: ContentEncoder(config) for slot in SLOTS})
        self.mappings = (
            nn.ModuleDict({slot: DomainMapping(config) for slot in SLOTS}) if config.mapping else nn.ModuleDict()
        )
        self.style_encoders = nn.ModuleDict({slot: style_encoder(config) for slot in SLOTS})
        self.style_mlps = nn.ModuleDict({slot: StyleMLP(config) for slot in SLOTS})
        self.decoders = nn.ModuleDict(
            {slot: Decoder(config, contrast) for slot, contrast in zip(SLOTS, config.contrast, strict=True)}
        )

    def other(self, domain: str) -> str:
        """The domain that `domain` is translated to."""
        a, b = self.domains
        return b if self.slot(domain) == SLOTS[0] else a

    def encode(self, x_nchw: Tensor, domain: str) -> Content:
        """The content of images of `domain`."""
        self._check_size(x_nchw, self.config.minimum_size)
        domain_specific, skip = self.content_encoders[self.slot(domain)](x_nchw)
        return Content(self.shared_encoder(domain_specific), skip, domain_specific)

    def map(self, content: Content, target: str) -> Tensor:
        """Phi_target: shared content to the content space of `target`, (N, C, H/8, W/8) (paper section 3.2).

        Without a mapping (MUNIT) it is the shared content.
        """
        slot = self.slot(target)
        if not self.config.mapping:
            return content.shared
        return self.mappings[slot](content.shared, content.skip)

    def encode_style(self, x_nchw: Tensor, domain: str) -> Tensor:
        """Style codes (N, S) of images of `domain`; the mean of a KL encoder."""
        self._check_size(x_nchw, self.config.style_minimum_size)
        return self.style_encoders[self.slot(domain)](x_nchw)

    def decode(self, mapped_nchw: Tensor, style_ns: Tensor, domain: str) -> Tensor:
        """Images of `domain` from content in its space and style codes (N, S); (N, 3, H, W) in [-1, 1].

        Also accepts style codes in the authors' shape (N, S, 1, 1).
        """
        style_params = self.style_mlps[self.slot(domain)](style_ns.flatten(1))
        return self.decoders[self.slot(domain)](mapped_nchw, style_params)

    def translate(self, x_nchw: Tensor, source: str, target: str, style_ns: Tensor) -> Tensor:
        """Images of `source` as images of `target` in the given style (paper equation 1)."""
        return self.decode(self.map(self.encode(x_nchw, source), target), style_ns, target)

    def random_style(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` style codes from N(0, I), (n, S), on the model's device."""
        device = next(self.parameters()).device
        return torch.randn(n, self.config.style_dim, generator=generator).to(device)

    def _check_size(self, x_nchw: Tensor, minimum: int) -> None:
        if torch.compiler.is_exporting():
            return
        height, width = x_nchw.shape[-2:]
        multiple = self.config.multiple_of
        if height % multiple or width % multiple or min(height, width) < minimum:
            raise InputError(
                f"an image of {width}x{height} does not fit the network",
                f"Height and width must be multiples of {multiple} and at least {minimum}: pad or resize it.",
            )


def is_finite(module: nn.Module) -> bool:
    """Whether every weight is finite."""
    return all(bool(value.isfinite().all()) for value in module.state_dict().values())


def initialise_generators(model: nn.Module) -> None:
    """Initialise conv and linear layers with Kaiming-normal (fan-in) weights and zero biases, as the authors do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Decoder):
            _initialise_equal_pixels(module.tail, module.patch**2)
        elif isinstance(module, ShuffleConv):
            _initialise_equal_pixels(module.conv, 4)


@torch.no_grad()
def _initialise_equal_pixels(conv: nn.Conv2d, pixels: int) -> None:
    """Equal weights for the pixels of a shuffle; otherwise the first images are checkerboards (Aitken et al. 2017)."""
    conv.weight.copy_(conv.weight[::pixels].repeat_interleave(pixels, 0))


def make_twins(model: DSMAP) -> None:
    """Copy the weights of every part of domain A to domain B.

    Their contents then agree from the first step. Two encoders that start differently can agree on contents with light
    and dark swapped, which only a long training undoes.
    """
    a, b = SLOTS
    for part in (model.content_encoders, model.mappings, model.style_encoders, model.style_mlps, model.decoders):
        if part:
            part[b].load_state_dict(part[a].state_dict())


def initialise_discriminator(model: nn.Module) -> None:
    """Initialise convolutions with weights from N(0, 0.02) and zero biases, as the authors do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
