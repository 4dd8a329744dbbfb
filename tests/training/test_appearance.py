"""Appearance statistics, against images whose statistics are known."""

import math

import pytest
import torch

from dsmap.training.appearance import APPEARANCE_DIM, BANDS, Appearance, appearance, appearance_loss, appearance_of

FLOOR = math.log(0.01)


def stripes(period: int, height: float, side: int = 64) -> torch.Tensor:
    """Grey vertical stripes `period` pixels apart, `height` up and down: (1, 3, side, side)."""
    line = torch.where(torch.arange(side) % period < period // 2, height, -height)
    return line.expand(1, 3, side, side).clone()


def noise(seed: int, n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_name(x_nchw: torch.Tensor) -> dict[str, float]:
    found = appearance(x_nchw)
    assert found.shape == (len(x_nchw), APPEARANCE_DIM)
    rows = ["mean", *(f"octave {i}" for i in range(BANDS)), "coarse"]
    names = [f"{row} {channel}" for row in rows for channel in ("brightness", "blue", "red")]
    return dict(zip(names, found[0].tolist(), strict=True))


@pytest.mark.parametrize("octave", range(BANDS))
def test_stripes_are_in_their_octave(octave):
    found = by_name(stripes(2 * 2**octave, 0.5))
    for i in range(BANDS):
        expected = math.log(math.hypot(0.5, 0.01)) if i == octave else FLOOR
        assert found[f"octave {i} brightness"] == pytest.approx(expected, abs=1e-3)
        assert found[f"octave {i} red"] == pytest.approx(FLOOR, abs=1e-2)
    assert found["coarse brightness"] == pytest.approx(FLOOR, abs=1e-3)
    assert found["mean brightness"] == pytest.approx(0, abs=1e-6)


def test_colours_are_apart_from_brightness():
    grey, red = torch.full((1, 3, 16, 16), 0.4), torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert by_name(grey)["mean brightness"] == pytest.approx(0.4)
    assert by_name(grey)["mean red"] == pytest.approx(0, abs=1e-6)
    assert by_name(grey)["coarse brightness"] == pytest.approx(FLOOR)
    assert by_name(red)["mean red"] == pytest.approx(1, abs=0.01)
    assert by_name(red)["mean blue"] == pytest.approx(-0.338, abs=0.01)


def test_sizes_that_do_not_halve_evenly():
    assert appearance(noise(0)[:, :, :29, :31]).isfinite().all()


def test_a_domain():
    rows = torch.cat([appearance(noise(seed)) for seed in (1, 2)])
    found = appearance_of(noise(seed) for seed in (1, 2))
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.spread, rows.std(0, correction=0).clamp(min=0.05))


def test_grey_images_have_no_colours_to_differ_in():
    grey = [noise(seed).mean(1, keepdim=True).expand(-1, 3, -1, -1) for seed in range(3)]
    target, source = appearance_of(grey), appearance_of([noise(7)])
    assert (target.spread > 0).all()
    x = noise(8).requires_grad_()
    loss = appearance_loss(x, noise(8), target, source)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_loss_is_what_lies_beyond_the_difference_of_the_domains():
    x, y = noise(3), 0.5 * noise(4) + 0.1
    change = appearance(y).mean(0) - appearance(x).mean(0)
    source = Appearance(torch.arange(float(APPEARANCE_DIM)), torch.ones(APPEARANCE_DIM))
    spread = torch.linspace(0.5, 2, APPEARANCE_DIM)
    met = Appearance(source.mean + change, spread)
    assert appearance_loss(y, x, met, source).item() == pytest.approx(0, abs=1e-8)
    missed = Appearance(met.mean + 3 * spread, spread)
    assert appearance_loss(y, x, missed, source).item() == pytest.approx(9, rel=1e-4)
    # Each image twice, as exemplar and random styles come, one above and one below what is wanted.
    both = torch.cat([y, y])
    assert appearance_loss(both, x, missed, source).item() == pytest.approx(9, rel=1e-4)


def test_one_image_may_change_more_if_another_changes_less():
    x = stripes(2, 0.3).repeat(2, 1, 1, 1)
    y = torch.cat([stripes(2, 0.2), stripes(2, 0.45)])  # as many times less as more
    source = target = Appearance(torch.zeros(APPEARANCE_DIM), torch.ones(APPEARANCE_DIM))
    assert appearance_loss(y, x, target, source).item() < 1e-4
    assert appearance_loss(y[:1], x[:1], target, source).item() > 5e-3


def test_soft_translations_learn_to_be_sharp():
    """The gradient of a soft image points to more contrast in the octaves that it lacks."""
    x = noise(5)
    gain = torch.tensor(0.6, requires_grad=True)
    same = appearance_of([x])
    appearance_loss(x * gain, x, same, same).backward()
    assert gain.grad is not None
    assert gain.grad < 0
