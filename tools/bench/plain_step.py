"""The plain way to write one DSMAP iteration, which `dsmap-bench train` runs beside the trainer's.

It computes the losses and gradients of `dsmap.training.objective` in the order of the authors' released training: the
generators run forward once for each of the two steps, a pass for each image and direction. The discriminators'
step builds the generators' graph and encodes the translations again without use for them; the generators' step runs
the discriminators on real images and differentiates their weights. Upsampling is done before its 5x5 convolution.
One thing is left out that would make it slower still: their optimiser steps the content encoders twice.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsmap.model.dsmap import DSMAP, Content
from dsmap.model.layers import UpsampleConv
from dsmap.training.losses import contextual_loss, discriminator_loss, generator_adversarial_loss, l1, mode_seeking_loss
from dsmap.training.objective import ByDomain, Features


class _Forward(NamedTuple):
    """One forward pass of both generators, by domain of the source image."""

    content: dict[str, Content]
    style: ByDomain
    mapped_back: ByDomain
    exemplar: ByDomain
    random: ByDomain
    exemplar_content: dict[str, Content]
    random_content: dict[str, Content]
    exemplar_style: ByDomain
    random_style: ByDomain


def use_plain_upsampling(model: DSMAP) -> None:
    """From now on the decoders of `model` upsample first and convolve then."""
    for module in model.modules():
        if isinstance(module, UpsampleConv):
            module.plain = True


def plain_discriminator_terms(
    model: DSMAP, discriminators: Mapping[str, nn.Module], x: ByDomain, random_style: ByDomain
) -> ByDomain:
    """Each discriminator's loss (LSGAN), from a forward pass of the generators of its own."""
    first = _forward(model, x, random_style)
    terms = {}
    for domain, discriminator in discriminators.items():
        source = model.other(domain)
        terms[domain] = sum(
            (
                discriminator_loss("lsgan", discriminator(fake.detach()), discriminator(x[domain]))
                for fake in (first.exemplar[source], first.random[source])
            ),
            start=torch.zeros((), device=x[domain].device),
        )
    return terms


def plain_generator_terms(
    model: DSMAP,
    discriminators: Mapping[str, nn.Module],
    x: ByDomain,
    random_style: ByDomain,
    features: Features | None = None,
    mode_seeking: bool = False,
) -> dict[str, Tensor]:
    """Every term of the generators' loss (LSGAN), named as `generator_terms` names them."""
    first = _forward(model, x, random_style)
    terms = {}
    for domain in model.domains:
        other, content = model.other(domain), first.content[domain]
        terms[f"image/{domain}"] = l1(model.decode(first.mapped_back[domain], first.style[domain], domain), x[domain])
        if model.config.mapping:
            terms[f"domain_content/{domain}"] = l1(content.domain_specific, first.mapped_back[domain])
        terms[f"shared_content/{domain}"] = l1(first.exemplar_content[domain].shared, content.shared)
        terms[f"shared_content_random/{domain}"] = l1(first.random_content[domain].shared, content.shared)
        terms[f"style_random/{other}"] = l1(first.random_style[domain], random_style[other])
        mapped = model.map(first.exemplar_content[domain], domain)
        terms[f"cycle/{domain}"] = l1(model.decode(mapped, first.exemplar_style[other], domain), x[domain])
        if mode_seeking:
            styles = first.style[other], random_style[other]
            pair = first.exemplar[domain], first.random[domain]
            terms[f"mode_seeking/{other}"] = mode_seeking_loss(*pair, *styles)
        for suffix, fake in (("", first.exemplar[domain]), ("_random", first.random[domain])):
            logits, _unused = discriminators[other](fake), discriminators[other](x[other])
            terms[f"adversarial{suffix}/{other}"] = generator_adversarial_loss("lsgan", logits)
            if features is not None:
                terms[f"contextual{suffix}/{other}"] = contextual_loss(features(fake), features(x[other]))
    return terms


def _forward(model: DSMAP, x: ByDomain, random_style: ByDomain) -> _Forward:
    content = {domain: model.encode(x[domain], domain) for domain in model.domains}
    style = {domain: model.encode_style(x[domain], domain) for domain in model.domains}
    back, exemplar, random = {}, {}, {}
    exemplar_content, random_content, exemplar_style, random_code = {}, {}, {}, {}
    for domain in model.domains:
        other = model.other(domain)
        back[domain] = model.map(content[domain], domain)
        across = model.map(content[domain], other)
        exemplar[domain] = model.decode(across, style[other], other)
        random[domain] = model.decode(across, random_style[other], other)
        exemplar_content[domain] = model.encode(exemplar[domain], other)
        exemplar_style[domain] = model.encode_style(exemplar[domain], other)
        random_content[domain] = model.encode(random[domain], other)
        random_code[domain] = model.encode_style(random[domain], other)
    return _Forward(
        content, style, back, exemplar, random, exemplar_content, random_content, exemplar_style, random_code
    )
