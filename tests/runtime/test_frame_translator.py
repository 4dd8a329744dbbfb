"""Wrappers of translators compose, and a plain function is adapted."""

from pathlib import Path

import numpy as np
import pytest

from dsmap.errors import InputError
from dsmap.runtime import Stabilizer, Translator
from dsmap.runtime.frame_translator import (
    FIRST_FRAME,
    ClipTime,
    FrameTranslator,
    FunctionTranslator,
    TranslatorWrapper,
    as_frame_translator,
)
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.stabilization.stabilizer import StabilizedTranslator
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.styles.style_path import StyleFade, StylePathTranslator


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def translator(tiny_bundle: Path) -> Translator:
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


class Recorder(FrameTranslator):
    """Records its calls."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.in_flight = 3

    def submit(self, frames_rgb, style=None, at=FIRST_FRAME):
        self.calls.append((None if style is None else style.tolist(), at))
        return lambda: frames_rgb

    def start_clip(self, first_rgb=None):
        self.calls.append("clip" if first_rgb is None else "later")

    def check_size(self, height, width, batch=1):
        self.calls.append((height, width, batch))

    def cancel(self):
        self.calls.append("cancel")

    def close(self):
        self.calls.append("close")


def test_a_wrapper_passes_everything_on():
    inner = Recorder()
    whole = StabilizedTranslator(TranslatorWrapper(inner), Stabilizer())
    steps = FrameSteps(whole, 40, 32)
    steps.begin_later(frame())
    steps.begin(frame(), ClipTime(2.0, 0.5))()
    whole.check_size(32, 40)
    whole.cancel()
    whole.close()
    assert inner.calls == ["clip", "later", (None, (2.0, 0.5)), (32, 40, 1), "cancel", "close"]
    assert (steps.in_flight, whole.keeps_frames) == (3, False)


def test_a_style_path_goes_by_the_time_and_a_given_style_wins():
    inner = Recorder()
    fade = StyleFade(np.zeros(2), np.full(2, 4.0), seconds=8)
    whole = StylePathTranslator(inner, fade)
    whole.submit(frame(), at=ClipTime(2.0))
    whole.submit(frame(), at=ClipTime(2.0, 1.0))
    whole.submit(frame(), np.ones(2, np.float32), ClipTime(2.0))
    whole(frame())
    assert [style for style, _ in inner.calls] == [[1, 1], [4, 4], [1, 1], [0, 0]]


def test_strength_style_path_and_stabilizer_compose(translator):
    fade = StyleFade(translator.find_style(1), translator.find_style(2))
    frames = [frame(seed) for seed in range(3)]
    whole = StabilizedTranslator(StylePathTranslator(StrengthTranslator(translator, 0.5), fade), Stabilizer())
    weak, stabilizer = StrengthTranslator(translator, 0.5), Stabilizer()
    whole.start_clip()
    for number, rgb in enumerate(frames):
        got = whole.finish(rgb, whole.submit(rgb, at=ClipTime(0, number / 2))())
        np.testing.assert_array_equal(got, stabilizer(rgb, weak.submit(rgb, fade(0, number / 2))()))


def test_the_stabilizer_and_the_source_style_restart_with_a_clip(translator):
    whole = StabilizedTranslator(StrengthTranslator(translator, 0), Stabilizer())
    whole.start_clip()
    first = whole(frame(1))
    whole(frame(2))
    whole.start_clip()
    np.testing.assert_array_equal(whole(frame(1)), first)
    whole.start_clip(frame(1))
    np.testing.assert_array_equal(whole(frame(1)), first)


def test_a_function_is_adapted_and_a_translator_is_not(translator):
    function = as_frame_translator(lambda rgb: 255 - rgb)
    assert isinstance(function, FunctionTranslator)
    assert (function.in_flight, function.keeps_frames) == (1, True)
    np.testing.assert_array_equal(function(frame()), 255 - frame())
    steps = FrameSteps(function, 40, 32, side_by_side=True)
    np.testing.assert_array_equal(steps.finish(frame(), steps.begin(frame())())[:, 40:], 255 - frame())
    steps.cancel()
    assert as_frame_translator(translator) is translator
    with pytest.raises(InputError, match="object is neither a FrameTranslator nor a function"):
        as_frame_translator(object())
    assert not translator.keeps_frames
