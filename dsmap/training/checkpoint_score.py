"""How good the translations of a checkpoint are, as one number by which the best checkpoint is kept.

The kernel distance (Binkowski et al., "Demystifying MMD GANs", ICLR 2018) between translations and real images of
the domain they were translated to. Its features are those of the contextual loss where there is one, else those of a
small network with fixed random weights. It ranks the checkpoints of one run: it is no published KID.
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

# The distance of too few images says little.
MIN_IMAGES = 4
_WIDTHS = (3, 32, 64, 128, 256)


class Score(NamedTuple):
    """Kernel distances times 1000 of the translations into each domain; lower is better."""

    features: str
    """Whose features they are of."""
    basis: str
    """A hash of the features' weights and the images: only scores of one basis can be compared."""
    by_domain: dict[str, float]

    @property
    def total(self) -> float:
        """Of both directions together."""
        return sum(self.by_domain.values())


class RandomFeatures(nn.Module):
    """Four stride-2 convolutions with random weights that are always the same.

    (N, 3, H, W) in [-1, 1] -> (N, 256, H/16, W/16). Even random convolutions tell colours and textures apart.
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

    `x` images (N, 3, H, W) in [-1, 1] by domain; each is translated in the style of an image of the other domain.
    `reference` are the features (M, C) of real images of each domain, see `pooled`: hundreds, for the distance is of
    features standardised by them. `name` says which features they are.
    """

    def __init__(self, x: ByDomain, reference: ByDomain, features: nn.Module, name: str) -> None:
        self.x, self.features, self.name = x, features, name
        self.reference = {domain: r.cpu() for domain, r in reference.items()}
        digest = hashlib.sha256()
        # What the features come from: the classifier is of no image's.
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
    """Features (N, C), on the CPU, of N images in batches (n, 3, H, W) in [-1, 1]: means over all positions."""
    return torch.cat([features(batch.to(device)).mean((2, 3)).cpu() for batch in batches])
