"""The objective of one iteration: translations in both directions and every term of both losses.

Discriminators and generators are trained on the same translations (only the random style may differ), so that the
generators run forward once per iteration. The gradients equal those of the authors' two separate passes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsmap.config import GanType, LossWeights
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP, Content
from dsmap.model.layers import at_least_float32
from dsmap.model.networks import KLStyleEncoder
from dsmap.training.appearance import Appearance, appearance_loss
from dsmap.training.losses import (
    Logits,
    contextual_loss,
    discriminator_loss,
    generator_adversarial_loss,
    kl_divergence,
    l1,
    mode_seeking_loss,
)

Features = Callable[[Tensor], Tensor]
"""A feature network: images (N, 3, H, W) in [-1, 1] -> features (N, C, h, w)."""

ByDomain = dict[str, Tensor]
"""One tensor per domain name. Translations are stored under their target domain."""


class Shift(NamedTuple):
    """Rows and columns of each image that the discriminators see, as indices on the device of the images.

    Their number is constant (compiled networks and cuDNN prepare for every new size), and they are tensors, so that one
    captured iteration serves all shifts.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, top: int, left: int, size: int, device: torch.device) -> "Shift":
        """`size` rows from `top`, and as many columns from `left`."""
        return cls(*(torch.arange(first, first + size, device=device) for first in (top, left)))


class Translations(NamedTuple):
    """Results of the first half of an iteration."""

    content: dict[str, Content]
    """E(x), by the domain of x."""
    mapped_back: ByDomain
    """Phi of an image's own domain, applied to its shared content."""
    mapped_across: ByDomain
    """Phi of the other domain, applied to an image's shared content, by the domain it was mapped TO."""
    style: ByDomain
    """S(x), (N, S)."""
    kl: ByDomain
    """KL divergence of the style codes; empty without a KL style encoder."""
    random_style: ByDomain
    """The random style codes of the random-style translations, (N, S)."""
    reconstruction: ByDomain
    exemplar: ByDomain
    """Translations into the domain in the style of its batch image."""
    random: ByDomain
    """Translations into the domain in a random style."""


def translate_both(model: DSMAP, x: ByDomain, random_style: ByDomain, noise: ByDomain | None = None) -> Translations:
    """Reconstructions, and translations in both directions in exemplar and random styles.

    `x` images (N, 3, H, W) in [-1, 1], `random_style` codes (N, S), `noise` (N, S) for a KL encoder's sampling.
    """
    content, style, kl = {}, {}, {}
    for domain in model.domains:
        content[domain] = model.encode(x[domain], domain)
        encoder = model.style_encoders[model.slot(domain)]
        if isinstance(encoder, KLStyleEncoder):
            mean, log_variance = encoder.distribution(x[domain])
            kl[domain] = kl_divergence(mean, log_variance)
            style[domain] = mean if noise is None else mean + noise[domain] * (0.5 * log_variance).exp()
        else:
            style[domain] = model.encode_style(x[domain], domain)

    back, across, reconstruction, exemplar, random = {}, {}, {}, {}, {}
    for domain in model.domains:
        both = Content(*(torch.cat(pair) for pair in zip(content[domain], content[model.other(domain)], strict=True)))
        back[domain], across[domain] = model.map(both, domain).chunk(2)
        mapped = torch.cat([back[domain], across[domain], across[domain]])
        styles = torch.cat([style[domain], style[domain], random_style[domain]])
        reconstruction[domain], exemplar[domain], random[domain] = model.decode(mapped, styles, domain).chunk(3)
    return Translations(content, back, across, style, kl, random_style, reconstruction, exemplar, random)


def discriminator_terms(
    discriminators: Mapping[str, nn.Module], kind: GanType, x: ByDomain, *fakes: ByDomain, shift: Shift | None = None
) -> ByDomain:
    """Each discriminator's loss, summed over the batches of fakes (detached here); `discriminators` by domain name."""
    terms = {}
    for domain, discriminator in discriminators.items():
        real, *judged = _judge(discriminator, shift, x[domain], *(fake[domain].detach() for fake in fakes))
        terms[domain] = torch.stack([discriminator_loss(kind, fake, real) for fake in judged]).sum()
    return terms


def generator_terms(
    model: DSMAP,
    discriminators: Mapping[str, nn.Module],
    kind: GanType,
    x: ByDomain,
    first: Translations,
    features: Features | None = None,
    mode_seeking: bool = False,
    shift: Shift | None = None,
    appearances: Mapping[str, Appearance] | None = None,
    feature_matching: bool = False,
) -> dict[str, Tensor]:
    """Every unweighted term of the generators' loss, named TERM/DOMAIN.

    TERM is a field of LossWeights, with the suffix _random for random-style translations. Content terms are named by
    the domain the content came from, all others by the domain of the images they judge. Optional terms: `contextual`
    with `features`, `kl` with a KL style encoder, `domain_content` with a mapping, `mode_seeking` (exemplar against
    random style) and `feature_matching` (updates running means in the discriminators) if requested, `appearance` with
    `appearances` of both domains.
    """
    terms: dict[str, Tensor] = {}
    # Second half: translations are encoded again, as images of their target domain.
    content, style, random_style = {}, {}, {}
    for domain in model.domains:
        translated = torch.cat([first.exemplar[domain], first.random[domain]])
        content[domain] = model.encode(translated, domain)
        style[domain], random_style[domain] = model.encode_style(translated, domain).chunk(2)

    for domain in model.domains:
        other = model.other(domain)
        terms[f"image/{domain}"] = l1(first.reconstruction[domain], x[domain])
        if model.config.mapping:
            terms[f"domain_content/{domain}"] = l1(first.content[domain].domain_specific, first.mapped_back[domain])
        # An image of `domain` was translated to `other`; its content is in what was encoded there.
        shared, shared_random = content[other].shared.chunk(2)
        terms[f"shared_content/{domain}"] = l1(shared, first.content[domain].shared)
        terms[f"shared_content_random/{domain}"] = l1(shared_random, first.content[domain].shared)
        terms[f"style_random/{domain}"] = l1(random_style[domain], first.random_style[domain])
        returned = Content(*(part.chunk(2)[0] for part in content[other]))
        cycle = model.decode(model.map(returned, domain), style[domain], domain)
        terms[f"cycle/{domain}"] = l1(cycle, x[domain])
        if domain in first.kl:
            terms[f"kl/{domain}"] = first.kl[domain]
        if mode_seeking:
            styles = first.style[domain], first.random_style[domain]
            terms[f"mode_seeking/{domain}"] = mode_seeking_loss(first.exemplar[domain], first.random[domain], *styles)
        terms |= _adversarial(discriminators[domain], kind, domain, x[domain], first, shift, feature_matching)
        if appearances is not None:
            translated = torch.cat([first.exemplar[domain], first.random[domain]])
            terms[f"appearance/{domain}"] = appearance_loss(
                translated, x[other], appearances[domain], appearances[other]
            )
        if features is not None:
            terms |= _contextual(features, domain, x[domain], first)
    return terms


def weighted_sum(terms: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """The generators' loss: the sum of all terms times their weights."""
    return torch.stack([term * term_weight(name, weights) for name, term in terms.items()]).sum()


def term_weight(name: str, weights: LossWeights) -> float:
    """The weight of the term TERM/DOMAIN or TERM_random/DOMAIN."""
    return float(getattr(weights, name.partition("/")[0].removesuffix("_random")))


def _adversarial(
    discriminator: nn.Module,
    kind: GanType,
    domain: str,
    x_nchw: Tensor,
    first: Translations,
    shift: Shift | None,
    feature_matching: bool,
) -> dict[str, Tensor]:
    """Adversarial and feature-matching terms of the translations into `domain`; the discriminator is frozen."""
    # Only ralsgan needs real images here.
    images = first.exemplar[domain], first.random[domain], *([x_nchw] if kind == "ralsgan" else [])
    matching = {}
    if feature_matching:
        assert isinstance(discriminator, Discriminator)
        together, seen_nc = discriminator.judge(_seen(shift, *images))
        assert seen_nc is not None
        judged = _apart(together, len(images))
        translated_nc = torch.cat(seen_nc.chunk(len(images))[:2])
        matching[f"feature_matching/{domain}"] = discriminator.whole.matching_loss(translated_nc)
    else:
        judged = _judge(discriminator, shift, *images)
    exemplar, random, *real = judged
    return matching | {
        f"adversarial{suffix}/{domain}": generator_adversarial_loss(kind, logits, *real)
        for suffix, logits in (("", exemplar), ("_random", random))
    }


def _contextual(features: Features, domain: str, x_nchw: Tensor, first: Translations) -> dict[str, Tensor]:
    """Contextual terms of the translations into `domain`, against a real image of it."""
    fakes = first.exemplar[domain], first.random[domain]
    with torch.autocast(x_nchw.device.type, enabled=False):  # feature distances need full precision
        with torch.no_grad():
            target = features(x_nchw)
        seen = features(at_least_float32(torch.cat(fakes))).chunk(2)
    return {
        f"contextual{suffix}/{domain}": contextual_loss(of_fake, target)
        for suffix, of_fake in zip(("", "_random"), seen, strict=True)
    }


def _judge(discriminator: nn.Module, shift: Shift | None, *images_nchw: Tensor) -> list[Logits]:
    """The logits of several batches of equal size, in one pass."""
    return _apart(discriminator(_seen(shift, *images_nchw)), len(images_nchw))


def _seen(shift: Shift | None, *images_nchw: Tensor) -> Tensor:
    """Several batches as the discriminators see them, in their memory layout."""
    together = torch.cat(images_nchw)
    if shift is None:
        return together
    channels_last = together.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return together.index_select(2, shift.rows).index_select(3, shift.columns).contiguous(memory_format=layout)


def _apart(together: Sequence[Tensor], batches: int) -> list[Logits]:
    """The logits of each batch."""
    scales = [logits.chunk(batches) for logits in together]
    return [list(batch) for batch in zip(*scales, strict=True)]
