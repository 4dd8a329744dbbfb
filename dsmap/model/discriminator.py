"""Discriminators on patches at several scales and on the maps of a feature network."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.common.distributed import mean_over_processes
from dsmap.config import DiscriminatorConfig
from dsmap.model.feature_networks import FeatureNetwork
from dsmap.model.layers import at_least_float32, conv
from dsmap.model.networks import LRELU_SLOPE

FEATURE_SLOPE = 0.2
_MIXED = 96  # channels after random mixing, of 128 to 512
_FAINT = 0.01  # smaller deviations count as noise
_FOLLOW = 0.03  # share of the latest iteration in the running mean of translations


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


class Standardization(nn.Module):
    """Values in standard deviations from their mean over real images: (N, C) or (N, C, H, W), shape preserved."""

    mean: Tensor
    spread: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))

    def set(self, seen: "Moments") -> None:
        """Use the mean and standard deviation of `seen` from now on."""
        self.mean.copy_(seen.mean)
        self.spread.copy_(seen.spread + _FAINT)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, 1, 1) if x.dim() == 4 else (-1,)
        return (x - self.mean.view(shape)) / self.spread.view(shape)


class Moments:
    """Mean and standard deviation of rows added in batches."""

    def __init__(self) -> None:
        self._count: int = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, rows_nc: Tensor) -> None:
        self._count += len(rows_nc)
        self._sum = self._sum + rows_nc.sum(0, dtype=torch.float64)
        self._squares = self._squares + rows_nc.square().sum(0, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self._sum / self._count)

    @property
    def spread(self) -> Tensor:
        return (self._squares / self._count - self.mean.square()).clamp(min=0).sqrt()


def log_taps(features: FeatureNetwork, x_nchw: Tensor) -> list[Tensor]:
    """The maps of `features` as log(1 + x): activations are sparse and reach the hundreds."""
    return [tap.log1p() for tap in features.taps(x_nchw)]


class FeatureDiscriminator(nn.Module):
    """Judges maps of a frozen feature network at one depth (Sauer et al., "Projected GANs", NeurIPS 2021).

    What the network learned on ImageNet need not be learned again from two small folders: snow, rock and trees are
    distinguished from the first step. The map is one of `log_taps`. Fixed random weights mix its channels, so that no
    few of them decide alone.
    """

    mixing: Tensor

    def __init__(self, in_dim: int, depth: int, halvings: int, dim: int, pad_type: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(depth)  # the same on every machine, so checkpoints do not store it
        mixing = torch.randn(_MIXED, in_dim, 1, 1, generator=generator) / in_dim**0.5
        self.register_buffer("mixing", mixing, persistent=False)
        self.standard = Standardization(in_dim)
        self.layers = nn.ModuleList([conv(_MIXED, dim, 3, padding=1, pad_type=pad_type)])
        self.layers.extend(conv(dim, dim, 4, stride=2, padding=1, pad_type=pad_type) for _ in range(halvings))
        self.head = nn.Conv2d(dim, 1, 1)

    def forward(self, tap_nchw: Tensor) -> Tensor:
        """(N, C, h, w) -> logits (N, 1, h / 2**halvings, w / 2**halvings)."""
        y = F.conv2d(self.standard(tap_nchw), self.mixing)
        for layer in self.layers:
            y = F.leaky_relu(layer(y), FEATURE_SLOPE)
        return self.head(y)


class WholeImageDiscriminator(nn.Module):
    """Judges the whole image by the mean and standard deviation of every channel of the feature network.

    Domains such as seasons differ in what images show, not in every patch: where the patch heads distinguished 0.76 of
    the pairs of translation and photograph (winter landscapes, 600 batches of 2), this one distinguished 0.89; without
    deviations and standardization, 0.80.
    """

    running: Tensor
    """Running mean of the translations' statistics, (2 * in_dim,); 0 is the mean of real images."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(2 * in_dim))
        self.standard = Standardization(2 * in_dim)
        self.layer = nn.Conv2d(2 * in_dim, dim, 1)
        self.head = nn.Conv2d(dim, 1, 1)

    def forward(self, taps_nchw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (N, C, h, w) at several depths, `in_dim` channels in total -> logits (N, 1, 1, 1), and the statistics
        that they judge, (N, 2 * in_dim).
        """
        seen_nc = self.standard(self.pooled(taps_nchw))
        return self.head(F.leaky_relu(self.layer(seen_nc[:, :, None, None]), FEATURE_SLOPE)), seen_nc

    def matching_loss(self, seen_nc: Tensor) -> Tensor:
        """Distance of translations from real images on average: the mean square of `running`, which this updates.

        The gradient is that of a mean over many images, of which `seen_nc` is the latest batch. A batch alone would be
        drawn to the mean, where no image needs to be (feature matching: Salimans et al., NIPS 2016).
        """
        mean_c = mean_over_processes(seen_nc.mean(0))
        now_c = mean_c.detach()
        self.running.lerp_(now_c, _FOLLOW)
        running_c = self.running.clone()
        return running_c.square().mean() + 2 * (running_c * (mean_c - now_c)).mean()

    @staticmethod
    def pooled(taps_nchw: Sequence[Tensor]) -> Tensor:
        """(N, 2 * in_dim): mean and standard deviation over the positions."""
        # The summand: the deviation of a constant channel has no derivative.
        taps = [at_least_float32(tap) for tap in taps_nchw]
        rows = [(tap.mean((2, 3)), (tap.var((2, 3), correction=0) + _FAINT**2).sqrt()) for tap in taps]
        return torch.cat([part for row in rows for part in row], 1)


class Discriminator(nn.Module):
    """Judges an image at several scales, each half the size of the one before.

    With `config.features` also at several depths of the network `features`, and as a whole. `features` is then
    required. It is not a submodule: its weights and device are managed elsewhere.
    """

    def __init__(self, config: DiscriminatorConfig, features: FeatureNetwork | None = None) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(config) for _ in range(config.n_scales))
        self.depths = nn.ModuleList()
        self._features = (features,)  # in a tuple, so that it does not become a submodule
        if config.features:
            if features is None:
                raise ValueError("a discriminator of features needs the feature network")
            dims, last = features.tap_dims, len(features.tap_dims) - 1
            for depth, dim in enumerate(dims):
                self.depths.append(FeatureDiscriminator(dim, depth, last - depth, config.dim, config.pad_type))
            self.whole = WholeImageDiscriminator(sum(dims), 2 * config.dim)

    def forward(self, x_nchw: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> logits of each depth, of the whole image, then of each scale."""
        return self.judge(x_nchw)[0]

    def judge(self, x_nchw: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The logits, and the whole image's statistics for `whole.matching_loss` (None without features)."""
        logits: list[Tensor] = []
        seen_nc: Tensor | None = None
        if self.depths:
            taps = self._taps(x_nchw)
            logits = [depth(tap) for depth, tap in zip(self.depths, taps, strict=True)]
            whole, seen_nc = self.whole(taps)
            logits.append(whole)
        for i, scale in enumerate(self.scales):
            if i:
                x_nchw = F.avg_pool2d(x_nchw, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(scale(x_nchw))
        return logits, seen_nc

    @torch.no_grad()
    def fit_feature_statistics(self, batches: Iterable[Tensor]) -> None:
        """Standardise features by their mean and deviation over real images, in batches (n, 3, H, W)."""
        if not self.depths:
            return
        sums = [Moments() for _ in (*self.depths, self.whole)]
        for x_nchw in batches:
            taps = self._taps(x_nchw)
            rows = [tap.transpose(0, 1).flatten(1).t() for tap in taps]
            for moments, rows_nc in zip(sums, [*rows, self.whole.pooled(taps)], strict=True):
                moments.add(rows_nc)
        for part, moments in zip((*self.depths, self.whole), sums, strict=True):
            assert isinstance(part, FeatureDiscriminator | WholeImageDiscriminator)
            part.standard.set(moments)

    def _taps(self, x_nchw: Tensor) -> list[Tensor]:
        (features,) = self._features
        assert features is not None
        return log_taps(features, x_nchw)
