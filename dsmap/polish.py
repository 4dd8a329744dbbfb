"""The decoders of a finished training, a little further: without the grid, and closer to real pictures on average.

Encoders and mappings stay as they are, so contents and styles mean what they did. Two things are learnt:

- what the decoders gave before, less what repeats in step with the blocks of pixels that they give (`without_grid`): a
  faint grid that discriminators leave in dark and smooth places;
- feature matching (Salimans et al., NIPS 2016): the feature network shall see in translations, on average, what it sees
  in real pictures; in the mean style and in styles of pictures.

Without discriminators an iteration takes a tenth of one of the training.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmap.data import Batch
from dsmap.discriminator import Moments, Standard, WholeDiscriminator, log_taps
from dsmap.errors import DsmapError
from dsmap.features import FeatureNetwork
from dsmap.losses import l1
from dsmap.model import DSMAP, is_finite
from dsmap.optim import cosine, descend

_WINDOW = 9  # blocks a side over which a grid is taken to be the same
_DOUBT = 3.0  # a grid is one if it is so many times above what chance makes of the detail there, in variances
_FOLLOW = 40  # batches over which means are taken
_STANDARD_BATCHES = 100


class Progress(NamedTuple):
    """What an iteration tells."""

    step: int
    kept: float
    """Mean difference to what the decoders gave before, without its grid, of values in [-1, 1]."""
    matching: float
    """How far what the feature network sees is from real pictures, in squared standard deviations; 0 without one."""


def without_grid(x_nchw: Tensor, period: int) -> Tensor:
    """Pictures (N, C, H, W) in [-1, 1], H and W multiples of `period`, less what repeats every `period` pixels there.

    Of what a picture has beyond its blurred self, the mean over the blocks around at each of the places of a block of
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


def polish(
    model: DSMAP,
    batches: Callable[[int, int], Iterable[Batch]],
    mean_styles: Mapping[str, Iterable[float]],
    *,
    steps: int,
    lr: float = 3e-4,
    features: FeatureNetwork | None = None,
    matching: float = 0.5,
) -> Iterator[Progress]:
    """Trains the decoders of `model` in place, on its device; a Progress after each iteration.

    `batches(start, stop)` gives those of these numbers; `mean_styles` (S,) by domain. Without `features`, or with
    `matching` 0, nothing but the grid is learnt. The rate falls from `lr` to 0 along a cosine. Raises DsmapError when
    a loss is not finite.
    """
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    model.requires_grad_(False)
    parameters = list(model.decoders.requires_grad_(True).parameters())
    optimizer = torch.optim.Adam(parameters, lr)
    place = parameters[0].device
    means = {d: torch.tensor(list(style), dtype=torch.float32, device=place)[None] for d, style in mean_styles.items()}
    watched = features if matching else None
    matchings = {} if watched is None else _matchings(model, watched, batches(steps, steps + _STANDARD_BATCHES), place)
    for batch in batches(0, steps):
        step = batch.step
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine(step, steps)
        x = dict(zip(model.domains, (batch.x_a_nchw.to(place), batch.x_b_nchw.to(place)), strict=True))
        kept, apart, total = [], [], []
        for target in model.domains:
            of_pictures = step % 2 == 1
            with torch.no_grad():
                source = model.other(target)
                mapped = teacher.map(teacher.encode(x[source], source), target)
                mean = means[target].expand(len(mapped), -1)
                style = teacher.encode_style(x[target], target) if of_pictures else mean
                expected = without_grid(teacher.decode(mapped, style, target), model.config.multiple_of)
            found = model.decode(mapped, style, target)
            kept.append(l1(found, expected))
            total.append(kept[-1])
            if watched is not None:
                now = matchings[target, of_pictures]
                total.append(matching * now.loss(_seen(watched, found)))
                apart.append(now.apart)
        loss = torch.stack(total).sum()
        if not bool(loss.isfinite()):
            raise DsmapError(f"the loss is not finite at step {step + 1}", f"Try --lr {lr / 3:.1g}.")
        descend(optimizer, loss, clip_norm=None)
        yield Progress(step + 1, _mean(kept), _mean(apart))
    model.eval().requires_grad_(False)
    if not is_finite(model.decoders):
        raise DsmapError(f"the weights are not finite after step {steps}", f"Try --lr {lr / 3:.1g}.")


class _Matching:
    """How far what is seen of translations, `running` over the last batches, is from real pictures."""

    def __init__(self, standard: Standard) -> None:
        self.standard, self.batches = standard, 0
        self.running = torch.zeros_like(standard.mean)

    def loss(self, seen_nc: Tensor) -> Tensor:
        """Twice the product of the mean and this batch: its gradient is that of the mean's square."""
        mean_c = self.standard(seen_nc).mean(0)
        self.batches += 1
        self.running = torch.lerp(self.running, mean_c.detach(), 1 / min(self.batches, _FOLLOW))
        return 2 * (self.running * mean_c).mean()

    @property
    def apart(self) -> Tensor:
        return self.running.square().mean()


def _matchings(
    model: DSMAP, features: FeatureNetwork, batches: Iterable[Batch], place: torch.device
) -> dict[tuple[str, bool], _Matching]:
    """By domain and by whether styles are those of pictures."""
    moments = {domain: Moments() for domain in model.domains}
    with torch.no_grad():
        for batch in batches:
            for domain, x_nchw in zip(model.domains, (batch.x_a_nchw, batch.x_b_nchw), strict=True):
                moments[domain].add(_seen(features, x_nchw.to(place)))
    found: dict[tuple[str, bool], _Matching] = {}
    for domain, seen in moments.items():
        standard = Standard(len(seen.mean)).to(place)
        standard.set(seen)
        found |= {(domain, of_pictures): _Matching(standard) for of_pictures in (False, True)}
    return found


def _seen(features: FeatureNetwork, x_nchw: Tensor) -> Tensor:
    return WholeDiscriminator.pooled(log_taps(features, x_nchw))


def _around(y_nchw: Tensor) -> Tensor:
    """Means over windows of `_WINDOW` positions."""
    return F.avg_pool2d(F.pad(y_nchw, (_WINDOW // 2,) * 4, mode="replicate"), _WINDOW, stride=1)


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
