"""The decoders of a finished training, a little further: without the grid, and closer to real images on average.

Encoders and mappings stay as they are, so contents and styles mean what they did. Three things are learnt:

- what the decoders gave before, less what repeats in step with the blocks of pixels that they give (`without_grid`): a
  faint grid that discriminators leave in dark and smooth places;
- that smooth places of an image stay smooth (`calmed`);
- feature matching (Salimans et al., NIPS 2016): the feature network shall see in translations, on average, what it sees
  in real images, in all of them and in their upper, middle and lower third; in the mean style and in styles of
  images, where it shall also depend on the style as it does in real images.

Without discriminators an iteration takes a fraction of one of the training.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.common.notify import Notify
from dsmap.model.discriminator import Moments, Standard, WholeDiscriminator
from dsmap.model.dsmap import DSMAP
from dsmap.model.feature_networks import FeatureNetwork
from dsmap.training.data import Batch
from dsmap.training.losses import l1
from dsmap.training.optim import check_trained, descend_along_cosine

_WINDOW = 9  # blocks a side over which a grid is taken to be the same
_DOUBT = 3.0  # a grid is one if it is so many times above what chance makes of the detail there, in variances
_STRONGER, _FAINT = 2.0, 0.004  # of detail; half a grey level may come from nothing
_SOFT, _NEAR = 1.5, 9  # pixels: sigma of the blur that leaves the detail, and side of the window
_BETAS = (0.5, 0.99)  # with more inertia decoders swing around the aim of the feature matching
_BANDS = 3  # above each other: sky, distance and ground are seldom where the others are
_FOLLOW = 10  # batches over which the change of a mean is taken
STANDARD_IMAGES = 600
"""Of each domain, that are looked at before the first iteration where there is a feature network."""


class Progress(NamedTuple):
    """What an iteration tells."""

    step: int
    kept: float
    """Mean difference to what the decoders gave before, without grid and specks, of values in [-1, 1]."""
    matching: float
    """How far what the feature network sees is from real images, in squared standard deviations; 0 without one."""


def without_grid(x_nchw: Tensor, period: int) -> Tensor:
    """Images (N, C, H, W) in [-1, 1], H and W multiples of `period`, less what repeats every `period` pixels there.

    Of what an image has beyond its blurred self, the mean over the blocks around at each of the places of a block of
    `period` x `period` pixels, less that at all places, is the grid, as far as it is more than what detail leaves in
    such a mean by chance.
    """
    detail = F.pixel_unshuffle(x_nchw - _blurred(x_nchw, 1.5 * period), period)
    mean = _around(detail)
    by_chance = (_around(detail.square()) - mean.square()).clamp(min=0) / _WINDOW**2
    places = mean.unflatten(1, (-1, period**2))
    grid = (places - places.mean(2, keepdim=True)).flatten(1, 2)
    share = (1 - _DOUBT * by_chance / (grid.square() + 1e-8)).clamp(min=0)
    return (x_nchw - F.pixel_shuffle(share * grid, period)).clamp(-1, 1)


def calmed(y_nchw: Tensor, source_nchw: Tensor) -> Tensor:
    """Translations (N, 3, H, W) in [-1, 1], smooth where the images `source_nchw` they are of are smooth.

    What a translation has beyond its blurred self is held to `_STRONGER` times what the image has around there, root
    mean square over `_NEAR` x `_NEAR` pixels and the colours: specks that a decoder strews over a clear sky go, what
    it draws on rock and grass stays.
    """

    def detail_of(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        detail = x_nchw - _blurred(x_nchw, _SOFT)
        return detail, _around(detail.square().mean(1, keepdim=True), _NEAR).sqrt()

    (detail, strength), (_, allowed) = detail_of(y_nchw), detail_of(source_nchw)
    share = ((_STRONGER * allowed + _FAINT) / (strength + 1e-8)).clamp(max=1)
    return y_nchw - (1 - share) * detail


def polish(
    model: DSMAP,
    batches: Callable[[int, int], Iterable[Batch]],
    mean_styles: Mapping[str, Iterable[float]],
    *,
    steps: int,
    targets: Sequence[str] | None = None,
    lr: float = 1e-4,
    features: FeatureNetwork | None = None,
    matching: float = 5.0,
    say: Notify = lambda _line: None,
) -> Iterator[Progress]:
    """Trains the decoders of `targets` (None: both domains) in place, on the model's device; a Progress an iteration.

    `batches(start, stop)` gives those of these numbers; `mean_styles` (S,) by domain. Without `features`, or with
    `matching` 0, there is no feature matching. The rate falls from `lr` to 0 along a cosine. `say` gets a line before
    each of the long looks at images that come first. Raises DsmapError when a loss is not finite.
    """
    targets = model.domains if targets is None else targets
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    model.requires_grad_(False)
    decoders = [model.decoders[model.slot(target)].requires_grad_(True) for target in targets]
    parameters = [parameter for decoder in decoders for parameter in decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr, betas=_BETAS)
    place = parameters[0].device
    means = {d: torch.tensor(list(style), dtype=torch.float32, device=place)[None] for d, style in mean_styles.items()}

    def images(batch: Batch, domain: str) -> Tensor:
        return (batch.x_a_nchw, batch.x_b_nchw)[model.domains.index(domain)].to(place)

    @torch.no_grad()
    def before(batch: Batch, target: str) -> dict[bool, _Drawn]:
        """What the decoders gave, in the mean style (False) and in styles of images (True)."""
        source = model.other(target)
        mapped = teacher.map(teacher.encode(images(batch, source), source), target)
        mean = means[target].expand(len(mapped), -1)
        styles = {False: mean, True: teacher.encode_style(images(batch, target), target)}
        return {kind: _Drawn(mapped, style, teacher.decode(mapped, style, target)) for kind, style in styles.items()}

    matchings: dict[tuple[str, bool], _Matching] = {}
    if features is not None and matching:
        for target in targets:
            say(f"what the feature network sees in {STANDARD_IMAGES} images of {target} ...")
            real = (images(batch, target) for batch in _for_standards(batches, steps))
            seen = _Seen(features, ((x_nchw, teacher.encode_style(x_nchw, target)) for x_nchw in real))
            say("... and in as many translations, in the mean style and in styles of images ...")
            found: dict[bool, list[Sequence[Tensor]]] = {False: [], True: []}
            for batch in _for_standards(batches, steps):
                for kind, drawn in before(batch, target).items():
                    found[kind].append(seen.weighted(drawn.image_nchw, drawn.style))
            for kind, parts in found.items():
                matchings[target, kind] = _Matching(seen, parts, by_style=kind)
    for batch in batches(0, steps):
        kept, apart, total = [], [], []
        for target in targets:
            source_nchw = images(batch, model.other(target))
            for kind, drawn in before(batch, target).items():
                found_nchw = model.decode(drawn.mapped_nchw, drawn.style, target)
                aim_nchw = calmed(without_grid(drawn.image_nchw, model.config.multiple_of), source_nchw)
                kept.append(l1(found_nchw, aim_nchw))
                total.append(kept[-1])
                now = matchings.get((target, kind))
                if now is not None:
                    total.append(matching * now.loss(found_nchw, drawn.image_nchw, drawn.style))
                    apart.append(now.apart)
        loss = torch.stack(total).sum()
        descend_along_cosine(optimizer, loss, lr, batch.step, steps)
        yield Progress(batch.step + 1, _mean(kept), _mean(apart))
    model.eval().requires_grad_(False)
    check_trained(model.decoders, lr, steps)


class _Drawn(NamedTuple):
    """A batch of translations by the decoders as they were."""

    mapped_nchw: Tensor
    style: Tensor
    image_nchw: Tensor


class _Seen:
    """What the feature network sees in images of a domain, in standard deviations from its mean over real images.

    Three groups, each (N, K): mean and spread of its maps over the positions, their means over the upper, the middle
    and the lower third, and its summary of the image.
    """

    def __init__(self, features: FeatureNetwork, real: Iterable[tuple[Tensor, Tensor]]) -> None:
        """`real`: images (n, 3, H, W) and their styles (n, S)."""
        self._features = features
        with torch.no_grad():
            parts = [(*self._rows(x_nchw), style) for x_nchw, style in real]
        *groups, styles = (torch.cat(rows) for rows in zip(*parts, strict=True))
        self._standards = [_standard(rows_nc) for rows_nc in groups]
        self._style = _standard(styles)
        weights = self.weights(styles)
        self.of_real = [_moments(weights, of(rows)) for of, rows in zip(self._standards, groups, strict=True)]
        """By group, (1 + S, K): 0 in the first row, then how what is seen goes with each number of the style."""

    def weighted(self, x_nchw: Tensor, style: Tensor) -> Sequence[Tensor]:
        """The weights of the styles, and what is seen by group."""
        with torch.no_grad():
            return self.weights(style), *self(x_nchw)

    def __call__(self, x_nchw: Tensor) -> list[Tensor]:
        return [of(rows) for of, rows in zip(self._standards, self._rows(x_nchw), strict=True)]

    def weights(self, style: Tensor) -> Tensor:
        """1, and the style in standard deviations of those of real images: (N, 1 + S)."""
        return torch.cat([torch.ones_like(style[:, :1]), self._style(style)], 1)

    def _rows(self, x_nchw: Tensor) -> tuple[Tensor, ...]:
        taps = self._features.taps(x_nchw)
        maps = [tap.log1p() for tap in taps]
        bands = torch.cat([F.adaptive_avg_pool2d(tap, (_BANDS, 1)).flatten(1) for tap in maps], 1)
        return WholeDiscriminator.pooled(maps), bands, self._features.summary(taps[-1])


class _Matching:
    """How far what is seen of translations is from real images on average.

    What is seen of a few translations jumps about, and a mean over many that the decoders gave one after the other lags
    behind them, which makes them swing around the aim. How far a batch is from what was drawn of it before does
    neither: that is added to the mean of what was drawn before (a control variate).

    `by_style`: also how what is seen goes with the style, so that the style of an image does to a translation
    what goes with it among real images.
    """

    def __init__(self, seen: _Seen, drawn: Iterable[Sequence[Tensor]], *, by_style: bool) -> None:
        """`drawn`: what `seen.weighted` gives of the translations by the decoders as they were."""
        self._seen, self._rows, self._batches = seen, None if by_style else 1, 0
        weights, *groups = (torch.cat(rows) for rows in zip(*drawn, strict=True))
        means = [_moments(weights[:, : self._rows], rows_nc) for rows_nc in groups]
        self._before = [mean - real[: self._rows] for mean, real in zip(means, seen.of_real, strict=True)]
        self._change = [torch.zeros_like(mean) for mean in self._before]

    def loss(self, found_nchw: Tensor, drawn_nchw: Tensor, style: Tensor) -> Tensor:
        """Twice the product of the mean and this batch: its gradient is that of the mean's square."""
        weights = self._seen.weights(style)[:, : self._rows]
        with torch.no_grad():
            were = [_moments(weights, rows_nc) for rows_nc in self._seen(drawn_nchw)]
        now = [_moments(weights, rows_nc) for rows_nc in self._seen(found_nchw)]
        self._batches += 1
        share = 1 / min(self._batches, _FOLLOW)
        self._change = [
            torch.lerp(change, (mean - was).detach(), share)
            for change, mean, was in zip(self._change, now, were, strict=True)
        ]
        return 2 * torch.stack([(of * mean).mean(1).sum() for of, mean in zip(self._apart(), now, strict=True)]).sum()

    @property
    def apart(self) -> Tensor:
        """In squared standard deviations, of the means alone."""
        return torch.stack([apart[0].square().mean() for apart in self._apart()]).mean()

    def _apart(self) -> list[Tensor]:
        return [before + change for before, change in zip(self._before, self._change, strict=True)]


def _moments(weights_nw: Tensor, rows_nc: Tensor) -> Tensor:
    """Means over N of the products of each weight and each number: (W, C)."""
    return weights_nw.t() @ rows_nc / len(rows_nc)


def _standard(rows_nc: Tensor) -> Standard:
    seen = Moments()
    seen.add(rows_nc)
    standard = Standard(rows_nc.shape[1]).to(rows_nc.device)
    standard.set(seen)
    return standard


def _for_standards(batches: Callable[[int, int], Iterable[Batch]], steps: int) -> Iterator[Batch]:
    """Batches of `STANDARD_IMAGES` images of each domain, from number `steps` on."""
    count = 0
    for batch in batches(steps, steps + STANDARD_IMAGES):
        yield batch
        count += len(batch.x_a_nchw)
        if count >= STANDARD_IMAGES:
            return


def _around(y_nchw: Tensor, window: int = _WINDOW) -> Tensor:
    """Means over windows of `window` positions a side."""
    return F.avg_pool2d(F.pad(y_nchw, (window // 2,) * 4, mode="replicate"), window, stride=1)


def _blurred(x_nchw: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, edges repeated."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=x_nchw.dtype, device=x_nchw.device)
    line = torch.exp(-offsets.square() / (2 * sigma**2))
    line = (line / line.sum()).expand(x_nchw.shape[1], 1, -1)
    y = F.pad(x_nchw, (reach,) * 4, mode="replicate")
    y = F.conv2d(y, line[:, :, :, None], groups=x_nchw.shape[1])
    return F.conv2d(y, line[:, :, None, :], groups=x_nchw.shape[1])


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).detach().mean()) if values else 0.0
