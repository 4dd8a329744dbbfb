"""The discriminators: of patches at several scales, and of what a feature network sees in a picture."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.config import DiscriminatorConfig
from dsmap.features import FeatureNetwork
from dsmap.layers import conv, pixel_mean
from dsmap.networks import LRELU_SLOPE

FEATURE_SLOPE = 0.2
_MIXED = 96  # channels that the random mixing leaves of a map of 128 to 512


class PatchDiscriminator(nn.Module):
    """One scale: stride-2 convs without norms, then a 1x1 conv to one logit per patch."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [3] + [config.dim * 2**i for i in range(config.n_layers)]
        self.layers = nn.ModuleList(
            conv(i, o, 4, stride=2, padding=1, pad_type=config.pad_type) for i, o in pairwise(widths)
        )
        self.head = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> logits (N, 1, H/16, W/16)."""
        for layer in self.layers:
            x_nchw = F.leaky_relu(layer(x_nchw), LRELU_SLOPE)
        return self.head(x_nchw)


class FeatureDiscriminator(nn.Module):
    """Judges the maps of a frozen feature network at one depth (Sauer et al., "Projected GANs", NeurIPS 2021).

    What the network learnt from ImageNet need not be learnt again from two small folders: snow, rock and trees are
    told apart from the first step. The map is compressed with log(1 + x), for activations are sparse and run into the
    hundreds, and its channels are mixed by fixed random weights, so that no few of them decide alone.
    """

    mixing: Tensor

    def __init__(self, in_dim: int, depth: int, halvings: int, dim: int, pad_type: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(depth)  # the same on every machine: no weight of a checkpoint
        mixing = torch.randn(_MIXED, in_dim, 1, 1, generator=generator) / in_dim**0.5
        self.register_buffer("mixing", mixing, persistent=False)
        self.layers = nn.ModuleList([conv(_MIXED, dim, 3, padding=1, pad_type=pad_type)])
        self.layers.extend(conv(dim, dim, 4, stride=2, padding=1, pad_type=pad_type) for _ in range(halvings))
        self.head = nn.Conv2d(dim, 1, 1)

    def forward(self, features_nchw: Tensor) -> Tensor:
        """(N, C, h, w), not negative -> logits (N, 1, h / 2**halvings, w / 2**halvings)."""
        y = F.conv2d(features_nchw.log1p(), self.mixing)
        for layer in self.layers:
            y = F.leaky_relu(layer(y), FEATURE_SLOPE)
        return self.head(y)


class WholeDiscriminator(nn.Module):
    """Judges what the feature network sees in the picture as a whole: the means of its deeper maps.

    Domains such as seasons differ in what pictures show, not in every patch: on summer and winter landscapes this
    head alone came to a least-squares loss of 0.34 where those of patches stayed at 0.41 (0.5 is guessing).
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_dim, dim, 1)
        self.head = nn.Conv2d(dim, 1, 1)

    def forward(self, taps_nchw: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, h, w) at several depths, not negative, `in_dim` channels in all -> logits (N, 1, 1, 1)."""
        means = torch.cat([pixel_mean(tap.log1p()) for tap in taps_nchw], 1)
        return self.head(F.leaky_relu(self.layer(means), FEATURE_SLOPE))


class Discriminator(nn.Module):
    """The same picture judged at several scales, each half the size of the one before.

    With `config.features` also at several depths of the network `features`, and as a whole; it must be given then, and
    is used, not owned: neither its weights nor its place are this module's.
    """

    def __init__(self, config: DiscriminatorConfig, features: FeatureNetwork | None = None) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(config) for _ in range(config.n_scales))
        self.depths = nn.ModuleList()
        self._features = (features,)  # in a tuple, or it would become a part of this module
        if config.features:
            if features is None:
                raise ValueError("a discriminator of features needs the feature network")
            dims, last = features.tap_dims, len(features.tap_dims) - 1
            for depth, dim in enumerate(dims):
                self.depths.append(FeatureDiscriminator(dim, depth, last - depth, config.dim, config.pad_type))
            self.whole = WholeDiscriminator(sum(dims[1:]), 2 * config.dim)

    def forward(self, x_nchw: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> logits of each depth, of the whole, then of each scale."""
        logits = []
        if self.depths:
            (features,) = self._features
            assert features is not None
            taps = features.taps(x_nchw)
            logits = [depth(tap) for depth, tap in zip(self.depths, taps, strict=True)]
            logits.append(self.whole(taps[1:]))
        for i, scale in enumerate(self.scales):
            if i:
                x_nchw = F.avg_pool2d(x_nchw, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(scale(x_nchw))
        return logits
