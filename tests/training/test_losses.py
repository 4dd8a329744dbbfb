"""Loss functions and feature networks against numbers worked out by hand or by slow loops."""

import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import squeezenet_weights

from dsmap.errors import InputError
from dsmap.model.feature_networks import load_features
from dsmap.training.losses import (
    contextual_loss,
    discriminator_loss,
    generator_adversarial_loss,
    kl_divergence,
    l1,
    mode_seeking_loss,
)

# Two scales, as a discriminator gives them.
FAKE = [torch.tensor([0.5, -1.0]).view(1, 1, 1, 2), torch.tensor([2.0]).view(1, 1, 1, 1)]
REAL = [torch.tensor([1.5, 0.0]).view(1, 1, 1, 2), torch.tensor([-1.0]).view(1, 1, 1, 1)]


def log1pexp(value):
    return math.log(1 + math.exp(value))


def test_l1():
    assert l1(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.0, 2.0, 2.0])).item() == pytest.approx((1 + 4 + 1) / 3)


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        (
            "lsgan",
            (0.25 + 1) / 2 + (0.25 + 1) / 2 + 4 + 4,
            (0.25 + 4) / 2 + 1,
        ),
        (
            "nsgan",
            (log1pexp(0.5) + log1pexp(-1)) / 2 + (log1pexp(-1.5) + log1pexp(0)) / 2 + log1pexp(2) + log1pexp(1),
            (log1pexp(-0.5) + log1pexp(1)) / 2 + log1pexp(-2),
        ),
        (
            # Means: fake -0.25 and 2, real 0.75 and -1.
            "ralsgan",
            ((1.5 + 0.25 - 1) ** 2 + (0 + 0.25 - 1) ** 2) / 2
            + ((0.5 - 0.75 + 1) ** 2 + (-1 - 0.75 + 1) ** 2) / 2
            + (-1 - 2 - 1) ** 2
            + (2 + 1 + 1) ** 2,
            ((1.5 + 0.25 + 1) ** 2 + (0 + 0.25 + 1) ** 2) / 2
            + ((0.5 - 0.75 - 1) ** 2 + (-1 - 0.75 - 1) ** 2) / 2
            + (-1 - 2 + 1) ** 2
            + (2 + 1 - 1) ** 2,
        ),
    ],
)
def test_adversarial_losses(kind, discriminator, generator):
    assert discriminator_loss(kind, FAKE, REAL).item() == pytest.approx(discriminator)
    assert generator_adversarial_loss(kind, FAKE, REAL).item() == pytest.approx(generator)
    if kind != "ralsgan":  # reals make no difference to the others
        assert generator_adversarial_loss(kind, FAKE).item() == pytest.approx(generator)


def test_a_relativistic_generator_needs_the_reals():
    with pytest.raises(ValueError, match="needs the logits of real images"):
        generator_adversarial_loss("ralsgan", FAKE)


def test_as_many_scales_of_fakes_as_of_reals():
    with pytest.raises(ValueError, match="shorter"):
        discriminator_loss("lsgan", FAKE, REAL[:1])


def test_nsgan_stays_finite_for_sure_discriminators():
    fake, real = [torch.full((1, 1, 2, 2), 500.0)], [torch.full((1, 1, 2, 2), -500.0)]
    assert discriminator_loss("nsgan", fake, real).item() == pytest.approx(1000)
    assert generator_adversarial_loss("nsgan", [-fake[0]]).item() == pytest.approx(500)


def test_mode_seeking_loss():
    x, y = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    style_x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = mode_seeking_loss(x.requires_grad_(), y, style_x, torch.zeros(1, 2))
    assert loss.item() == pytest.approx(1 / (0.5 / 1 + 1e-5))
    loss.backward()
    assert style_x.grad is None  # or the style encoder would learn to call different images alike
    assert (x.grad < 0).all()  # a step down the gradient moves the images apart
    assert mode_seeking_loss(y, y, style_x, torch.zeros(1, 2)).isfinite()


def test_kl_divergence():
    mean, log_variance = torch.tensor([[0.5, -2.0]]), torch.tensor([[0.0, math.log(3)]])
    expected = 0.5 * 0.25 - 0.5 * (1 + math.log(3) - 4 - 3)
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected)
    assert kl_divergence(mean.repeat(3, 1), log_variance.repeat(3, 1)).item() == pytest.approx(3 * expected)  # a sum
    assert kl_divergence(torch.zeros(2, 4), torch.zeros(2, 4)).item() == 0


# The contextual loss.


def slow_contextual_loss(x, y, bandwidth):
    """Position by position, in float64."""
    x, y = x.double().numpy(), y.double().numpy()
    count, channels = x.shape[:2]
    mean = y.mean((0, 2, 3))
    total = 0.0
    for n in range(count):
        ours = [vector - mean for vector in x[n].reshape(channels, -1).T]
        target = [vector - mean for vector in y[n].reshape(channels, -1).T]
        similarity = np.empty((len(ours), len(target)))
        for i, u in enumerate(ours):
            distances = [1 - u @ v / math.sqrt(u @ u) / math.sqrt(v @ v) for v in target]
            smallest = min(distances)
            weights = [math.exp((1 - d / (smallest + 1e-5)) / bandwidth) for d in distances]
            similarity[i] = [w / sum(weights) for w in weights]
        best = [max(similarity[i, j] for i in range(len(ours))) for j in range(len(target))]
        total -= math.log(sum(best) / len(best) + 1e-5)
    return total / count


@pytest.mark.parametrize("bandwidth", [0.5, 0.1])
def test_contextual_loss_is_the_slow_one(bandwidth):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 3, 4, generator=generator), torch.randn(2, 6, 4, 5, generator=generator) + 1
    expected = slow_contextual_loss(x, y, bandwidth)
    assert contextual_loss(x, y, bandwidth).item() == pytest.approx(expected, rel=1e-4)
    assert slow_contextual_loss(y, x, bandwidth) != pytest.approx(expected, rel=1e-2)  # the two sides are told apart
    if bandwidth == 0.5:
        assert contextual_loss(x, y).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_contextual_loss_of_equal_maps_is_finite(dtype):
    for seed in range(5):
        y = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
        x = y.clone().requires_grad_()
        loss = contextual_loss(x, y)
        loss.backward()
        assert loss.dtype == torch.float32
        assert 0 <= loss.item() + 2e-5 < 0.01
        assert x.grad.isfinite().all()


def test_contextual_loss_of_constant_maps_is_finite():
    x = torch.ones(1, 4, 3, 3, requires_grad=True)
    loss = contextual_loss(x, torch.ones(1, 4, 3, 3))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_contextual_loss_is_not_rounded_under_autocast():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(1, 16, 5, 5, generator=generator), torch.randn(1, 16, 5, 5, generator=generator)
    expected = contextual_loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x.flatten(2) @ y.flatten(2).mT).dtype == torch.bfloat16  # it does round what is not kept from it
        assert torch.equal(contextual_loss(x, y), expected)


# Feature networks.


def by_hand_squeezenet(weights, x_rgb):
    w = {name: torch.from_numpy(value) for name, value in weights.items()}

    def conv(y, name, **how):
        return F.conv2d(y, w[f"{name}.weight"], w[f"{name}.bias"], **how).relu()

    def fire(y, i):
        y = conv(y, f"fire{i}/squeeze1x1")
        return torch.cat([conv(y, f"fire{i}/expand1x1"), conv(y, f"fire{i}/expand3x3", padding=1)], 1)

    def pool(y):
        return F.max_pool2d(y, 3, 2, ceil_mode=True)

    red, green, blue = ((x_rgb[:, c] + 1) / 2 * 255 for c in range(3))
    pixels_bgr = torch.stack([blue - 104, green - 117, red - 123], 1)
    y = pool(conv(pixels_bgr, "conv1", stride=2))
    y = pool(fire(fire(fire(y, 2), 3), 4))
    y = pool(fire(fire(fire(fire(y, 5), 6), 7), 8))
    return fire(y, 9)


def test_squeezenet(tmp_path):
    path, weights = tmp_path / "net.npz", squeezenet_weights()
    np.savez(path, **weights, unused=np.zeros(3))
    features = load_features(str(path))
    assert not features.training
    assert not any(p.requires_grad for p in features.parameters())
    x = (torch.rand(2, 3, 66, 75, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_()
    expected = by_hand_squeezenet(weights, x)
    assert expected.shape == (2, 9, 3, 4)
    assert (expected > 0).float().mean() > 0.2  # not all cut off by the ReLUs
    ours = features(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.autograd.grad(ours.square().sum(), x)[0]
    assert gradient.abs().max() > 0  # the loss reaches the image
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0], rtol=1e-3, atol=1e-4)


def test_files_that_are_no_squeezenet(tmp_path):
    path = tmp_path / "net.npz"
    whole = squeezenet_weights()
    np.savez(path, **whole)
    cut_short = path.read_bytes()[:1000]
    cases = {
        "gone": None,
        "empty": b"",
        "text": b"hello",
        "cut short": cut_short,
        "without a layer": {k: v for k, v in whole.items() if not k.startswith("fire7/expand3x3")},
        "without a bias": {k: v for k, v in whole.items() if k != "conv1.bias"},
        "bias of another size": whole | {"fire2/squeeze1x1.bias": np.zeros(5, np.float32)},
        "flat weight": whole | {"conv1.weight": np.zeros(6, np.float32)},
        "pickled": {"conv1.weight": np.array([{}], dtype=object)},
        "words": {"conv1.weight": np.array(["seven"])},
        "of another network": {"features.0.weight": np.zeros((2, 3, 3, 3), np.float32)},
    }
    for name, content in cases.items():
        path.unlink(missing_ok=True)
        if isinstance(content, dict):
            np.savez(path, **content)
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_features(str(path))
        assert str(path) in caught.value.fact, name
        assert "SqueezeNet v1.0" in caught.value.advice, name
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"one\.npy"):
        load_features(str(tmp_path / "one.npy"))


def test_layers_that_do_not_follow_one_another(tmp_path):
    np.savez(tmp_path / "net.npz", **squeezenet_weights() | {"fire5/squeeze1x1.weight": np.zeros((7, 8, 1, 1))})
    with pytest.raises(InputError, match="fire5/squeeze1x1"):
        load_features(str(tmp_path / "net.npz"))


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_vgg16_without_torchvision():
    with pytest.raises(InputError, match="needs torchvision, which is not installed") as caught:
        load_features("vgg16")
    for way_out in ("dsmap[vgg]", "--features SQUEEZENET.npz"):
        assert way_out in caught.value.advice
