"""Scores of checkpoints, by which the best one of a run is kept.

The score is the kernel distance (Binkowski et al., "Demystifying MMD GANs", ICLR 2018) between translations and real
images of the target domain, on the features of the contextual loss if there is one, else on those of a small network
with fixed random weights. It ranks the checkpoints of one run and is not a published KID.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmap.metrics.distances import kernel_distance
from dsmap.model.dsmap import DSMAP
from dsmap.training.objective import ByDomain, Features

MIN_IMAGES = 4
"""Images of each domain for a score: the distance of fewer is meaningless."""
_WIDTHS = (3, 32, 64, 128, 256)


class Score(NamedTuple):
    """Kernel distances of the translations into each domain, times 1000; lower is better."""

    features: str
    """Name of the feature network."""
    basis: str
    """A hash of the feature network's weights and the images: only scores of the same basis are comparable."""
    by_domain: dict[str, float]

    @property
    def total(self) -> float:
        """Sum over both directions."""
        return sum(self.by_domain.values())


class RandomFeatures(nn.Module):
    """Four stride-2 convolutions with fixed random weights, which distinguish colours and textures.

    (N, 3, H, W) in [-1, 1] -> (N, 256, H/16, W/16).
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList()
        for i, o in pairwise(_WIDTHS):
            layer = nn.Conv2d(i, o, 4, stride=2, padding=1)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / (16 * i)) ** 0.5)
                layer.bias.zero_()  # type: ignore[union-attr]
            self.layers.append(layer)
        self.requires_grad_(False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        for layer in self.layers:
            x_nchw = F.relu(layer(x_nchw))
        return x_nchw


class CheckpointScorer:
    """Scores generators on the same images by the same features.

    `x` are images (N, 3, H, W) in [-1, 1] by domain; each is translated in the style of an image of the other domain.
    `reference` are features (M, C) of hundreds of real images of each domain, see `pooled`; features are standardised
    by them. `name` is that of the feature network.
    """

    def __init__(self, x: ByDomain, reference: ByDomain, features: nn.Module, name: str) -> None:
        self.x, self.features, self.name = x, features, name
        self.reference = {domain: r.cpu() for domain, r in reference.items()}
        digest = hashlib.sha256()
        # Only the weights behind the features, without the classifier.
        weights = (tensor for name, tensor in features.state_dict().items() if not name.startswith("classifier."))
        for tensor in (*weights, *x.values(), *self.reference.values()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.basis = digest.hexdigest()[:16]

    @torch.no_grad()
    def score(self, model: DSMAP) -> Score:
        """The score of `model`."""
        distances = {}
        for target in model.domains:
            found = pooled(self._translations(model, target), self.features, next(model.parameters()).device)
            distances[target] = 1000 * kernel_distance(found.numpy(), self.reference[target].numpy())
        return Score(self.name, self.basis, distances)

    def _translations(self, model: DSMAP, target: str) -> Iterator[Tensor]:
        device, source = next(model.parameters()).device, model.other(target)
        styles = self.x[target]
        for i, image in enumerate(self.x[source]):
            style = model.encode_style(styles[i % len(styles)][None].to(device), target)
            yield model.translate(image[None].to(device), source, target, style)


@torch.no_grad()
def pooled(batches: Iterable[Tensor], features: Features, device: torch.device) -> Tensor:
    """Features (N, C) on the CPU, as means over all positions, of N images in batches (n, 3, H, W) in [-1, 1]."""
    return torch.cat([features(batch.to(device)).mean((2, 3)).cpu() for batch in batches])
