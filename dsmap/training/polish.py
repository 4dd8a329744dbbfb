"""Polishing: the decoders of a trained model learn to avoid artefacts and to match the features of real images.

Encoders and mappings are frozen, so contents and style codes keep their meaning. The decoders learn

- what they gave before, without grids (`remove_grid`): discriminators leave a faint one in dark and smooth areas;
- to stay smooth where the source image is smooth (`limit_detail`);
- feature matching: in the mean style and in styles of images, the features of translations match those of real images
  on average (`feature_matching`).

Without discriminators an iteration costs a fraction of one of adversarial training.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dsmap.common.notify import Notify
from dsmap.model.dsmap import DSMAP
from dsmap.model.feature_networks import FeatureNetwork
from dsmap.training.artefacts import limit_detail, remove_grid
from dsmap.training.data import Batch
from dsmap.training.feature_matching import FeatureMatching, FeatureStatistics
from dsmap.training.losses import l1
from dsmap.training.optim import check_trained, descend_along_cosine

_BETAS = (0.5, 0.99)  # with a larger beta1 decoders oscillate around the target of the feature matching
_TOLD_EVERY = 10.0  # seconds
STATISTICS_IMAGES = 600
"""Images of each domain for the statistics of the feature network, before the first iteration."""

Batches = Callable[[int, int], Iterable[Batch]]
"""`batches(start, stop)` gives the batches with these numbers."""


class PolishProgress(NamedTuple):
    """Losses of an iteration."""

    step: int
    kept: float
    """Mean absolute difference to the target images, whose values are in [-1, 1]."""
    matching: float
    """Distance to the features of real images, in squared standard deviations; 0 without a feature network."""


class TeacherImages(NamedTuple):
    """A batch of translations by the decoders as they were before."""

    mapped_nchw: Tensor
    style: Tensor
    image_nchw: Tensor


def polish(
    model: DSMAP,
    batches: Batches,
    mean_styles: Mapping[str, Iterable[float]],
    *,
    steps: int,
    targets: Sequence[str] | None = None,
    lr: float = 1e-4,
    features: FeatureNetwork | None = None,
    matching: float = 5.0,
    say: Notify = lambda _line: None,
) -> Iterator[PolishProgress]:
    """Trains the decoders of `targets` (None: both domains) in place, on the model's device.

    `mean_styles` (S,) are by domain. Without `features`, or with `matching` 0, there is no feature matching. The
    learning rate falls from `lr` to 0 along a cosine. `say` receives a line before each long step of the preparation.
    Raises DsmapError when a loss or a weight is not finite.
    """
    targets = model.domains if targets is None else targets
    teacher = _Teacher(model, mean_styles)
    model.requires_grad_(False)
    decoders = [model.decoders[model.slot(target)].requires_grad_(True) for target in targets]
    parameters = [parameter for decoder in decoders for parameter in decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr, betas=_BETAS)
    matchings: dict[tuple[str, bool], FeatureMatching] = {}
    if features is not None and matching:
        for target in targets:
            for of_image, found in _matchings(features, teacher, batches, steps, target, say).items():
                matchings[target, of_image] = found
    for batch in batches(0, steps):
        kept, distances, losses = [], [], []
        for target in targets:
            source_nchw = teacher.images(batch, model.other(target))
            for of_image, before in teacher.translate(batch, target).items():
                y_nchw = model.decode(before.mapped_nchw, before.style, target)
                aim_nchw = limit_detail(remove_grid(before.image_nchw, model.config.multiple_of), source_nchw)
                kept.append(l1(y_nchw, aim_nchw))
                losses.append(kept[-1])
                if (matcher := matchings.get((target, of_image))) is not None:
                    losses.append(matching * matcher.loss(y_nchw, before.image_nchw, before.style))
                    distances.append(matcher.distance)
        descend_along_cosine(optimizer, torch.stack(losses).sum(), lr, batch.step, steps)
        yield PolishProgress(batch.step + 1, _mean(kept), _mean(distances))
    model.eval().requires_grad_(False)
    check_trained(model.decoders, lr, steps)


class _Teacher:
    """A copy of the model as it is now, and its translations."""

    def __init__(self, model: DSMAP, mean_styles: Mapping[str, Iterable[float]]) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        self._means = {
            domain: torch.tensor(list(style), dtype=torch.float32, device=self.device)[None]
            for domain, style in mean_styles.items()
        }

    def images(self, batch: Batch, domain: str) -> Tensor:
        """The images (N, 3, H, W) of one domain."""
        return (batch.x_a_nchw, batch.x_b_nchw)[self.model.domains.index(domain)].to(self.device)

    @torch.no_grad()
    def translate(self, batch: Batch, target: str) -> dict[bool, TeacherImages]:
        """Translations to `target` in the mean style (False) and in the styles of images (True)."""
        model, source = self.model, self.model.other(target)
        mapped = model.map(model.encode(self.images(batch, source), source), target)
        mean = self._means[target].expand(len(mapped), -1)
        styles = {False: mean, True: model.encode_style(self.images(batch, target), target)}
        return {
            of_image: TeacherImages(mapped, style, model.decode(mapped, style, target))
            for of_image, style in styles.items()
        }


def _matchings(
    features: FeatureNetwork, teacher: _Teacher, batches: Batches, steps: int, target: str, say: Notify
) -> dict[bool, FeatureMatching]:
    """The feature matching for translations to `target` in the mean style (False) and in styles of images (True)."""
    say(f"what the feature network sees in {STATISTICS_IMAGES} images of {target} ...")
    real = (teacher.images(batch, target) for batch in _statistics_batches(batches, steps, say))
    statistics = FeatureStatistics(features, ((x_nchw, teacher.model.encode_style(x_nchw, target)) for x_nchw in real))
    say("... and in as many translations, in the mean style and in styles of images ...")
    before: dict[bool, list[Sequence[Tensor]]] = {False: [], True: []}
    for batch in _statistics_batches(batches, steps, say):
        for of_image, made in teacher.translate(batch, target).items():
            before[of_image].append(statistics.weighted(made.image_nchw, made.style))
    return {of_image: FeatureMatching(statistics, parts, by_style=of_image) for of_image, parts in before.items()}


def _statistics_batches(batches: Batches, start: int, say: Notify) -> Iterator[Batch]:
    """Batches of STATISTICS_IMAGES images of each domain, from number `start` on; says now and then how many."""
    count, told = 0, time.monotonic()
    for batch in batches(start, start + STATISTICS_IMAGES):
        yield batch
        count += len(batch.x_a_nchw)
        if count >= STATISTICS_IMAGES:
            return
        if time.monotonic() - told > _TOLD_EVERY:
            told = time.monotonic()
            say(f"  {count} of {STATISTICS_IMAGES} images ...")


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).detach().mean()) if values else 0.0
