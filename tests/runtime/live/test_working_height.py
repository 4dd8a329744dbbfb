"""The height at which a live session translates."""

import numpy as np
import pytest

from dsmap.runtime.live.working_height import HEIGHTS, FoundHeight, WorkingHeight, heights_up_to, largest_fast_enough


class Machine:
    """Takes time by the pixels, more for each above a number that its caches hold."""

    def __init__(self, pixels_a_second: float, cached: float = 1e9) -> None:
        self.now = 0.0
        self.seen: list[int] = []
        self._speed, self._cached = pixels_a_second, cached

    def clock(self) -> float:
        return self.now

    def seconds(self, lines: int) -> float:
        pixels = lines * round(lines * 4 / 3)
        return (pixels + max(0, pixels - self._cached)) / self._speed

    def translate(self, rgb: np.ndarray) -> None:
        self.seen.append(rgb.shape[0])
        self.now += self.seconds(rgb.shape[0])

    def choose(self, lines: int, fps: float) -> FoundHeight:
        frame = np.zeros((lines, round(lines * 4 / 3), 3), np.uint8)
        return largest_fast_enough(frame, self.translate, fps, self.clock)


@pytest.mark.parametrize("cached", [1e9, 200_000, 60_000, 1])
@pytest.mark.parametrize("speed", [5e5, 1e6, 4e6, 2e7])
@pytest.mark.parametrize("fps", [5, 15, 30])
def test_the_largest_height_that_is_fast_enough(speed, cached, fps):
    machine = Machine(speed, cached)
    found = machine.choose(720, fps)
    fast = [lines for lines in heights_up_to(720) if machine.seconds(lines) * fps * 1.1 <= 1]
    assert found.fast_enough == bool(fast)
    assert (found.height or 720) == (fast[-1] if fast else HEIGHTS[0])
    assert machine.now < 2 + 2 * machine.seconds(720)


def test_as_few_heights_as_needed_are_measured():
    machine = Machine(1e5)
    assert machine.choose(1080, 15) == (96, False)
    assert machine.seen == [96, 96]
    machine = Machine(3e8)
    assert machine.choose(1080, 15) == (None, True)
    assert machine.seen == [96, 96, 1080, 1080]
    machine = Machine(1e7, cached=60_000)
    assert machine.choose(720, 15) == (432, True)
    assert len(machine.seen) <= 10


def test_two_seconds_are_enough():
    machine = Machine(3e5)
    assert machine.choose(2160, 0.1) == (1080, True)


def test_small_frames_stay_as_they_are():
    assert Machine(1).choose(90, 15) == (None, False)


def test_keys_go_up_and_down():
    frame = np.zeros((480, 640, 3), np.uint8)
    height = WorkingHeight()
    assert height.step(1) is None
    assert height.of(frame, lambda _rgb: None) is None
    assert [height.step(-1) for _ in range(9)] == [432, 360, 288, 240, 192, 144, 120, 96, 96]
    assert [height.step(1) for _ in range(9)] == [120, 144, 192, 240, 288, 360, 432, 480, 480]
    assert (height.of(frame, lambda _rgb: None), height.found) == (480, None)


def test_it_is_chosen_once():
    frame, seen = np.zeros((240, 320, 3), np.uint8), []
    height = WorkingHeight(target_fps=1)
    assert height.of(frame, lambda rgb: seen.append(rgb.shape[0])) is None
    assert seen == [96, 96, 240, 240]
    assert height.of(frame, seen.append) is None
    assert len(seen) == 4
    given = WorkingHeight(200, target_fps=1)
    assert (given.of(frame, seen.append), len(seen)) == (200, 4)


def test_the_end_of_a_session_names_no_height_that_is_not_offered():
    from dsmap.tools.live import _limit_line

    assert _limit_line(256, 144) == "the model is the limit at 256x144; a smaller --height makes it faster"
    assert "--height" not in _limit_line(170, HEIGHTS[0])
