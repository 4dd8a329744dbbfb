"""The multi-scale patch discriminator."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.config import DiscriminatorConfig
from dsmap.layers import conv
from dsmap.networks import LRELU_SLOPE


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


class Discriminator(nn.Module):
    """The same picture judged at several scales, each half the size of the one before."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(config) for _ in range(config.n_scales))

    def forward(self, x_nchw: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> one map of logits per scale."""
        logits = []
        for i, scale in enumerate(self.scales):
            if i:
                x_nchw = F.avg_pool2d(x_nchw, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(scale(x_nchw))
        return logits
