"""The stabilizer: less flicker, no trails, nothing kept that is over."""

import cv2
import numpy as np
import pytest

from dsmap.errors import InputError
from dsmap.runtime.stabilization.flicker import FlickerMeter
from dsmap.runtime.stabilization.stabilizer import Stabilizer

HEIGHT, WIDTH = 72, 96
RGB = np.ndarray


def texture(height: int, width: int, low: float, high: float, seed: int) -> RGB:
    """Soft random colours, float32 (H, W, 3)."""
    coarse = np.random.default_rng(seed).random((height // 3 + 2, width // 3 + 2, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * (high - low) + low


def whole(image: RGB) -> RGB:
    return image.round().clip(0, 255).astype(np.uint8)


def moving_clip(frames: int, step: int = 2, noise: float = 0, background: RGB | None = None) -> list[tuple[RGB, RGB]]:
    """A bright square over a dark background: (frame, its negative with noise as the translation), x by x."""
    random = np.random.default_rng(1)
    behind = texture(HEIGHT, WIDTH, 60, 100, 2) if background is None else background
    square = texture(28, 28, 180, 240, 3)
    pairs = []
    for number in range(frames):
        image, x = behind.copy(), 6 + step * number
        image[20:48, x : x + 28] = square
        pairs.append((whole(image), whole(255 - image + random.normal(0, noise, image.shape))))
    return pairs


def panned_clip(frames: int, step: int, noise: float) -> list[tuple[RGB, RGB]]:
    """The camera turns over a pattern."""
    random, scene = np.random.default_rng(1), texture(HEIGHT, WIDTH + step * frames, 60, 200, 4)
    views = [scene[:, step * number : step * number + WIDTH] for number in range(frames)]
    return [(whole(view), whole(255 - view + random.normal(0, noise, view.shape))) for view in views]


def stabilized(pairs: list[tuple[RGB, RGB]], **options: float) -> list[RGB]:
    stabilizer = Stabilizer(**options)
    return [stabilizer(*pair) for pair in pairs]


def flicker(pairs: list[tuple[RGB, RGB]], outputs: list[RGB]) -> float:
    meter = FlickerMeter()
    for (frame, _), output in zip(pairs, outputs, strict=True):
        meter.add(frame, output)
    return meter.result().flicker


@pytest.mark.parametrize("pairs", [moving_clip(12, noise=6), panned_clip(12, 3, noise=6)], ids=["square", "pan"])
def test_noise_in_a_moving_scene_becomes_half_or_less(pairs):
    before = flicker(pairs, [output for _, output in pairs])
    after = flicker(pairs, stabilized(pairs))
    weaker = flicker(pairs, stabilized(pairs, strength=0.4))
    assert before > 4
    assert after < 0.5 * before
    assert after < weaker < before


@pytest.mark.parametrize("step", [2, 6])
def test_a_square_that_moves_on_leaves_no_trail(step):
    """It differs from the background by about 130 levels: what comes out behind it must not be seen to."""
    background = np.full((HEIGHT, WIDTH, 3), 80, np.float32)
    outputs = stabilized(moving_clip(8, step, background=background))
    for number, output in enumerate(outputs):
        behind = output[20:48, : 6 + step * number].astype(int)
        assert np.abs(behind - (255 - 80)).max() <= 12


def test_a_square_over_a_pattern_leaves_no_trail():
    pairs = moving_clip(8, 4)
    for number, ((_, clean), output) in enumerate(zip(pairs, stabilized(pairs), strict=True)):
        x = 6 + 4 * number
        off = cv2.blur(np.abs(output.astype(np.float32) - clean), (5, 5))
        assert off[20:48, :x].max(initial=0) <= 16  # of levels; the square is 130 away


def test_what_the_translation_changes_at_once_shows_at_once():
    """Where the input stands still and trust is full, what is over must not fade out slowly."""
    frame = whole(texture(HEIGHT, WIDTH, 60, 100, 2))
    before, after = np.full_like(frame, 60), np.full_like(frame, 60)
    before[20:50, 20:50] = 220
    result = stabilized([(frame, before)] * 4 + [(frame, after)] * 2)
    np.testing.assert_array_equal(result[3], before)
    assert result[4].max() <= 68
    assert result[5].max() < result[4].max()


def test_nothing_moves_and_nothing_flickers_then_nothing_changes():
    frame, output = moving_clip(1)[0]
    for stable in stabilized([(frame, output)] * 5):
        np.testing.assert_array_equal(stable, output)


def test_a_slow_change_of_light_is_followed_to_the_last_level():
    """8-bit memory would stay a few levels away forever."""
    frame, output = moving_clip(1)[0]
    darker = [whole(frame - 0.5 * min(number, 20)) for number in range(45)]
    lighter = [whole(output + 0.5 * min(number, 20)) for number in range(45)]
    result = stabilized(list(zip(darker, lighter, strict=True)))
    behind = [float(np.mean(a.astype(int) - b)) for a, b in zip(lighter, result, strict=True)]
    assert max(behind) < 2.5  # 0.5 a frame, 4 frames late, and rounding
    np.testing.assert_array_equal(result[-1], lighter[-1])


def test_colours_do_not_drift():
    pairs = moving_clip(30, step=0, noise=6)
    means = [np.mean(output, axis=(0, 1)) for output in stabilized(pairs)]
    clean = np.mean(255 - pairs[0][0].astype(np.float32), axis=(0, 1))
    assert np.abs(np.array(means) - clean).max() < 0.5


def test_the_flicker_of_whole_frames_becomes_less():
    frame, output = moving_clip(1)[0]
    pairs = [(frame, whole(output + (5.0 if number % 2 else -5.0))) for number in range(20)]
    means = [float(np.mean(image)) for image in stabilized(pairs)]
    assert np.abs(np.diff(means[8:])).max() < 3  # 10 before


def test_a_cut_drops_the_history():
    stabilizer = Stabilizer()
    one, other = moving_clip(4, noise=4), [(whole(texture(HEIGHT, WIDTH, 0, 255, 9)),) * 2] * 2
    for pair in one:
        stabilizer(*pair)
    assert stabilizer.cuts == 0
    np.testing.assert_array_equal(stabilizer(*other[0]), other[0][1])
    assert stabilizer.cuts == 1
    stabilizer(*other[1])
    assert stabilizer.cuts == 1


def test_another_size_and_a_reset_drop_the_history():
    stabilizer, (first, second) = Stabilizer(), moving_clip(2, noise=6)
    stabilizer(*first)
    smaller = np.ascontiguousarray(second[0][:40, :50]), np.ascontiguousarray(second[1][:40, :50])
    np.testing.assert_array_equal(stabilizer(*smaller), smaller[1])
    stabilizer(*first)
    stabilizer.reset()
    np.testing.assert_array_equal(stabilizer(*second), second[1])


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 5), (17, 23), (300, 40)])
def test_any_size_of_frame(size):
    stabilizer = Stabilizer()
    for seed in range(3):
        image = whole(texture(*size, 0, 255, seed // 2))
        assert stabilizer(image, 255 - image).shape == (*size, 3)


def test_frames_are_neither_kept_nor_changed():
    pairs, buffer, stabilizer = moving_clip(4, noise=6), np.empty((2, HEIGHT, WIDTH, 3), np.uint8), Stabilizer()
    expected = stabilized(pairs)
    for pair, wanted in zip(pairs, expected, strict=True):
        buffer[0], buffer[1] = pair  # the same memory for every frame, as a pipeline may have it
        np.testing.assert_array_equal(stabilizer(buffer[0], buffer[1]), wanted)
        np.testing.assert_array_equal(buffer, np.stack(pair))
        buffer[:] = 77


def test_strength_0_is_off():
    for (_, output), stable in zip((pairs := moving_clip(3, noise=6)), stabilized(pairs, strength=0), strict=True):
        np.testing.assert_array_equal(stable, output)


@pytest.mark.parametrize("strength", [-0.1, 0.96, 1.0, float("nan")])
def test_a_strength_that_would_keep_all_is_refused(strength):
    with pytest.raises(InputError, match="the stabilizer's strength is"):
        Stabilizer(strength)


@pytest.mark.parametrize(
    ("frame", "output", "fact"),
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), r"\(8, 8, 3\) and its translation \(8, 9, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32), "got float32"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), r"got uint8 \(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), np.zeros((0, 8, 3), np.uint8), r"got uint8 \(0, 8, 3\)"),
    ],
)
def test_what_is_no_pair_of_frames_is_refused(frame, output, fact):
    with pytest.raises(InputError, match=fact):
        Stabilizer()(frame, output)
