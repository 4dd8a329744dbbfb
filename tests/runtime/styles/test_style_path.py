"""Styles over time."""

import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.styles.resolver import StyleResolver
from dsmap.runtime.styles.style_path import StyleCycle, StyleFade, plan_style_path, share_of_clip

A, B, C = (np.random.default_rng(seed).standard_normal(8).astype(np.float32) for seed in range(3))


def frame(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def translator(tiny_bundle) -> Translator:
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


@pytest.fixture(scope="module")
def styles(tiny_bundle) -> StyleResolver:
    return StyleResolver(Bundle.open(tiny_bundle).manifest, "winter")


def test_a_fade_begins_and_ends_exactly_and_goes_straight():
    fade = StyleFade(A, B)
    np.testing.assert_array_equal(fade(0, share_of_clip(0, 0.8, 0.04)), A)
    np.testing.assert_array_equal(fade(9, share_of_clip(19 * 0.04, 0.8, 0.04)), B)
    np.testing.assert_allclose(fade(0, 0.25), 0.75 * A + 0.25 * B, rtol=1e-6)
    steps = np.diff([fade(0, share_of_clip(number * 0.04, 0.8, 0.04)) for number in range(20)], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to((B - A) / 19, steps.shape), atol=1e-6)
    assert fade(0, 0.3).dtype == np.float32


def test_a_fade_of_unknown_length_takes_its_seconds_and_stays():
    fade = StyleFade(A, B, seconds=4)
    np.testing.assert_allclose(fade(1), 0.75 * A + 0.25 * B, rtol=1e-6)
    np.testing.assert_array_equal(fade(4.0), B)
    np.testing.assert_array_equal(fade(100.0), B)


def test_share_of_clips_of_any_length():
    assert share_of_clip(5, None, 0.04) is None
    assert share_of_clip(0, 0.04, 0.04) == 0
    assert share_of_clip(25, 20, 0.04) == 1  # longer than a container promised


def test_a_cycle_visits_all_in_turn_and_closes():
    cycle = StyleCycle([A, B, C], seconds=6)
    for seconds, code in ((0, A), (2, B), (4, C), (6, A), (8, B), (6000, A)):
        np.testing.assert_allclose(cycle(seconds), code, atol=1e-6)
    np.testing.assert_allclose(cycle(3), (B + C) / 2, atol=1e-6)
    np.testing.assert_allclose(cycle(5), (C + A) / 2, atol=1e-6)
    np.testing.assert_array_equal(cycle(1.3, 0.9), cycle(1.3))


def test_a_cycle_has_no_jump_and_no_kink():
    cycle = StyleCycle([A, B, C], seconds=6)
    codes = np.array([cycle(seconds) for seconds in np.linspace(0, 12, 1201)])
    speed = np.diff(codes, axis=0)
    assert np.abs(speed).max() < 0.05
    assert np.abs(np.diff(speed, axis=0)).max() < 0.001


def test_styles_are_read_as_written(styles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("snow.png", "7", "a,b.png"):
        image = tmp_path / (name if name != "7" else "seven.png")
        write_rgb(image, frame())
    (tmp_path / "seven.png").rename(tmp_path / "7")
    assert styles.resolve("mean").source is None
    assert styles.resolve("seed:12").source == 12
    assert styles.resolve("7").source == 7
    assert str(styles.resolve("snow.png").source) == "snow.png"
    assert str(styles.resolve("./7").source) == "7"
    plan = plan_style_path(styles, cycle=["mean, seed:3", "a,b.png"], seconds=4)
    assert plan is not None
    assert plan.names == ("mean", "seed:3", "a,b.png")
    assert [str(path) for path in plan.images()] == ["a,b.png"]
    assert str(plan) == "mean, seed:3, a,b.png in turn, 4 s a round"


@pytest.mark.parametrize(
    "text", ["seed:", "seed:-1", "seed:x", "-3", "seed:seed:3", "gone.png", "", "x" * 5000, "9" * 5000, "a\0b"]
)
def test_an_invalid_style_names_its_option(styles, text):
    with pytest.raises(InputError) as caught:
        styles.resolve(text, "--style-to")
    assert caught.value.fact.startswith("--style-to")


def test_an_image_that_cannot_be_read_is_reported_before_the_model_loads(styles, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="--style-from: "):
        plan_style_path(styles, style_from=str(tmp_path / "text.png"), style_to="mean")


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"style_from": "mean"}, "--style-to is missing"),
        ({"style_to": "mean"}, "--style-from is missing"),
        ({"cycle": ["1,2"], "style_to": "mean"}, "--style-cycle cannot be used with"),
        ({"cycle": ["1"]}, "--style-cycle has one style: 1"),
        ({"cycle": ["1,,2"]}, "--style-cycle is empty"),
        ({"cycle": ["1,2"], "seconds": 0.0}, "--style-period is 0 seconds"),
        ({"cycle": ["1,2"], "seconds": float("nan")}, "--style-period is nan seconds"),
        ({"seconds": 3.0}, "--style-period needs a style over time"),
    ],
)
def test_options_that_do_not_fit_are_refused(styles, options, fact):
    with pytest.raises(InputError, match=fact):
        plan_style_path(styles, **options)


def test_no_option_is_no_path(styles):
    assert plan_style_path(styles) is None


def test_a_path_through_a_real_model(translator, tmp_path):
    write_rgb(tmp_path / "snow.png", frame(40, 40, 5))
    plan = plan_style_path(translator.style_resolver, style_from=str(tmp_path / "snow.png"), style_to="seed:4")
    assert plan is not None
    path = plan.load(translator.find_style)
    ends = [translator.submit(frame(), path(0, share))() for share in (0.0, 0.5, 1.0)]
    before = translator(frame())
    translator.set_style(tmp_path / "snow.png")
    np.testing.assert_array_equal(translator(frame()), ends[0])
    translator.set_style(4)
    np.testing.assert_array_equal(translator(frame()), ends[2])
    translator.set_style(None)
    np.testing.assert_array_equal(translator(frame()), before)
    assert len({end.tobytes() for end in ends}) == 3
