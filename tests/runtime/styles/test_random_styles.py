"""Random styles: what a seed draws, from bundles with and without principal axes, and the option --style-spread."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.export.request import UpdateRequest
from dsmap.export.run import update_bundle
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.bundle.manifest import MANIFEST, Style, read_manifest
from dsmap.runtime.styles.random_styles import random_code
from dsmap.runtime.styles.resolver import StyleResolver
from dsmap.tools import export
from dsmap.training.style_statistics import statistics_of_codes


def style(axes: np.ndarray | None = None, **fields) -> Style:
    given = {"mean": [1.0, -2.0, 0.5], "std": [0.1, 0.2, 0.3], "pictures": 9}
    return Style(**given | fields, axes=[] if axes is None else axes.tolist())


def test_a_seed_is_one_style_for_ever():
    """Expected: `torch.special.ndtri` of SplitMix64's outputs, between its `ndtr` of -2 and 2."""
    unit = style(mean=[0.0] * 3, std=[1.0] * 3)
    assert random_code(unit, 0) == pytest.approx([1.1070788, -0.1645642, -1.6647516], abs=1e-6)
    assert random_code(unit, 7) == pytest.approx([-0.2667196, -1.7650872, 1.1877090], abs=1e-6)
    assert np.array_equal(random_code(unit, 7), random_code(unit, 7 + (1 << 64)))


def test_draws_have_the_covariance_of_the_codes():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((200, 2)) @ [[0.5, 0.4, 0.0], [0.0, 0.1, 0.3]] + [1, 2, 3]
    found = statistics_of_codes(list(torch.tensor(codes, dtype=torch.float32)), "winter")
    assert len(found.axes) == 3
    axes = np.array(found.axes)
    assert np.allclose(axes.T @ axes, np.cov(codes.T), atol=1e-4)
    assert np.linalg.norm(axes, axis=1).tolist() == sorted(np.linalg.norm(axes, axis=1), reverse=True)
    drawn = np.array([random_code(Style(**found._asdict()), seed) for seed in range(3000)])
    # Cut at two deviations, a normal distribution has 0.774 of its variance.
    assert np.allclose(np.cov(drawn.T), 0.774 * np.cov(codes.T), atol=0.01)
    assert np.allclose(drawn.mean(0), found.mean, atol=0.02)
    along = (drawn - found.mean) @ np.linalg.pinv(axes[:2])
    assert 1.9 < np.abs(along).max() <= 2.0001


def test_codes_that_are_not_finite_are_refused():
    with pytest.raises(DsmapError, match="gives codes that are not finite"):
        statistics_of_codes([torch.ones(3), torch.full((3,), torch.nan)], "winter")


def test_few_images_give_few_axes():
    codes = [torch.tensor([float(i), 0.0, 1.0, 2.0]) for i in range(3)]
    assert len(statistics_of_codes(codes, "a").axes) == 2


def test_without_axes_components_are_independent():
    drawn = np.array([random_code(style(), seed) for seed in range(2000)])
    assert np.abs(drawn - [1.0, -2.0, 0.5]).max(0) == pytest.approx([0.2, 0.4, 0.6], rel=0.05)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.1


def test_the_spread_is_a_factor(tiny_bundle):
    manifest = read_manifest(tiny_bundle)
    mean = manifest.styles["winter"].mean
    once, twice = (StyleResolver(manifest, "winter", spread).resolve(7).code for spread in (1.0, 2.0))
    assert twice - mean == pytest.approx(2 * (once - mean), rel=1e-5)
    assert StyleResolver(manifest, "winter", 0.0).resolve(7).code == pytest.approx(mean)
    for wrong in (-0.1, 11, float("nan")):
        with pytest.raises(InputError, match="the spread of random styles is"):
            StyleResolver(manifest, "winter", wrong)
    translator = Translator.load(tiny_bundle, domain="winter", style=7, style_spread=2.0)
    assert np.array_equal(translator.style, twice)


def test_a_random_style_is_of_one_domain(tiny_bundle):
    manifest = read_manifest(tiny_bundle)
    summer, winter = (StyleResolver(manifest, domain).resolve("seed:3") for domain in ("summer", "winter"))
    assert not np.array_equal(summer.code, winter.code)
    with pytest.raises(InputError, match="the style seed:3 is of summer"):
        StyleResolver(manifest, "winter").resolve(summer)


def test_the_bundled_model_draws_near_its_images():
    manifest = read_manifest(find_model("summer-winter"))
    for domain, of_domain in manifest.styles.items():
        assert len(of_domain.axes) == manifest.style_dim
        codes = np.array([StyleResolver(manifest, domain).resolve(seed).code for seed in range(48)])
        assert np.linalg.norm(codes - of_domain.mean, axis=1).max() < 1


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (72, 72, 3), np.uint8)
        write_rgb(folder / f"{number}.png", pixels)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_bundle_gets_the_styles_of_images(tiny_bundle, photos, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_bundle, model)
    before = json.loads((model / MANIFEST).read_text())
    result = update_bundle(UpdateRequest(bundle=model, default_styles={"winter": photos}, overwrite=True))
    translator = Translator.load(model, domain="winter", precision="fp32", backend="cpu")
    codes = np.array([translator.find_style(photos / f"{number}.png") for number in range(4)])
    found = Bundle.read(model).manifest.styles["winter"]
    assert found.pictures == result.default_styles["winter"].pictures == 4
    assert found.mean == pytest.approx(codes.mean(0), abs=1e-5)
    axes = np.array(found.axes)
    assert axes.T @ axes == pytest.approx(np.cov(codes.T), abs=1e-5)
    after = json.loads((model / MANIFEST).read_text())
    assert after["styles"]["summer"] == before["styles"]["summer"]
    assert after["styles"]["winter"].get("named") == before["styles"]["winter"].get("named")


def test_a_default_style_is_not_replaced_by_mistake(tiny_bundle, photos, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_bundle, model)
    before = (model / MANIFEST).read_bytes()
    code, _, err = call(export, model, "--default-style", f"winter={photos}")
    assert (code, "has a default style already" in err) == (2, True), err
    code, _, err = call(export, model, "--default-style", f"autumn={photos}", "--overwrite")
    assert (code, "--default-style names a domain 'autumn'" in err) == (2, True), err
    (tmp_path / "empty").mkdir()
    shutil.copy(photos / "broken.png", tmp_path / "empty")
    code, _, err = call(export, model, "--default-style", f"winter={tmp_path / 'empty'}", "--overwrite")
    assert (code, "only 0 readable images of winter" in err) == (2, True), err
    assert (model / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([[1.0, 2.0]], "a style does not have 3 numbers"),
        ([[1.0, 2.0, float("inf")]], "styles.winter.axes"),
        ([[0.0] * 3] * 65, "styles.winter.axes"),
        ("x", "styles.winter.axes"),
    ],
    ids=["short", "infinite", "many", "text"],
)
def test_odd_axes_are_refused(axes, words, tiny_bundle, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_bundle, model)
    tree = json.loads((model / MANIFEST).read_text())
    tree["styles"]["winter"]["axes"] = axes
    (model / MANIFEST).write_text(json.dumps(tree).replace("Infinity", "1e999"))
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        read_manifest(model)
