"""dsmap-polish: decoders that are trained further alone."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from commands import call
from tiny import make_model, squeezenet_weights
from training_helpers import SMALL, Colours, batches_of, image, means

from dsmap.config import ModelConfig, TrainConfig
from dsmap.errors import DsmapError, InputError
from dsmap.export.trained_model import open_checkpoint
from dsmap.model.discriminator import WholeImageDiscriminator
from dsmap.runtime.bundle.bundle import read_manifest
from dsmap.tools import export
from dsmap.tools import polish as tool
from dsmap.training.artefacts import limit_detail, remove_grid
from dsmap.training.checkpoint import find_checkpoint, load_generators, read_checkpoint
from dsmap.training.feature_matching import FeatureMatching, FeatureStatistics
from dsmap.training.polish import polish
from dsmap.training.polish_run import crop_size
from dsmap.training.resume import check_resumable
from dsmap.training.style_statistics import style_statistics


@pytest.fixture
def few_statistics(monkeypatch):
    monkeypatch.setattr("dsmap.training.polish.STATISTICS_IMAGES", 100)


def grid(period: int, side: int = 96, size: float = 0.06) -> torch.Tensor:
    tile = torch.randn(1, 3, period, period, generator=torch.Generator().manual_seed(9))
    tile = size * (tile - tile.mean((2, 3), keepdim=True))
    return tile.repeat(1, 1, side // period, side // period)


@pytest.mark.parametrize(("period", "left"), [(4, 0.35), (8, 0.55)])  # of 12x12 blocks of 8 a window sees most
def test_a_grid_is_found_and_smooth_images_stay(period, left):
    plain = image(3)
    gridded = plain + grid(period)
    found = remove_grid(gridded, period)
    assert (found - plain).abs().mean() < left * (gridded - plain).abs().mean()
    # An image without one stays as it is, also its slopes, whose pixels differ within a block.
    assert (remove_grid(plain, period) - plain).abs().mean() < 0.01
    slope = torch.linspace(-0.9, 0.9, 240).expand(1, 3, 240, 240)
    inside = (..., slice(48, -48), slice(48, -48))
    torch.testing.assert_close(remove_grid(slope, period)[inside], slope[inside], atol=2e-3, rtol=0)


def test_what_is_smooth_stays_smooth():
    generator = torch.Generator().manual_seed(4)
    source = torch.cat([torch.full((1, 3, 64, 32), 0.2), 0.3 * torch.randn(1, 3, 64, 32, generator=generator)], 3)
    specks = 0.5 * (torch.rand(1, 1, 64, 64, generator=generator) < 0.02)
    drawn = (0.8 * source + specks).clamp(-1, 1)
    found = limit_detail(drawn, source)
    sky, rock = (..., slice(0, 22)), (..., slice(40, 64))
    assert (found - drawn)[rock].abs().max() < 1e-6  # texture is left, specks and all
    rough = [(x - x.mean((2, 3), keepdim=True))[sky].std() for x in (drawn, found)]
    assert rough[1] < 0.35 * rough[0]
    assert (found[sky].mean() - drawn[sky].mean()).abs() < 0.02
    # Detail as strong as in the image passes as it is, and so does what is no detail.
    torch.testing.assert_close(limit_detail(source, source), source)
    slope = torch.linspace(-0.9, 0.9, 64).expand(1, 3, 64, 64)
    torch.testing.assert_close(limit_detail(slope, slope * 0 + 0.1)[..., 10:-10], slope[..., 10:-10], atol=0.01, rtol=0)


def test_decoders_lose_their_grid():
    model = make_model(**SMALL).eval()
    decoder = model.decoders["b"]
    with torch.no_grad():
        decoder.tail.weight.mul_(0.3)
        decoder.tail.bias += torch.tensor([0.2, -0.2, -0.2, 0.2] * 3)  # a chessboard of single pixels
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = batches_of(lambda step: image(step), lambda step: image(100 + step))
    x, style = image(500), torch.tensor([means(model)["b"]])

    def strength():
        with torch.no_grad():
            y = model.translate(x, "a", "b", style)
        return float((y - remove_grid(y, 4)).abs().mean()), y

    had, drawn = strength()
    progress = list(polish(model, batches, means(model), steps=40, lr=3e-3))
    has, redrawn = strength()
    assert [p.step for p in progress] == list(range(1, 41))
    assert all(p.matching == 0 for p in progress)
    assert has < 0.4 * had
    assert progress[-1].kept < 0.5 * progress[0].kept
    assert (remove_grid(drawn, 4) - redrawn).abs().mean() < 0.5 * had  # what was drawn is kept
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("decoders.") for name in changed)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.usefixtures("few_statistics")
def test_features_come_to_those_of_real_images():
    model = make_model(**SMALL).eval()
    red = torch.tensor([0.5, -0.3, -0.3]).view(1, 3, 1, 1)
    batches = batches_of(lambda step: image(step), lambda step: (image(step) * 0.4 + red).clamp(-1, 1))
    features, x, style = Colours(), image(500), torch.tensor([means(model)["b"]])
    real = WholeImageDiscriminator.pooled([tap.log1p() for tap in features.taps(red + 0.4 * x)])

    def apart():
        with torch.no_grad():
            y = model.translate(x, "a", "b", style)
        seen = WholeImageDiscriminator.pooled([tap.log1p() for tap in features.taps(y)])
        return float((seen - real)[:, [0, 2, 4]].abs().mean())

    had = apart()
    last = [*polish(model, batches, means(model), steps=60, lr=3e-3, features=features, matching=2.0)][-1]
    assert last.matching > 0
    assert apart() < 0.6 * had


def pairs(x_nchw, style, size):
    return zip(x_nchw.split(size), style.split(size), strict=True)


def test_the_mean_of_many_is_followed_by_what_changed_in_a_few():
    generator = torch.Generator().manual_seed(3)
    real, drawn = (0.4 * torch.rand(40, 3, 32, 32, generator=generator) + shift for shift in (0.1, -0.3))
    style = torch.randn(40, 2, generator=generator)
    seen = FeatureStatistics(Colours(), pairs(real, style, 4))
    matching = FeatureMatching(seen, [seen.weighted(*part) for part in pairs(drawn, style, 8)], by_style=False)

    def apart(x_nchw):
        return float(torch.stack([rows.mean(0).square().mean() for rows in seen(x_nchw)]).mean())

    assert float(matching.distance) == pytest.approx(apart(drawn), rel=1e-4)
    few, of_few = drawn[:2], style[:2]
    assert apart(few) != pytest.approx(apart(drawn), rel=0.02)
    matching.loss(few, few, of_few)
    assert float(matching.distance) == pytest.approx(apart(drawn), rel=1e-4)  # nothing changed
    closer = (few + 0.1).requires_grad_(True)
    matching.loss(closer, few, of_few).backward()
    assert closer.grad.mean() < 0  # brighter would be closer still
    assert float(matching.distance) < 0.8 * apart(drawn)


def test_what_is_seen_shall_go_with_the_style_as_in_real_images():
    """Real images are the redder the larger the first number of their style; translations have the same mean."""
    generator = torch.Generator().manual_seed(5)
    style = torch.randn(60, 2, generator=generator).clamp(-1.5, 1.5)
    style -= style.mean(0)
    grain = 0.05 * torch.randn(60, 3, 16, 16, generator=generator)
    real = grain.clone()
    real[:, 0] += 0.2 * style[:, :1, None]
    seen = FeatureStatistics(Colours(), pairs(real, style, 6))
    found = {}
    for by_style in (False, True):
        matching = FeatureMatching(seen, [seen.weighted(grain, style)], by_style=by_style)
        y = grain.clone().requires_grad_(True)
        matching.loss(y, grain, style).backward()
        found[by_style] = -y.grad.mean((2, 3))  # where each colour is to go
    others = {by_style: wanted[:, 1:].abs().mean() for by_style, wanted in found.items()}
    wanted = found[True][:, 0]
    assert torch.corrcoef(torch.stack([wanted, style[:, 0]]))[0, 1] > 0.95
    assert wanted.abs().mean() > 5 * max(found[False][:, 0].abs().mean(), *others.values())
    redder = grain.clone()
    redder[:, 0] += 0.2 * style[:, :1, None]
    there = FeatureMatching(seen, [seen.weighted(redder, style)], by_style=True)
    assert float(there.loss(redder, redder, style)) == pytest.approx(0, abs=1e-6)


def test_the_lower_third_comes_to_that_of_real_images():
    """Two sets of images that are alike as a whole: the ones bright above, the others below."""
    grain = 0.02 * torch.randn(30, 3, 24, 24, generator=torch.Generator().manual_seed(7))
    slope = torch.linspace(-0.5, 0.5, 24)[:, None]
    style = torch.zeros(30, 2)
    seen = FeatureStatistics(Colours(), pairs(grain + slope, style, 6))
    matching = FeatureMatching(seen, [seen.weighted(grain - slope, style)], by_style=False)
    y = (grain - slope).requires_grad_(True)
    matching.loss(y, grain - slope, style).backward()
    above, middle, below = (part.mean() for part in (-y.grad).chunk(3, dim=2))
    assert below > 0 > above
    assert middle.abs() < 0.2 * min(below, -above)


@pytest.mark.usefixtures("few_statistics")
def test_only_the_decoder_that_is_asked_for_is_trained():
    found = {}
    for targets in (None, ["b"]):
        model = make_model(**SMALL).eval()
        before = copy.deepcopy(model.state_dict())
        batches = batches_of(image, lambda step: image(100 + step))
        list(polish(model, batches, means(model), steps=3, targets=targets, features=Colours()))
        found[targets is None] = model.decoders["b"].state_dict()
        changed = {name[:10] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == ({"decoders.a", "decoders.b"} if targets is None else {"decoders.b"})
    assert all(torch.equal(value, found[False][name]) for name, value in found[True].items())


def test_weights_that_are_not_finite_are_told():
    model = make_model(**SMALL).eval()
    batches = batches_of(image, image)
    with pytest.raises(DsmapError, match="not finite after step 1"):
        list(polish(model, batches, means(model), steps=1, lr=float("inf")))


def test_a_loss_that_is_not_finite_is_told():
    model = make_model(**SMALL).eval()
    batches = batches_of(lambda step: image(step) * float("nan"), lambda step: image(step))
    with pytest.raises(DsmapError, match="not finite at step 1"):
        list(polish(model, batches, means(model), steps=2))


def test_the_command(checkpoint, image_folder, tmp_path):
    given = "-o", tmp_path / "run", "--data", image_folder, "--steps", 3, "--batch-size", 1, "--device", "cpu"
    code, out, err = call(tool, checkpoint, *given, "--contrast", "winter:1.2", "--seed", "4")
    assert code == 0, err
    assert "step 3/3" in out
    found, source = read_checkpoint(find_checkpoint(tmp_path / "run")), read_checkpoint(checkpoint)
    assert (found.step, found.config.model.contrast) == (source.step + 3, (1.0, 1.2))
    assert found.polished == {
        "earlier": None, "to": None, "steps": 3,
        "batch_size": 1, "zoom": 1.0, "lr": 1e-4, "seed": 4, "features": None, "matching": 0.0, "default_style": {}
    }  # fmt: skip
    assert open_checkpoint(tmp_path / "run").provenance["polished"] == found.polished
    assert "polished" not in open_checkpoint(checkpoint).provenance
    # The order of the domains on the command line is not that of the network.
    folders = "--domain", f"winter={image_folder / 'trainB'}", "--domain", f"summer={image_folder / 'trainA'}"
    other = "--steps", 3, "--batch-size", 1, "--device", "cpu", "--contrast", "winter:1.2", "--seed", "4"
    code, _, err = call(tool, checkpoint, "-o", tmp_path / "turned", *folders, *other)
    assert code == 0, err
    turned = load_generators(read_checkpoint(tmp_path / "turned")).state_dict()
    ours, theirs = (load_generators(of).state_dict() for of in (found, source))
    assert {name.split(".")[0] for name in ours if not torch.equal(ours[name], theirs[name])} == {"decoders"}
    again = call(tool, checkpoint, "-o", tmp_path / "again", *given[2:], "--contrast", "winter:1.2", "--seed", "4")
    assert again[0] == 0
    repeated = load_generators(read_checkpoint(tmp_path / "again")).state_dict()
    assert all(torch.equal(value, repeated[name]) for name, value in ours.items())
    assert all(torch.equal(value, turned[name]) for name, value in ours.items())
    code, _, err = call(tool, checkpoint, "-o", tmp_path / "one", *given[2:], "--to", "winter")
    assert code == 0, err
    one = read_checkpoint(tmp_path / "one")
    other = load_generators(one).state_dict()
    assert {name[:10] for name, value in other.items() if not torch.equal(value, theirs[name])} == {"decoders.b"}
    assert one.polished is not None
    assert one.polished["to"] == "winter"
    code, _, err = call(tool, checkpoint, "-o", tmp_path / "near", *given[2:], "--to", "winter", "--zoom", "3")
    assert code == 0, err
    near = read_checkpoint(tmp_path / "near")
    assert near.polished == one.polished | {"zoom": 3.0}
    assert any(not torch.equal(value, other[name]) for name, value in load_generators(near).state_dict().items())
    with pytest.raises(InputError, match="was written by dsmap-polish"):
        check_resumable(found, found.config, tmp_path / "run")
    assert json.loads((find_checkpoint(tmp_path / "run") / "training.json").read_text())["polished"]["steps"] == 3


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (("--lr", "0"), "--lr is 0"),
        (("--to", "autumn"), "no domain named 'autumn'"),
        (("--lr", "inf"), "--lr is inf"),
        (("--matching", "1"), "--matching needs --features"),
        (("--matching", "nan", "--features", "f.npz"), "--matching is nan"),
        (("--contrast", ":1.2"), "--contrast names a domain ''"),
        (("--contrast", "1.1", "--contrast", "1.2"), "--contrast is given twice"),
        (("--contrast", "winter"), "--contrast 'winter' is not a number"),
        (("--features", "none.npz"), "none.npz"),
        (("--steps", "0"), "Invalid value for '--steps'"),
    ],
)
def test_wrong_input_is_told(given, fact, checkpoint, image_folder, tmp_path):
    code, _, err = call(tool, checkpoint, "-o", tmp_path / "run", "--data", image_folder, *given)
    assert code == 2
    assert fact in err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_work(checkpoint, image_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        code, text, err = call(tool, checkpoint, "-o", out, "--data", image_folder)
        assert (code, text) == (2, "")
        assert "is a file" in err
    assert (tmp_path / "file").read_text() == "mine"


def trained_at(side):
    data, discriminator = {"shorter_side": side, "crop": 16}, {"n_layers": 1}
    return TrainConfig(model=ModelConfig(patch=2, n_downsample=0), data=data, discriminator=discriminator)


@pytest.mark.parametrize(
    ("side", "features", "crop"), [(256, True, 224), (64, False, 56), (32, True, 32), (16, False, 16)]
)
def test_crops_are_as_large_as_the_networks_need(side, features, crop):
    assert crop_size(trained_at(side), features) == crop


def test_a_training_on_small_images_has_no_crop_for_features():
    with pytest.raises(InputError, match="expected at least 32"):
        crop_size(trained_at(28), True)


def test_broken_images_are_told(checkpoint, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmap.training.polish.STATISTICS_IMAGES", 24)
    data = shutil.copytree(image_folder, tmp_path / "data")
    next((data / "trainA").iterdir()).write_bytes(b"no image")
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    given = "--data", data, "--steps", 3, "--device", "cpu", "--features", tmp_path / "net.npz"
    code, out, err = call(tool, checkpoint, "-o", tmp_path / "run", *given)
    assert code == 0, err
    assert out.count("skipped a broken image") == 1  # though it is met again and again
    looks = [line for line in out.splitlines() if "what the feature network sees" in line]
    assert [line.split()[-2] for line in looks] == ["summer", "winter"]
    assert "these are not the images that it was trained on" in out


def test_the_default_style_may_be_that_of_chosen_images(checkpoint, image_folder, tmp_path):
    chosen = tmp_path / "snowy"
    chosen.mkdir()
    for path in sorted((image_folder / "trainB").iterdir())[:2]:
        shutil.copy(path, chosen)
    common = "--data", image_folder, "--default-style", f"winter={chosen}"
    code, out, err = call(tool, checkpoint, "-o", tmp_path / "run", *common, "--steps", 1, "--device", "cpu")
    assert code == 0, err
    assert "3 images of summer and 2 images of winter" in out
    found, model = read_checkpoint(tmp_path / "run"), load_generators(read_checkpoint(tmp_path / "run"))
    side = found.config.data.shorter_side
    of_two = style_statistics(model, "winter", sorted(chosen.iterdir()), side)
    of_all = style_statistics(model, "winter", sorted((image_folder / "trainB").iterdir()), side)
    assert found.styles["winter"].mean == pytest.approx(of_two.mean, abs=1e-5)
    assert np.abs(np.subtract(of_two.mean, of_all.mean)).max() > 1e-4
    assert found.polished is not None
    assert found.polished["default_style"] == {"winter": "snowy"}
    # An export has those of the checkpoint, with --data those of all, and what it is told in place of both.
    assert open_checkpoint(tmp_path / "run").styles["winter"].mean == found.styles["winter"].mean
    with_data = open_checkpoint(tmp_path / "run", data=image_folder)
    assert with_data.styles["winter"].mean == pytest.approx(of_all.mean, abs=1e-5)
    code, _, err = call(export, tmp_path / "run", "-o", tmp_path / "bundle", *common)
    assert code == 0, err
    assert read_manifest(tmp_path / "bundle").styles["winter"].mean == pytest.approx(of_two.mean, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "fact"),
    [
        (["snowy"], "is not DOMAIN=FOLDER"),
        (["winter=nowhere"], "there is no folder nowhere"),
        (["autumn=."], "names a domain 'autumn'"),
        (["winter=.", "winter=."], "is given twice for winter"),
        (["winter=."], "only 0 readable images of winter"),
    ],
)
@pytest.mark.parametrize("command", [tool, export])
def test_a_default_style_that_is_none_is_told(command, texts, fact, checkpoint, image_folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given = [part for text in texts for part in ("--default-style", text)]
    code, _, err = call(command, checkpoint, "-o", tmp_path / "new", "--data", image_folder, *given)
    assert (code, len(err.splitlines())) == (2, 2)
    assert fact in err
    assert not (tmp_path / "new").exists()


def test_what_is_there_stays(checkpoint, image_folder):
    code, _, err = call(tool, checkpoint, "-o", checkpoint, "--data", image_folder)
    assert code == 2
    assert "exists and is not empty" in err
    code, _, err = call(tool, checkpoint, "-o", checkpoint.parent / "new")
    assert (code, err.splitlines()[0]) == (2, "error: no images were passed")
