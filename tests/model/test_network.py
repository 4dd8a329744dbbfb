"""The network: the published sizes, the formulas written out by hand, and what it refuses."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny import images, make_discriminators, make_model, model_config, scramble, squeezenet_weights, styles
from torch import nn

from dsmap.config import DiscriminatorConfig, ModelConfig, TrainConfig
from dsmap.errors import InputError
from dsmap.model.discriminator import Discriminator
from dsmap.model.dsmap import DSMAP, initialise_discriminator, initialise_generators
from dsmap.model.feature_networks import load_features
from dsmap.model.identity_init import start_as_identity
from dsmap.model.layers import LayerNorm, ShuffleConv, UpsampleConv, adaptive_instance_norm, instance_norm, to_image

PAD_MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


@pytest.fixture(scope="module")
def published():
    """The published network without its numbers: it costs no memory."""
    with torch.device("meta"):
        return DSMAP(ModelConfig())


def path_parts(model, source, target):
    return [model.content_encoders[source], model.shared_encoder, model.mappings[target], model.decoders[target]]


def convolutions(modules):
    return [m for part in modules for m in part.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


# The published network.


def test_parameters_of_the_published_network(published):
    assert sum(p.numel() for p in published.parameters()) / 1e6 == pytest.approx(38.97, abs=0.005)
    on_path = convolutions(path_parts(published, "a", "b"))
    assert sum(p.numel() for m in on_path for p in m.parameters()) / 1e6 == pytest.approx(16.2, abs=0.05)
    with torch.device("meta"):
        discriminator = Discriminator(DiscriminatorConfig())
    assert sum(p.numel() for p in discriminator.parameters()) / 1e6 == pytest.approx(8.27, abs=0.005)


def test_multiply_adds_of_the_published_network(published):
    counts = {}

    def count(module, inputs, output):
        positions = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        counts[module] = module.weight.numel() * positions.shape[-2] * positions.shape[-1]

    def count_plainly(module, inputs, output):  # the fold does the same with 36 instead of 100 multiplies
        count(module.conv, inputs, output)

    hooks = [m.register_forward_hook(count) for m in convolutions(path_parts(published, "a", "b"))]
    hooks += [up.register_forward_hook(count_plainly) for up in published.decoders["b"].ups]
    x_nchw = torch.empty(1, 3, 256, 256, device="meta")
    assert published.translate(x_nchw, "a", "b", torch.empty(1, 8, device="meta")).shape == x_nchw.shape
    for hook in hooks:
        hook.remove()
    assert sum(counts.values()) / 256**2 == 797_056
    ups = sum(counts[up.conv] for up in published.decoders["b"].ups)
    assert ups / sum(counts.values()) == pytest.approx(0.64, abs=0.005)
    assert (sum(counts.values()) - 0.64 * ups) / 1e9 == pytest.approx(30.7, abs=0.1)


def test_shapes_of_the_published_network(published):
    x_nchw = torch.empty(2, 3, 64, 96, device="meta")
    content = published.encode(x_nchw, "a")
    assert content.shared.shape == content.domain_specific.shape == (2, 256, 8, 12)
    assert content.skip.shape == (2, 256, 16, 24)
    assert published.map(content, "b").shape == (2, 256, 8, 12)
    assert published.encode_style(x_nchw, "a").shape == (2, 8)
    assert published.style_mlps["a"].layers[-1].out_features == 4096
    with torch.device("meta"):
        discriminator = Discriminator(DiscriminatorConfig())
    assert [logits.shape for logits in discriminator(x_nchw)] == [(2, 1, 4, 6), (2, 1, 2, 3), (2, 1, 1, 1)]


# Every number of a tiny one, against the description of the network written out by hand in float64.


def pad_conv(x, layer, pad_type, padding, stride=1):
    x = F.pad(x, (padding,) * 4, mode=PAD_MODES[pad_type])
    return F.conv2d(x, layer.weight, layer.bias, stride=stride)


def by_hand_norm(x, dims):
    mean = x.mean(dims, keepdim=True)
    variance = ((x - mean) ** 2).mean(dims, keepdim=True)
    return (x - mean) / (variance + 1e-5) ** 0.5


def by_hand_layer_norm(x, layer):
    return by_hand_norm(x, (1, 2, 3)) * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)


def by_hand_content(model, x, slot, pad):
    encoder = model.content_encoders[slot]
    y = F.leaky_relu(pad_conv(x, encoder.stem, pad, 3), 0.01)
    for down in encoder.downs:
        y = by_hand_norm(pad_conv(y, down, pad, 1, 2), (2, 3)).relu()
    skip = y
    y = by_hand_norm(pad_conv(y, encoder.mid, pad, 1, 2), (2, 3)).relu()
    for block in encoder.blocks:
        inner = by_hand_norm(pad_conv(y, block.conv1, pad, 1), (2, 3)).relu()
        y = y + by_hand_norm(pad_conv(inner, block.conv2, pad, 1), (2, 3))
    block = model.shared_encoder.block
    inner = F.leaky_relu(by_hand_norm(pad_conv(y, block.conv1, pad, 1), (2, 3)), 0.01)
    shared = y + by_hand_norm(pad_conv(inner, block.conv2, pad, 1), (2, 3))
    return y, skip, shared


def by_hand_mapping(model, shared, skip, target):
    mapping = model.mappings[target]
    y = F.conv_transpose2d(shared, mapping.up.weight, mapping.up.bias, stride=2, padding=1, output_padding=1)
    y = by_hand_layer_norm(y, mapping.up_norm).relu() + skip
    return by_hand_layer_norm(pad_conv(y, mapping.down, "zero", 1, 2), mapping.down_norm)


def by_hand_image(model, y, style, target, pad):
    mlp, decoder = model.style_mlps[target].layers, model.decoders[target]
    flat = style
    for i, layer in enumerate(mlp):
        flat = flat @ layer.weight.T + layer.bias
        flat = flat.relu() if i < 2 else flat
    channels = y.shape[1]
    pieces = iter(flat.split(channels, dim=1))  # of each norm in order its shifts, then its scales

    def adain(x):
        shift, scale = next(pieces)[:, :, None, None], next(pieces)[:, :, None, None]
        return by_hand_norm(x, (2, 3)) * scale + shift

    for block in decoder.blocks:
        inner = adain(pad_conv(y, block.conv1, pad, 1)).relu()
        y = y + adain(pad_conv(inner, block.conv2, pad, 1))
    assert next(pieces, None) is None
    for up in decoder.ups:
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = by_hand_layer_norm(pad_conv(y, up.conv, pad, 2), up.norm).relu()
    return pad_conv(y, decoder.tail, pad, 3).tanh()


def by_hand_style(encoder, x, pad):
    y = pad_conv(x, encoder.stem, pad, 3).relu()
    for down in encoder.downs:
        y = pad_conv(y, down, pad, 1, 2).relu()
    return F.conv2d(y.mean((2, 3), keepdim=True), encoder.head.weight, encoder.head.bias)[:, :, 0, 0]


@pytest.mark.parametrize("pad", PAD_MODES)
def test_every_part_is_what_the_paper_describes(pad):
    model = make_model(n_res=2, pad_type=pad).double()
    x, style = images(hw=(32, 24), dtype=torch.float64), styles(dtype=torch.float64)
    for source, target in (("a", "b"), ("b", "a")):
        content = model.encode(x[source], source)
        h, skip, shared = by_hand_content(model, x[source], source, pad)
        mapped = by_hand_mapping(model, shared, skip, target)
        image = by_hand_image(model, mapped, style[target], target, pad)
        for ours, expected in (
            (content.domain_specific, h),
            (content.skip, skip),
            (content.shared, shared),
            (model.map(content, target), mapped),
            (model.decode(mapped, style[target], target), image),
            (model.translate(x[source], source, target, style[target]), image),
            (model.encode_style(x[source], source), by_hand_style(model.style_encoders[source], x[source], pad)),
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        assert image.abs().max() <= 1
        assert image.std() > 0.05  # not a constant


@pytest.mark.parametrize("pad", PAD_MODES)
def test_the_kl_style_encoder(pad):
    model = make_model(style_kl=True, pad_type=pad).double()
    encoder, x = model.style_encoders["a"], images(hw=(64, 48), dtype=torch.float64)["a"]
    y = pad_conv(x, encoder.stem, pad, 1, 2)
    for i, block in enumerate(encoder.blocks):
        assert (y.shape[1], block.conv2.out_channels) == (4 * min(i + 1, 4), 4 * min(i + 2, 4))
        inner = pad_conv(F.leaky_relu(y, 0.2), block.conv1, pad, 1)
        inner = F.avg_pool2d(pad_conv(F.leaky_relu(inner, 0.2), block.conv2, pad, 1), 2)
        y = inner + F.conv2d(F.avg_pool2d(y, 2), block.shortcut.weight, block.shortcut.bias)
    y = F.leaky_relu(y, 0.2).mean((2, 3))
    mean, log_variance = encoder.distribution(x)
    torch.testing.assert_close(mean, y @ encoder.mean.weight.T + encoder.mean.bias)
    torch.testing.assert_close(log_variance, y @ encoder.log_variance.weight.T + encoder.log_variance.bias)
    assert torch.equal(model.encode_style(x, "a"), mean)


@pytest.mark.parametrize("pad", PAD_MODES)
def test_the_discriminator(pad):
    discriminator = make_discriminators(pad_type=pad)["a"].double()
    x = y = images(hw=(64, 80), dtype=torch.float64)["a"]
    logits = discriminator(x)
    assert len(logits) == 3
    for scale, ours in zip(discriminator.scales, logits, strict=True):
        z = y
        for layer in scale.layers:
            z = F.leaky_relu(pad_conv(z, layer, pad, 1, 2), 0.01)
        torch.testing.assert_close(ours, F.conv2d(z, scale.head.weight, scale.head.bias))
        # The average leaves out what lies beyond the border.
        sums, ones = F.avg_pool2d(y, 3, 2, 1), F.avg_pool2d(torch.ones_like(y), 3, 2, 1)
        y = sums / ones


# Layers.


@pytest.mark.parametrize("size", [(5, 7), (2, 2), (2, 6), (1, 3)])
@pytest.mark.parametrize("pad", PAD_MODES)
def test_folded_upsampling_is_upsampling(pad, size):
    if pad == "reflect" and min(size) < 2:
        pytest.skip("two upsampled rows cannot be reflected by two")
    generator = torch.Generator().manual_seed(0)
    layer = UpsampleConv(3, 2, pad).double()
    scramble(layer, 4)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator, requires_grad=True)
    plain = pad_conv(F.interpolate(x, scale_factor=2, mode="nearest"), layer.conv, pad, 2)
    plain = by_hand_layer_norm(plain, layer.norm).relu()
    into = [x, *layer.parameters()]
    weight = torch.randn(plain.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad((plain * weight).sum(), into)
    ours = layer(x)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
    for ours_grad, expected_grad in zip(torch.autograd.grad((ours * weight).sum(), into), expected, strict=True):
        torch.testing.assert_close(ours_grad, expected_grad, rtol=1e-9, atol=1e-9)


def test_layer_norm_is_over_a_whole_image():
    layer = LayerNorm(3)
    assert torch.equal(layer.bias, torch.zeros(3))
    assert 0 <= layer.weight.min() <= layer.weight.max() < 1
    scramble(layer, 5)
    x = torch.randn(2, 3, 4, 5) * 3 + 2
    values, expected = x.double(), torch.empty(2, 3, 4, 5, dtype=torch.float64)
    for n in range(2):
        flat = values[n].flatten()
        mean = flat.sum() / 60
        variance = ((flat - mean) ** 2).sum() / 60  # divided by the count, not by the count - 1
        for c in range(3):
            expected[n, c] = (values[n, c] - mean) / (variance + 1e-5).sqrt() * layer.weight[c] + layer.bias[c]
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_instance_norm_and_adain():
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64) * 4 + 1
    normed = instance_norm(x)
    torch.testing.assert_close(normed, by_hand_norm(x, (2, 3)))
    scale, shift = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    y = adaptive_instance_norm(x, scale, shift)
    torch.testing.assert_close(y.mean((2, 3)), shift)
    torch.testing.assert_close(y.std((2, 3), correction=0), scale.abs(), rtol=1e-5, atol=1e-5)


def test_the_mlp_gives_the_shifts_of_a_norm_and_then_its_scales():
    model = make_model()
    last, channels = model.style_mlps["b"].layers[-1], model.config.content_dim
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[2 * channels : 3 * channels] = 5  # the second norm's shifts; its scales stay 0
    seen = []
    hook = model.decoders["b"].blocks[0].register_forward_hook(lambda _m, args, out: seen.append(out - args[0]))
    model.decode(torch.randn(1, channels, 4, 4), torch.randn(1, 3), "b")
    hook.remove()
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], 5.0))


def test_the_weights_a_training_starts_from():
    model, discriminator = DSMAP(model_config(dim=8)), Discriminator(DiscriminatorConfig(dim=16))
    initialise_generators(model)
    initialise_discriminator(discriminator)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        assert not layer.bias.any()
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.15)
    for layer in convolutions([discriminator]):
        assert not layer.bias.any()
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)


# Networks for video, whose first and last convolutions handle blocks of pixels.


@pytest.mark.parametrize("patch", [2, 4])
def test_the_stem_is_pixel_unshuffle_and_a_convolution(patch):
    stem = make_model(patch=patch, pad_type="zero").content_encoders["a"].stem
    x = images()["a"]
    # Channel, row and column in the block are one axis for pixel_unshuffle; the kernel is a 3x3 of such blocks.
    weight = stem.weight.unflatten(2, (3, patch)).unflatten(4, (3, patch))  # O, I, a, row, b, column
    weight = weight.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    expected = F.conv2d(F.pixel_unshuffle(x, patch), weight, stem.bias, padding=1)
    torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("patch", "n_downsample", "multiple"), [(1, 2, 8), (2, 0, 4), (2, 1, 8), (2, 2, 16), (4, 0, 8)]
)
def test_sizes_with_blocks_of_pixels(patch, n_downsample, multiple):
    model = make_model(patch=patch, n_downsample=n_downsample)
    assert model.config.multiple_of == multiple
    x = torch.randn(1, 3, 2 * multiple, 3 * multiple)
    content = model.encode(x, "a")
    assert content.shared.shape == (1, model.config.content_dim, 2, 3)
    assert content.skip.shape == (1, model.config.content_dim, 4, 6)
    assert model.translate(x, "a", "b", styles(1)["b"]).shape == x.shape
    smallest = model.config.style_minimum_size
    assert smallest == max(16, 2 * multiple)
    assert model.encode_style(torch.randn(1, 3, smallest, smallest), "a").shape == (1, 3)
    with pytest.raises(InputError, match=f"must be multiples of {multiple}|does not fit"):
        model.encode(torch.randn(1, 3, 2 * multiple, 2 * multiple + multiple // 2), "a")


def test_the_pixels_of_a_block_start_alike():
    model = DSMAP(model_config(patch=2, n_downsample=0))
    initialise_generators(model)
    x = images()["a"]
    y = model.translate(x, "a", "b", styles()["b"])
    blocks = F.pixel_unshuffle(y, 2).unflatten(1, (3, 4))
    assert torch.equal(blocks[:, :, 0], blocks[:, :, 3])
    assert y.std() > 0.05


def test_shuffled_upsampling_written_out():
    layer = ShuffleConv(3, 2, "zero")
    scramble(layer, 0)
    x = torch.randn(2, 3, 4, 5)
    y = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
    expected = torch.empty(2, 2, 8, 10)
    for row in range(2):
        for column in range(2):
            expected[:, :, row::2, column::2] = y[:, 2 * row + column :: 4]
    mean, std = expected.mean((1, 2, 3), keepdim=True), expected.std((1, 2, 3), correction=0, keepdim=True)
    normalised = (expected - mean) / std * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    torch.testing.assert_close(layer(x), F.relu(normalised), rtol=1e-4, atol=1e-5)


def test_images_are_cut_off_at_black_and_white_but_find_their_way_back():
    z = torch.tensor([-2.0, -2.0, -0.5, 0.5, 2.0, 2.0], requires_grad=True)
    y = to_image(z, "clip")
    assert y.tolist() == [-1, -1, -0.5, 0.5, 1, 1]
    y.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))  # a descent goes against these
    assert z.grad.tolist() == [0, -1, 1, -1, 1, 0]
    with torch.no_grad():
        assert torch.equal(to_image(z, "clip"), y)
        assert torch.equal(to_image(z, "tanh"), z.tanh())


def test_the_decoders_last_step_is_as_the_settings_say():
    torch.manual_seed(0)
    published, cut_off = (DSMAP(model_config(output=output)).eval() for output in ("tanh", "clip"))
    cut_off.load_state_dict(published.state_dict())
    x, style = torch.rand(1, 3, 64, 48) * 2 - 1, styles(1)["b"]
    with torch.no_grad():
        one, other = published.translate(x, "a", "b", style), cut_off.translate(x, "a", "b", style)
    torch.testing.assert_close(one.atanh().clamp(-1, 1), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("patch", "dim"), [(2, 48), (2, 52)])
def test_generators_that_start_as_identity(patch, dim):
    torch.manual_seed(0)
    shape = {"patch": patch, "n_downsample": 0, "upsampling": "shuffle", "pad_type": "zero"}
    model = DSMAP(model_config(dim=dim, **shape)).eval()
    initialise_generators(model)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 64, 48, generator=generator) * 2 - 1  # noise: every pixel differs from its neighbours

    def likeness(y):
        flat = [z.flatten(2) - z.flatten(2).mean(2, keepdim=True) for z in (x, y)]
        return F.cosine_similarity(*flat, dim=2).min().item()

    style = styles(1)["b"]
    assert abs(likeness(model.translate(x, "a", "b", style))) < 0.5
    start_as_identity(model)
    for source, target in (("a", "b"), ("b", "a")):
        assert likeness(model.translate(x, source, target, style)) > 0.97
    assert likeness(model.decode(model.map(model.encode(x, "a"), "a"), style, "a")) > 0.97


@pytest.mark.parametrize(
    "changed",
    [{"dim": 47}, {"n_downsample": 1}, {"patch": 1}, {"upsampling": "nearest"}, {"mapping": False}, {"patch": 4}],
)
def test_no_identity_without_room(changed):
    shape = {"patch": 2, "n_downsample": 0, "upsampling": "shuffle", "dim": 48} | changed
    with pytest.raises(ValueError, match="cannot hold every pixel"):
        start_as_identity(DSMAP(model_config(**shape)))
    with pytest.raises(ValidationError, match="identity_init needs a network that can hold every pixel"):
        TrainConfig(model=model_config(**shape), identity_init=True)


def test_memory_goes_by_the_width_of_a_pixel():
    widths = [ModelConfig(dim=dim, patch=patch).width_per_pixel for dim, patch in ((64, 1), (48, 2), (50, 4))]
    assert widths == [64, 12, 4]


# A discriminator of features.


@pytest.fixture
def features(tmp_path):
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    return load_features(str(tmp_path / "net.npz"))


def test_a_discriminator_of_features_judges_every_depth(features):
    torch.manual_seed(0)
    plain = Discriminator(DiscriminatorConfig(dim=4))
    both = Discriminator(DiscriminatorConfig(dim=4, features=True), features)
    both.scales.load_state_dict(plain.scales.state_dict())
    x = images(n=2, hw=(96, 64))["a"]
    logits, of_patches = both(x), plain(x)
    assert len(features.taps(x)) == len(features.tap_dims) == 3
    assert len(logits) == 4 + len(of_patches)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(logits[4:], of_patches, strict=True))
    seen = [torch.log(1 + tap).flatten(2) for tap in features.taps(x)]
    pooled = [part for tap in seen for part in (tap.mean(2), (tap.var(2, correction=0) + 1e-4).sqrt())]
    whole = F.linear(torch.cat(pooled, 1), both.whole.layer.weight.flatten(1), both.whole.layer.bias)
    whole = F.linear(F.leaky_relu(whole, 0.2), both.whole.head.weight.flatten(1), both.whole.head.bias)
    torch.testing.assert_close(logits[3].flatten(1), whole)
    # Of one image at about a sixteenth of its size, whatever the depth.
    assert [tuple(depth.shape) for depth in logits[:3]] == [(2, 1, 5, 3)] * 3
    assert all(not torch.equal(depth[0], depth[1]) for depth in logits[:4])


def test_features_are_judged_in_the_standard_of_real_images(features):
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(dim=4, features=True), features)
    batches = [images(n=n, hw=(64, 96), seed=n)["a"] for n in (2, 3)]
    discriminator.fit_feature_statistics(batches)
    taps = [[tap.log1p() for tap in features.taps(batch)] for batch in batches]
    for i, depth in enumerate(discriminator.depths):
        rows = torch.cat([of_batch[i].transpose(0, 1).flatten(1) for of_batch in taps], 1)
        torch.testing.assert_close(depth.standard.mean, rows.mean(1))
        torch.testing.assert_close(depth.standard.spread, rows.std(1, correction=0) + 0.01)
        standard = torch.cat([depth.standard(of_batch[i]).transpose(0, 1).flatten(1) for of_batch in taps], 1)
        torch.testing.assert_close(standard.mean(1), torch.zeros(len(rows)), atol=1e-3, rtol=0)
    pooled = torch.cat([discriminator.whole.pooled(of_batch) for of_batch in taps])
    torch.testing.assert_close(discriminator.whole.standard.mean, pooled.mean(0))
    torch.testing.assert_close(discriminator.whole.standard.spread, pooled.std(0, correction=0) + 0.01)
    # It goes with the weights: a resumed training judges as before.
    other = Discriminator(DiscriminatorConfig(dim=4, features=True), features)
    other.load_state_dict(discriminator.state_dict())
    x = batches[0]
    assert all(torch.equal(a, b) for a, b in zip(discriminator(x), other(x), strict=True))


def test_feature_matching_follows_the_mean_of_the_translations(features):
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(dim=4, features=True), features)
    whole, x = discriminator.whole, images(n=2)["a"]
    logits, seen = discriminator.judge(x)
    assert all(torch.equal(a, b) for a, b in zip(logits, discriminator(x), strict=True))
    torch.testing.assert_close(seen, whole.pooled([tap.log1p() for tap in features.taps(x)]))  # no standard is set
    rows = torch.randn(3, seen.shape[1], generator=torch.Generator().manual_seed(1))
    mean = torch.zeros(seen.shape[1])
    for n in range(1, 4):
        batch = (n * rows).requires_grad_()
        loss = whole.matching_loss(batch)
        mean = 0.97 * mean + 0.03 * n * rows.mean(0)
        torch.testing.assert_close(whole.running, mean)
        torch.testing.assert_close(loss, mean.square().mean())
        (gradient,) = torch.autograd.grad(loss, batch)
        # That of the mean's square, whatever this batch is.
        torch.testing.assert_close(gradient, (2 * mean / mean.numel() / 3).expand(3, -1))


def test_a_blank_image_gives_finite_gradients(features):
    discriminator = Discriminator(DiscriminatorConfig(dim=4, features=True), features)
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    discriminator(x)[3].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_feature_network_is_no_part_of_the_discriminator(features):
    torch.manual_seed(0)
    config = DiscriminatorConfig(dim=4, features=True)
    one, other = Discriminator(config, features), Discriminator(config, features)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in features.parameters()}
    assert not any("mixing" in name or "fires" in name for name in one.state_dict())
    other.load_state_dict(one.state_dict())  # the fixed mixing is drawn anew, and the same
    x = images()["a"].requires_grad_()
    assert all(torch.equal(a, b) for a, b in zip(one(x), other(x), strict=True))
    sum(logits.mean() for logits in one(x)[:4]).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0  # the generators learn through it
    assert all(p.grad is None for p in features.parameters())
    with pytest.raises(ValueError, match="needs the feature network"):
        Discriminator(config)


# The interface.


def test_without_a_mapping_the_shared_content_is_decoded():
    model, x = make_model(mapping=False), images()
    assert not any("mapping" in name for name, _ in model.named_parameters())
    content = model.encode(x["a"], "a")
    assert model.map(content, "b") is content.shared
    style = styles()["b"]
    translated = model.translate(x["a"], "a", "b", style)
    assert torch.equal(translated, model.decode(content.shared, style, "b"))
    with pytest.raises(InputError, match="no domain named 'c'"):
        model.map(content, "c")


@pytest.mark.parametrize(
    ("changed", "multiple"), [({}, 8), ({"n_downsample": 1}, 4), ({"n_downsample": 3, "dim": 2}, 16)]
)
def test_the_smallest_size_and_sizes_that_do_not_fit(changed, multiple):
    model = make_model(**changed).eval()
    assert (model.config.multiple_of, model.config.minimum_size) == (multiple, 2 * multiple)
    style, side = styles(1)["b"], 2 * multiple
    for height, width in itertools.product((side, side + multiple), repeat=2):
        y = model.translate(torch.zeros(1, 3, height, width), "a", "b", style)
        assert y.shape == (1, 3, height, width)
        assert y.isfinite().all()
    for height, width in ((side, side - multiple), (multiple, side), (side + 1, side), (side, side + multiple // 2)):
        with pytest.raises(InputError, match=f"an image of {width}x{height} does not fit") as caught:
            model.encode(torch.zeros(1, 3, height, width), "a")
        assert f"multiples of {multiple} and at least {side}" in caught.value.advice


def test_names_of_domains_are_names_only():
    model = make_model()
    renamed = DSMAP(model_config(domains=("summer", "winter")))
    renamed.load_state_dict(model.state_dict())
    x, style = images()["a"], styles()["b"]
    assert renamed.domains == ("summer", "winter")
    assert (renamed.other("summer"), renamed.other("winter")) == ("winter", "summer")
    expected = model.translate(x, "a", "b", style)
    assert torch.equal(renamed.translate(x, "summer", "winter", style), expected)
    assert not torch.equal(renamed.translate(x, "winter", "summer", style), expected)
    for use in (renamed.encode, renamed.encode_style):
        with pytest.raises(InputError, match="no domain named 'a'") as caught:
            use(x, "a")
        assert caught.value.advice == "This model knows summer and winter."


def test_domains_do_not_share_more_than_the_shared_block():
    model = make_model()
    x, style = images()["a"], styles()["b"]
    before = model.translate(x, "a", "b", style)
    for part in (model.content_encoders["b"], model.mappings["a"], model.decoders["a"], model.style_mlps["a"]):
        scramble(part, 9)
    assert torch.equal(model.translate(x, "a", "b", style), before)
    for part in (model.shared_encoder, model.mappings["b"]):
        scramble(part, 9)
        changed = model.translate(x, "a", "b", style)
        assert not torch.equal(changed, before)
        before = changed


def test_random_styles():
    model = make_model()
    draw = [model.random_style(500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draw[0].shape == (500, 3)
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert draw[0].mean().abs() < 0.1
    assert draw[0].std() == pytest.approx(1, abs=0.1)
