"""Feature matching over many images: statistics of a feature network on real images, and the distance to them.

Salimans et al., "Improved Techniques for Training GANs", NIPS 2016.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.model.discriminator import Moments, Standardization, WholeImageDiscriminator
from dsmap.model.feature_networks import FeatureNetwork

_BANDS = 3  # sky, distance and ground usually lie above each other
_RUNNING_BATCHES = 10  # over which the change of a mean is averaged


class FeatureStatistics:
    """Features of images of a domain, standardised by their mean and deviation over real images.

    There are three groups of features, each (N, K): mean and deviation of the network's maps over all positions, their
    means over the upper, middle and lower third, and the network's summary of the image.
    """

    def __init__(self, features: FeatureNetwork, real: Iterable[tuple[Tensor, Tensor]]) -> None:
        """`real`: batches of images (n, 3, H, W) and their style codes (n, S)."""
        self._features = features
        with torch.no_grad():
            parts = [(*self._rows(x_nchw), style) for x_nchw, style in real]
        *groups, styles = (torch.cat(rows) for rows in zip(*parts, strict=True))
        self._standards = [_standardiser(rows_nc) for rows_nc in groups]
        self._style = _standardiser(styles)
        weights = self.weights(styles)
        self.of_real = [_moments(weights, of(rows)) for of, rows in zip(self._standards, groups, strict=True)]
        """By group, (1 + S, K): zeros in the first row, then the correlation with each number of the style code."""

    def weighted(self, x_nchw: Tensor, style: Tensor) -> Sequence[Tensor]:
        """The weights of the style codes, then the features by group; without gradients."""
        with torch.no_grad():
            return self.weights(style), *self(x_nchw)

    def __call__(self, x_nchw: Tensor) -> list[Tensor]:
        return [of(rows) for of, rows in zip(self._standards, self._rows(x_nchw), strict=True)]

    def weights(self, style: Tensor) -> Tensor:
        """1, and the standardised style code: (N, 1 + S)."""
        return torch.cat([torch.ones_like(style[:, :1]), self._style(style)], 1)

    def _rows(self, x_nchw: Tensor) -> tuple[Tensor, ...]:
        taps = self._features.taps(x_nchw)
        maps = [tap.log1p() for tap in taps]
        bands = torch.cat([F.adaptive_avg_pool2d(tap, (_BANDS, 1)).flatten(1) for tap in maps], 1)
        return WholeImageDiscriminator.pooled(maps), bands, self._features.summary(taps[-1])


class FeatureMatching:
    """The distance between the mean features of translations and of real images.

    The mean over one batch is noisy, and a running mean lags behind the decoders, which makes them oscillate. The
    difference between a batch and the same batch as translated before the training is neither: it is added to the mean
    before the training (a control variate).

    With `by_style` the correlation of features with the style code is compared too, so that the style of an image does
    to a translation what it goes with among real images.
    """

    def __init__(self, statistics: FeatureStatistics, before: Iterable[Sequence[Tensor]], *, by_style: bool) -> None:
        """`before`: what `statistics.weighted` gives for translations from before the training."""
        self._statistics, self._rows, self._batches = statistics, None if by_style else 1, 0
        weights, *groups = (torch.cat(rows) for rows in zip(*before, strict=True))
        means = [_moments(weights[:, : self._rows], rows_nc) for rows_nc in groups]
        self._before = [mean - real[: self._rows] for mean, real in zip(means, statistics.of_real, strict=True)]
        self._change = [torch.zeros_like(mean) for mean in self._before]

    def loss(self, y_nchw: Tensor, before_nchw: Tensor, style: Tensor) -> Tensor:
        """Twice the product of the running mean and this batch's: its gradient is that of the squared mean."""
        weights = self._statistics.weights(style)[:, : self._rows]
        with torch.no_grad():
            were = [_moments(weights, rows_nc) for rows_nc in self._statistics(before_nchw)]
        now = [_moments(weights, rows_nc) for rows_nc in self._statistics(y_nchw)]
        self._batches += 1
        share = 1 / min(self._batches, _RUNNING_BATCHES)
        self._change = [
            torch.lerp(change, (mean - was).detach(), share)
            for change, mean, was in zip(self._change, now, were, strict=True)
        ]
        products = zip(self._differences(), now, strict=True)
        return 2 * torch.stack([(of * mean).mean(1).sum() for of, mean in products]).sum()

    @property
    def distance(self) -> Tensor:
        """In squared standard deviations; of the means alone, without the style."""
        return torch.stack([difference[0].square().mean() for difference in self._differences()]).mean()

    def _differences(self) -> list[Tensor]:
        return [before + change for before, change in zip(self._before, self._change, strict=True)]


def _moments(weights_nw: Tensor, rows_nc: Tensor) -> Tensor:
    """Means over N of the products of every weight and every feature: (W, C)."""
    return weights_nw.t() @ rows_nc / len(rows_nc)


def _standardiser(rows_nc: Tensor) -> Standardization:
    seen = Moments()
    seen.add(rows_nc)
    standard = Standardization(rows_nc.shape[1]).to(rows_nc.device)
    standard.set(seen)
    return standard
