"""One iteration's losses and gradients, against the same written out slowly: a pass per image and direction."""

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    gradients,
    images,
    make_discriminators,
    make_model,
    slow_discriminator_term,
    slow_generator_terms,
    styles,
)
from torch import nn

from dsmap.config import LossWeights
from dsmap.training.losses import contextual_loss, kl_divergence
from dsmap.training.objective import (
    Shift,
    discriminator_terms,
    generator_terms,
    term_weight,
    translate_both,
    weighted_sum,
)

WEIGHTS = LossWeights(
    image=3, domain_content=5, shared_content=7, style=11, cycle=13, adversarial=17, contextual=19, kl=23
)
WEIGHT_OF = {
    "image": 3,
    "domain_content": 5,
    "shared_content": 7,
    "shared_content_random": 7,
    "style_random": 11,
    "cycle": 13,
    "adversarial": 17,
    "adversarial_random": 17,
    "contextual": 19,
    "contextual_random": 19,
}


def tiny(**changed):
    return make_model(**changed).double(), make_discriminators().double()


def slow_total(terms):
    return sum(value * WEIGHT_OF[name.partition("/")[0]] for name, value in terms.items())


def assert_same_numbers(ours, expected, **tolerances):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, **tolerances, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("pad", ["reflect", "zero"])
@pytest.mark.parametrize("mapping", [True, False])
def test_generators_against_separate_passes(mapping, pad):
    model, discriminators = tiny(mapping=mapping, pad_type=pad)
    x, random = images(dtype=torch.float64), styles(dtype=torch.float64)
    expected, outputs = slow_generator_terms(model, discriminators, x, random)
    expected_gradients = gradients(slow_total(expected), model)

    first = translate_both(model, x, random)
    terms = generator_terms(model, discriminators, "lsgan", x, first)
    total = weighted_sum(terms, WEIGHTS)
    assert_same_numbers(terms, expected, rtol=1e-9, atol=1e-12)
    assert any(name.startswith("domain_content/") for name in terms) == mapping
    torch.testing.assert_close(total, slow_total(expected))
    for slot, other in (("a", "b"), ("b", "a")):
        for ours, theirs in (
            (first.content[slot].skip, f"pre_{slot}"),
            (first.mapped_back[slot], f"{slot}_mapped_to_{slot}"),
            (first.mapped_across[slot], f"{other}_mapped_to_{slot}"),
            (first.exemplar[slot], f"{other}_to_{slot}_exemplar"),
            (first.random[slot], f"{other}_to_{slot}_random"),
            (first.reconstruction[slot], f"recon_{slot}"),
        ):
            torch.testing.assert_close(ours, outputs[theirs])

    ours = gradients(total, model)
    assert_same_numbers(ours, expected_gradients, rtol=1e-6, atol=1e-9)
    # A comparison of zeros would say nothing: all but biases before a norm get a gradient.
    assert all(g.abs().max() > 1e-6 for name, g in ours.items() if name.endswith("weight"))


def test_generators_with_a_feature_network():
    model, discriminators = tiny()
    torch.manual_seed(0)
    features = nn.Conv2d(3, 6, 5, stride=8).double().requires_grad_(False)
    x, random = images(dtype=torch.float64), styles(dtype=torch.float64)
    expected, _ = slow_generator_terms(model, discriminators, x, random, features=features, contextual=contextual_loss)
    expected_gradients = gradients(slow_total(expected), model)
    terms = generator_terms(model, discriminators, "lsgan", x, translate_both(model, x, random), features)
    assert {name for name in terms if name.startswith("contextual")} == {
        "contextual/a", "contextual/b", "contextual_random/a", "contextual_random/b"
    }  # fmt: skip
    assert_same_numbers(terms, expected, rtol=1e-4, atol=1e-6)
    ours = gradients(weighted_sum(terms, WEIGHTS), model)
    assert_same_numbers(ours, expected_gradients, rtol=1e-3, atol=1e-3)


def test_discriminators_against_separate_passes():
    model, discriminators = tiny()
    x, random = images(dtype=torch.float64), styles(dtype=torch.float64)
    other_random = styles(seed=8, dtype=torch.float64)
    _, outputs = slow_generator_terms(model, discriminators, x, random)
    _, other_outputs = slow_generator_terms(model, discriminators, x, other_random)
    expected = {
        slot: slow_discriminator_term(
            discriminators[slot],
            x[slot],
            outputs[f"{other}_to_{slot}_exemplar"].detach(),
            other_outputs[f"{other}_to_{slot}_random"].detach(),
        )
        for slot, other in (("a", "b"), ("b", "a"))
    }
    expected_gradients = gradients(sum(expected.values()), discriminators)
    first, second = translate_both(model, x, random), translate_both(model, x, other_random)
    terms = discriminator_terms(discriminators, "lsgan", x, first.exemplar, second.random)
    assert_same_numbers(terms, expected, rtol=1e-9, atol=1e-12)
    model.zero_grad()
    assert_same_numbers(gradients(sum(terms.values()), discriminators), expected_gradients, rtol=1e-6, atol=1e-9)
    assert all(p.grad is None for p in model.parameters())  # the fakes are detached


def test_discriminators_see_shifted_images():
    model, discriminators = tiny()
    x = images(hw=(72, 72), dtype=torch.float64)
    first = translate_both(model, x, styles(dtype=torch.float64))
    shift = Shift.of(top=3, left=5, size=65, device=torch.device("cpu"))
    shifted = {slot: x[slot][:, :, 3:68, 5:70] for slot in x}
    d_terms = discriminator_terms(discriminators, "lsgan", x, first.exemplar, first.random, shift=shift)
    terms = generator_terms(model, discriminators, "lsgan", x, first, shift=shift)
    plain = generator_terms(model, discriminators, "lsgan", x, first)
    for slot in ("a", "b"):
        fakes = [of[slot][:, :, 3:68, 5:70] for of in (first.exemplar, first.random)]
        expected = slow_discriminator_term(discriminators[slot], shifted[slot], *fakes)
        torch.testing.assert_close(d_terms[slot], expected, rtol=1e-9, atol=1e-12)
        for suffix, fake in zip(("", "_random"), fakes, strict=True):
            expected = sum(((logits - 1) ** 2).mean() for logits in discriminators[slot](fake))
            torch.testing.assert_close(terms[f"adversarial{suffix}/{slot}"], expected, rtol=1e-9, atol=1e-12)
            assert terms[f"adversarial{suffix}/{slot}"] != plain[f"adversarial{suffix}/{slot}"]
    others = [name for name in plain if not name.startswith("adversarial")]
    assert all(torch.equal(terms[name], plain[name]) for name in others)


@pytest.mark.parametrize("kind", ["nsgan", "ralsgan"])
def test_other_adversarial_losses(kind):
    model, discriminators = tiny()
    x = images(dtype=torch.float64)
    first = translate_both(model, x, styles(dtype=torch.float64))
    terms = generator_terms(model, discriminators, kind, x, first)
    d_terms = discriminator_terms(discriminators, kind, x, first.exemplar)
    for slot in ("a", "b"):
        real = discriminators[slot](x[slot])
        for suffix, fakes in (("", first.exemplar), ("_random", first.random)):
            fake = discriminators[slot](fakes[slot])
            if kind == "nsgan":
                expected = sum(-F.logsigmoid(f).mean() for f in fake)
            else:
                expected = sum(
                    ((r - f.mean() + 1) ** 2).mean() + ((f - r.mean() - 1) ** 2).mean()
                    for f, r in zip(fake, real, strict=True)
                )
            torch.testing.assert_close(terms[f"adversarial{suffix}/{slot}"], expected)
        fake = discriminators[slot](first.exemplar[slot])
        pairs = list(zip(fake, real, strict=True))
        if kind == "nsgan":
            expected = sum(-F.logsigmoid(-f).mean() - F.logsigmoid(r).mean() for f, r in pairs)
        else:
            expected = sum(((r - f.mean() - 1) ** 2).mean() + ((f - r.mean() + 1) ** 2).mean() for f, r in pairs)
        torch.testing.assert_close(d_terms[slot], expected)


def test_a_variational_style_is_sampled_and_weighed():
    model, discriminators = tiny(style_kl=True)
    x, random, noise = (
        images(dtype=torch.float64),
        styles(dtype=torch.float64),
        styles(seed=5, dtype=torch.float64),
    )
    first, plain = translate_both(model, x, random, noise), translate_both(model, x, random)
    for slot in ("a", "b"):
        mean, log_variance = model.style_encoders[slot].distribution(x[slot])
        torch.testing.assert_close(first.style[slot], mean + noise[slot] * torch.exp(log_variance).sqrt())
        torch.testing.assert_close(plain.style[slot], mean)
        # An image is rebuilt, and shown to the other, in the style that was drawn.
        torch.testing.assert_close(
            first.reconstruction[slot], model.decode(first.mapped_back[slot], first.style[slot], slot)
        )
        torch.testing.assert_close(first.kl[slot], kl_divergence(mean, log_variance))
    terms = generator_terms(model, discriminators, "lsgan", x, first)
    torch.testing.assert_close(terms["kl/b"], first.kl["b"])
    without = {name: value for name, value in terms.items() if not name.startswith("kl/")}
    kl = 23 * (terms["kl/a"] + terms["kl/b"])
    torch.testing.assert_close(weighted_sum(terms, WEIGHTS), weighted_sum(without, WEIGHTS) + kl)


def test_terms_go_by_the_names_of_the_domains():
    model, discriminators = tiny(domains=("summer", "winter"))
    by_slot, random = images(dtype=torch.float64), styles(dtype=torch.float64)
    expected, _ = slow_generator_terms(model, discriminators, by_slot, random)
    names = {"a": "summer", "b": "winter"}

    def renamed(tree):
        return {names[slot]: value for slot, value in tree.items()}

    x = renamed(by_slot)
    first = translate_both(model, x, renamed(random))
    terms = generator_terms(model, renamed(dict(discriminators.items())), "lsgan", x, first)
    by_name = {f"{name[:-1]}{names[name[-1]]}": value for name, value in expected.items()}
    assert_same_numbers(terms, by_name, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WEIGHT_OF)
def test_term_weight(name):
    assert term_weight(f"{name}/summer_random", WEIGHTS) == WEIGHT_OF[name]
