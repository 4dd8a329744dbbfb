"""Networks small enough to test with, and the formulas of the paper written out slowly, to check the fast ones."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dsmap.config import DiscriminatorConfig, ModelConfig
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP
from dsmap.model.two_domains import SLOTS


def model_config(**changed):
    return ModelConfig(**{"dim": 4, "n_res": 1, "mlp_dim": 8, "style_dim": 3} | changed)


def make_model(seed=0, **changed):
    """A tiny DSMAP whose every parameter is random and matters: biases are not left at 0."""
    model = DSMAP(model_config(**changed))
    scramble(model, seed)
    return model


def make_discriminators(seed=1, **changed):
    config = DiscriminatorConfig(**{"dim": 4} | changed)
    discriminators = nn.ModuleDict({slot: Discriminator(config) for slot in SLOTS})
    scramble(discriminators, seed)
    return discriminators


def scramble(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5)


def images(n=2, hw=(64, 64), seed=2, dtype=torch.float32):
    """One batch of smooth random images in [-1, 1] per slot."""
    generator = torch.Generator().manual_seed(seed)
    x = {}
    for slot in SLOTS:
        coarse = torch.rand(n, 3, hw[0] // 8, hw[1] // 8, generator=generator) * 2 - 1
        x[slot] = F.interpolate(coarse, size=hw, mode="bilinear", align_corners=False).to(dtype)
    return x


def styles(n=2, size=3, seed=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {slot: torch.randn(n, size, generator=generator).to(dtype) for slot in SLOTS}


def squeezenet_weights(seed=0, times=1):
    """The layers of SqueezeNet v1.0 in the published layout, but only a few channels wide, or `times` as wide."""
    generator = np.random.default_rng(seed)
    shapes = {"conv1": (6 * times, 3, 7, 7)}
    width = 6 * times
    for i in range(2, 10):
        shapes[f"fire{i}/squeeze1x1"] = (7 * times, width, 1, 1)
        shapes[f"fire{i}/expand1x1"] = (4 * times, 7 * times, 1, 1)
        shapes[f"fire{i}/expand3x3"] = (5 * times, 7 * times, 3, 3)
        width = 9 * times
    weights = {}
    for name, shape in shapes.items():
        scale = (2 / np.prod(shape[1:])) ** 0.5 / (100 if name == "conv1" else 1)
        weights[f"{name}.weight"] = (generator.standard_normal(shape) * scale).astype(np.float32)
        weights[f"{name}.bias"] = generator.standard_normal(shape[0]).astype(np.float32) * 0.1
    return weights


def slow_generator_terms(model, discriminators, x, random_style, *, features=None, contextual=None):
    """Every term of the generators' loss, one image path at a time; LSGAN. Named as `generator_terms` names them."""

    def encode(image, slot):
        h, skip = model.content_encoders[slot](image)
        return h, skip, model.shared_encoder(h)

    def mapped(c, skip, slot):
        return model.mappings[slot](c, skip) if model.config.mapping else c

    def decode(content, style, slot):
        return model.decoders[slot](content, model.style_mlps[slot](style))

    def mean_difference(one, two):
        return (one - two).abs().mean()

    def judged(fake, slot):
        return sum(((logits - 1) ** 2).mean() for logits in discriminators[slot](fake))

    terms, outputs = {}, {}
    for slot, other in (("a", "b"), ("b", "a")):
        # This image goes to the other domain and comes back.
        h, skip, c = encode(x[slot], slot)
        style = model.style_encoders[slot](x[slot])
        other_style = model.style_encoders[other](x[other])
        back = mapped(c, skip, slot)
        reconstruction = decode(back, style, slot)
        terms[f"image/{slot}"] = mean_difference(reconstruction, x[slot])
        if model.config.mapping:
            terms[f"domain_content/{slot}"] = mean_difference(h, back)
        across = mapped(c, skip, other)
        exemplar, random = decode(across, other_style, other), decode(across, random_style[other], other)
        _, exemplar_skip, exemplar_c = encode(exemplar, other)
        terms[f"shared_content/{slot}"] = mean_difference(exemplar_c, c)
        terms[f"shared_content_random/{slot}"] = mean_difference(encode(random, other)[2], c)
        terms[f"style_random/{other}"] = mean_difference(model.style_encoders[other](random), random_style[other])
        terms[f"adversarial/{other}"], terms[f"adversarial_random/{other}"] = (
            judged(exemplar, other),
            judged(random, other),
        )
        if features is not None:
            target = features(x[other])
            terms[f"contextual/{other}"] = contextual(features(exemplar), target)
            terms[f"contextual_random/{other}"] = contextual(features(random), target)
        # The style it comes back with is that of the other image's translation into this domain.
        _, skip_of_other, c_of_other = encode(x[other], other)
        into_this = decode(mapped(c_of_other, skip_of_other, slot), style, slot)
        returned = decode(mapped(exemplar_c, exemplar_skip, slot), model.style_encoders[slot](into_this), slot)
        terms[f"cycle/{slot}"] = mean_difference(returned, x[slot])
        outputs |= {
            f"pre_{slot}": skip,
            f"domain_{slot}": h,
            f"shared_{slot}": c,
            f"style_{slot}": style,
            f"{slot}_mapped_to_{slot}": back,
            f"{slot}_mapped_to_{other}": across,
            f"recon_{slot}": reconstruction,
            f"{slot}_to_{other}_exemplar": exemplar,
            f"{slot}_to_{other}_random": random,
        }
    return terms, outputs


def slow_discriminator_term(discriminator, real, *fakes):
    """LSGAN: no factors 1/2, a mean per scale, scales summed; the real images count once for each batch of fakes."""
    total = 0
    for fake in fakes:
        for judged_fake, judged_real in zip(discriminator(fake), discriminator(real), strict=True):
            total = total + (judged_fake**2).mean() + ((judged_real - 1) ** 2).mean()
    return total


def gradients(loss, module):
    module.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}
