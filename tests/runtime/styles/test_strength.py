"""The strength of a translation."""

import numpy as np
import pytest
import torch

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.styles.strength import StrengthTranslator

CODE = np.random.default_rng(0).standard_normal(3).astype(np.float32)


def frame(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def translator(tiny_bundle) -> Translator:
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


@torch.no_grad()
def rebuilt_by_torch(model, frame_rgb: np.ndarray, style_from: np.ndarray) -> np.ndarray:
    """G_A(Phi_A(c_a), s_a)."""

    def tensor(rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]

    style = model.encode_style(tensor(style_from), "summer")
    y_nchw = model.decode(model.map(model.encode(tensor(frame_rgb), "summer"), "summer"), style, "summer")
    return ((y_nchw[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()


def strong(bundle, strength: float, backend: str = "cpu", frames_at_once: int = 1) -> StrengthTranslator:
    loaded = Translator.load(bundle, domain="winter", backend=backend, threads=1, frames_at_once=frames_at_once)
    return StrengthTranslator(loaded, strength)


@pytest.mark.parametrize("backend", ["cpu", "openvino", "torch"])
def test_strength_0_is_the_reconstruction_of_torch(tiny_bundle, tiny_model, backend):
    nothing = strong(tiny_bundle, 0, backend)
    inner = nothing.translator
    assert (inner.source, inner.target, inner.backend_name) == ("summer", "winter", backend)
    for seed in (0, 1):  # the style is that of the first frame throughout
        expected = rebuilt_by_torch(tiny_model, frame(64, 64, seed), frame(64, 64, 0))
        assert np.abs(nothing(frame(64, 64, seed)) - expected).max() <= 1
    nothing.start_clip()
    expected = rebuilt_by_torch(tiny_model, frame(64, 64, 1), frame(64, 64, 1))
    assert np.abs(nothing(frame(64, 64, 1)) - expected).max() <= 1
    nothing.close()


def test_where_one_direction_fails_the_other_one_is_waited_for(tiny_bundle, monkeypatch):
    """A backend with a place for each frame under way would have one less."""
    mixed, waited = strong(tiny_bundle, 0.5), []

    def fail(*_given, **_options):
        raise DsmapError("the device fell off", "Look for it.")

    monkeypatch.setattr(mixed._rebuilder, "submit", lambda *_given: fail)
    monkeypatch.setattr(mixed.translator, "submit", lambda *_given: lambda: waited.append("translation"))
    with pytest.raises(DsmapError, match="fell off"):
        mixed.submit(frame())()
    monkeypatch.setattr(mixed._rebuilder, "submit", lambda *_given: lambda: waited.append("reconstruction"))
    monkeypatch.setattr(mixed.translator, "submit", fail)
    with pytest.raises(DsmapError, match="fell off"):
        mixed.submit(frame())
    assert waited == ["translation", "reconstruction"]
    mixed.close()


def test_strength_1_is_the_translation_and_loads_nothing_else(tiny_bundle, translator):
    whole = strong(tiny_bundle, 1)
    np.testing.assert_array_equal(whole(frame()), translator(frame()))
    np.testing.assert_array_equal(whole.submit(frame(), CODE)(), translator.submit(frame(), CODE)())
    assert whole.source_style is None
    assert whole._rebuilder is None


def test_strength_between_mixes_the_two(tiny_bundle, translator):
    some, nothing = strong(tiny_bundle, 0.3, frames_at_once=2), strong(tiny_bundle, 0)
    batch = np.stack([frame(20, 28, seed) for seed in range(2)])
    expected = 0.3 * translator(batch).astype(float) + 0.7 * nothing(batch)
    waiting = [some.submit(batch), some.submit(batch)]
    assert some.in_flight == 3
    for wait in waiting:
        assert np.abs(wait() - expected).max() <= 1  # threads add up in another order
    assert np.abs(some(batch[0]) - expected[0]).max() <= 1
    some.check_size(20, 28)
    some.cancel()
    some.close()


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan")])
def test_a_strength_outside_is_refused(translator, strength):
    with pytest.raises(InputError, match="the strength is"):
        StrengthTranslator(translator, strength)


def test_a_source_that_the_model_does_not_have_is_refused(tiny_bundle):
    with pytest.raises(InputError, match="autumn"):
        Translator(Bundle.read(tiny_bundle), "winter", "cpu", None, BackendSettings(source="autumn"))
