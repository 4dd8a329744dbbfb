"""Every rewrite of the exporter against the network it came from, in float64: equal up to rounding."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tiny import images, make_model, styles

from dsmap.export.graphs import from_frames
from dsmap.export.rewrites import BlockTail, BlockUpsampleConv, Rewrites, ScaledStem, rewritten
from dsmap.model.layers import UpsampleConv, conv

PADS = ("reflect", "replicate", "zero")
ALL = [Rewrites(*on) for on in itertools.product((False, True), repeat=3)]


def random_(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.double().requires_grad_(False)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("hw", [(2, 2), (2, 5), (4, 3), (9, 8)])
def test_upsampling_in_the_block_layout(pad, hw):
    plain = random_(UpsampleConv(3, 5, pad))
    plain.plain = True
    block = BlockUpsampleConv(plain)
    x = torch.randn(2, 3, *hw, dtype=torch.float64)
    y = block(x)
    assert y.shape == (2, 20, *hw)
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(y, 2), plain(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("hw", [(4, 4), (4, 10), (16, 6)])
def test_the_tail_on_the_block_layout(pad, hw):
    plain = random_(conv(5, 3, 7, padding=3, pad_type=pad))
    x = torch.randn(2, 5, *hw, dtype=torch.float64)
    y = BlockTail(plain, gain=2.0)(torch.nn.functional.pixel_unshuffle(x, 2))
    torch.testing.assert_close(y, 2 * plain(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize(("kernel", "stride", "margin"), [(7, 1, 3), (4, 2, 1)])
def test_scaling_inside_the_first_conv(pad, kernel, stride, margin):
    plain = random_(conv(3, 6, kernel, stride=stride, padding=margin, pad_type=pad))
    frames = torch.randint(0, 256, (2, 3, 12, 10)).double()
    torch.testing.assert_close(ScaledStem(plain)(frames), plain(frames / 127.5 - 1), rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("rewrites", ALL, ids=lambda r: "+".join(n for n, on in r._asdict().items() if on) or "none")
@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("pad", PADS)
def test_the_whole_network(pad, patch, rewrites):
    shape = {"patch": patch, "n_downsample": 2 if patch == 1 else 1 - patch // 4}
    shape["upsampling"] = "shuffle" if patch == 4 else "nearest"
    shape["output"] = "clip" if pad == "replicate" else "tanh"
    model = make_model(pad_type=pad, mapping=pad != "zero", style_kl=pad == "replicate", **shape).double().eval()
    fast = rewritten(model, rewrites)
    frames = torch.randint(0, 256, (2, 32, 40, 3), dtype=torch.uint8)
    x = from_frames(frames).double()
    raw = frames.double().permute(0, 3, 1, 2)
    own = raw if rewrites.scaling else raw / 127.5 - 1
    expected_style = model.encode_style(raw / 127.5 - 1, "b")
    style = fast.encode_style(own, "b")
    torch.testing.assert_close(style, expected_style, rtol=1e-10, atol=1e-10)
    expected = model.translate(raw / 127.5 - 1, "a", "b", expected_style)
    got = fast.translate(own, "a", "b", style)
    torch.testing.assert_close(got / 127.5 - 1 if rewrites.scaling else got, expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.05  # not a comparison of flat images
    assert x.shape == expected.shape
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_the_original_is_left_alone():
    model = make_model(pad_type="reflect")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rewritten(model, Rewrites())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("rewrites", [Rewrites(), Rewrites(tail=False), Rewrites(scaling=False)])
def test_contrast_is_the_same_in_rewritten_decoders(patch, rewrites):
    plain, strong = (make_model(patch=patch, contrast=both).double() for both in ((1.0, 1.0), (1.0, 1.4)))
    x = images(n=1, dtype=torch.float64)["a"]
    style = styles(n=1, dtype=torch.float64)["b"]
    fast = rewritten(strong, rewrites)
    given = (x + 1) * 127.5 if rewrites.scaling else x
    for target in ("a", "b"):
        with torch.no_grad():
            before, after = (model.translate(x, "a", target, style) for model in (plain, strong))
            found = fast.translate(given, "a", target, style)
        torch.testing.assert_close(after, (before * (1 if target == "a" else 1.4)).clamp(-1, 1))
        torch.testing.assert_close(found / 127.5 - 1 if rewrites.scaling else found, after, rtol=1e-9, atol=1e-9)
    assert 0.01 < (after.abs() == 1).double().mean() < 0.9


@pytest.mark.parametrize("pad", ["zero", "reflect"])
@pytest.mark.parametrize("scaling", [True, False])
def test_sharpening_is_the_same_in_rewritten_decoders(pad, scaling):
    soft, sharp = (make_model(pad_type=pad, sharpen=amount) for amount in (0.0, 0.7))
    x = images(n=1)["a"]
    style = styles(n=1)["b"]
    with torch.no_grad():
        plain, expected = (model.translate(x, "a", "b", style) for model in (soft, sharp))
        fast = rewritten(sharp, Rewrites(scaling=scaling))
        given = (x + 1) * 127.5 if scaling else x
        found = fast.translate(given, "a", "b", style)
        found = found / 127.5 - 1 if scaling else found
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # By hand: the image, its edge repeated, less its mean with weights 1 2 1.
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(plain, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    torch.testing.assert_close(expected, (plain + 0.7 * (plain - blurred)).clamp(-1, 1))
    assert (expected - plain).abs().max() > 0.01


@pytest.mark.parametrize(("patch", "pad"), [(1, "zero"), (1, "reflect"), (2, "zero"), (4, "zero")])
@pytest.mark.parametrize("scaling", [True, False])
def test_a_margin_is_more_of_the_mirrored_image(scaling, pad, patch):
    shape = {"pad_type": pad, "patch": patch, "n_downsample": 2 if patch == 1 else 0}
    without = make_model(**shape).double()
    margin = 2 * without.config.multiple_of
    model = make_model(**shape, margin=margin).double()
    x = images(n=1, dtype=torch.float64)["a"]
    style = styles(n=1, dtype=torch.float64)["b"]
    with torch.no_grad():
        expected = without.translate(F.pad(x, (margin,) * 4, mode="reflect"), "a", "b", style)
        found = model.translate(x, "a", "b", style)
        fast = rewritten(model, Rewrites(scaling=scaling)).translate((x + 1) * 127.5 if scaling else x, "a", "b", style)
        plain = without.translate(x, "a", "b", style)
    torch.testing.assert_close(found, expected[..., margin:-margin, margin:-margin])
    torch.testing.assert_close(fast / 127.5 - 1 if scaling else fast, found, atol=1e-9, rtol=1e-9)
    assert (found - plain).abs().max() > 0.01
    assert found.shape == x.shape
