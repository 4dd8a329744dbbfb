"""Drawing of before and after, the numbers and the help: pure functions of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dsmap.common.text import printable
from dsmap.runtime.live.session import KEYS, View
from dsmap.runtime.live.source import Pixels
from dsmap.runtime.live.statistics import RecentStatistics
from dsmap.runtime.live.translation import LiveFrame

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _BLACK, _RED, _YELLOW = (255, 255, 255), (0, 0, 0), (230, 30, 30), (255, 220, 60)
_LINE = 0.045  # height of a line of text as a share of the image's shorter side
_MIN_SCALE, _MAX_SCALE = 0.3, 1.2  # font scale: below, letters run together
_SPACING = 1.55  # from line to line, in heights of a letter
_SHOWN_SIDE = 480  # smaller images are enlarged to this shorter side for the screen, so that text has pixels
_MAX_SHOWN = (1600, 960)  # but not beyond this width and height
_AROUND = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y)
_LONGEST_KEYS = max((keys for keys, _ in KEYS), key=len)


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the overlay shows."""

    source: str
    target: str
    backend: str
    style: str
    now: RecentStatistics | None
    """None before there is one."""
    dropped: int
    shown: int = 0
    """Frames so far."""
    size: tuple[int, int] | None = None
    """(width, height) of the translated frames."""
    recording: float | None = None
    """Seconds recorded; None when not recording."""
    paused: bool = False
    camera: str | None = None
    """What is wrong with the camera, or its name when there are several."""
    notices: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """As text."""
        lines = [f"{self.source} > {self.target}   {self.style}"]
        size = f"   {self.size[0]}x{self.size[1]}" if self.size else ""
        dropped = f"dropped {self.dropped / max(1, self.dropped + self.shown):.0%}"
        if self.now is not None:
            lines += [
                f"{self.now.fps:.1f} fps   latency {self.now.latency:.0f} ms (p95 {self.now.latency_p95:.0f})",
                f"{self.backend}{size}   busy {self.now.busy:.0%}   {dropped}",
            ]
        else:
            lines.append(f"- fps   {self.backend}{size}   {dropped}")
        return lines


def compose(frame: LiveFrame, view: View) -> Pixels:
    """A new image of input and result as the view has it, uint8 RGB."""
    if view is View.SIDE_BY_SIDE:
        return np.hstack([frame.input_rgb, frame.result_rgb])
    image_rgb = frame.result_rgb.copy()
    if view is View.SPLIT:
        middle = image_rgb.shape[1] // 2
        image_rgb[:, :middle] = frame.input_rgb[:, :middle]
        half = max(1, image_rgb.shape[1] // 400)
        image_rgb[:, middle - half : middle + half] = 255
    return image_rgb


def enlarge(rgb: Pixels) -> Pixels:
    """Enlarges a small image so that text on it can be read; others are returned unchanged."""
    height, width = rgb.shape[:2]
    factor = min(_SHOWN_SIDE / min(height, width), _MAX_SHOWN[0] / width, _MAX_SHOWN[1] / height)
    if factor <= 1:
        return rgb
    size = (round(width * factor), round(height * factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def fitted(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """A new image of `size` (width, height) with all of `rgb` in the middle, as large as it fits; the rest is black."""
    height, width = rgb.shape[:2]
    factor = min(size[0] / width, size[1] / height)
    inner = max(1, min(size[0], round(width * factor))), max(1, min(size[1], round(height * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(rgb, inner, interpolation=way)
    return canvas


def drawing_size(window: tuple[int, int]) -> tuple[int, int]:
    """(width, height) to draw at for a window of that size: its own, but not more than the screen's text needs."""
    factor = min(1.0, _MAX_SHOWN[0] / window[0], _MAX_SHOWN[1] / window[1])
    return max(1, round(window[0] * factor)), max(1, round(window[1] * factor))


def draw_hud(rgb: Pixels, status: Status) -> None:
    """Write the numbers at the top left and the notices at the bottom, into `rgb`."""
    lines = status.lines()
    scale = fitting_scale(rgb, lines)
    beside = _width(lines[0], scale) + _width(_recording_text(0), fitting_scale(rgb, [_recording_text(0)]))
    first = int(status.recording is not None and beside > rgb.shape[1] * 0.85)  # below the sign if the image is narrow
    for row, line in enumerate(lines):
        _text(rgb, line, _margin(rgb), _top(rgb, scale, row + first), scale, _WHITE)
    draw_signs(rgb, status)


def draw_signs(rgb: Pixels, status: Status) -> None:
    """Draw what must not be overlooked, with or without numbers: notices, a lost camera, pause, recording."""
    height = rgb.shape[0]
    bottom = [line for line in (status.camera, "paused" if status.paused else None, *status.notices) if line]
    if bottom:
        scale = fitting_scale(rgb, bottom)
        for row, line in enumerate(reversed(bottom)):
            y = height - _margin(rgb) - round(row * _letter(scale) * _SPACING)
            _text(rgb, line, _margin(rgb), y, scale, _YELLOW)
    if status.recording is not None:
        _draw_recording(rgb, status.recording)


def draw_help(rgb: Pixels) -> None:
    """Darken the image and list the keys on it."""
    rgb[:] = rgb // 3
    scale = _help_scale(rgb)
    step = round(_letter(scale) * _SPACING)
    indent = _margin(rgb) + _width(_LONGEST_KEYS, scale) + 2 * _letter(scale)
    top = max(_letter(scale), (rgb.shape[0] - step * len(KEYS)) // 2 + _letter(scale))
    for row, (keys, meaning) in enumerate(KEYS):
        _text(rgb, keys, _margin(rgb), top + row * step, scale, _YELLOW)
        _text(rgb, meaning, indent, top + row * step, scale, _WHITE)


def message_image(text: Sequence[str], width: int = 640, height: int = 480) -> Pixels:
    """A dark image with a few lines, for use before the first frame."""
    rgb = np.full((height, width, 3), 24, np.uint8)
    scale = fitting_scale(rgb, text)
    for row, line in enumerate(text):
        _text(rgb, line, _margin(rgb), height // 2 + round(row * _letter(scale) * _SPACING), scale, _WHITE)
    return rgb


def fitting_scale(rgb: Pixels, lines: Sequence[str]) -> float:
    """The font scale that suits the image, smaller where the longest line would not fit its width."""
    wanted = min(_MAX_SCALE, max(_MIN_SCALE, _LINE * min(rgb.shape[:2]) / _letter(1.0) / _SPACING))
    room = 0.95 * (rgb.shape[1] - 2 * _margin(rgb))  # widths are not quite proportional to the scale
    widest = max(_width(line, wanted) for line in lines)
    return max(_MIN_SCALE, wanted * min(1.0, room / widest))


def _help_scale(rgb: Pixels) -> float:
    scale = fitting_scale(rgb, [f"{_LONGEST_KEYS}    {meaning}" for _, meaning in KEYS])
    return max(_MIN_SCALE, min(scale, rgb.shape[0] / (len(KEYS) + 1) / _SPACING / _letter(1.0)))


def _draw_recording(rgb: Pixels, seconds: float) -> None:
    text = _recording_text(seconds)
    scale = fitting_scale(rgb, [text])
    radius = max(2, _letter(scale) // 2)
    x = rgb.shape[1] - _margin(rgb) - _width(text, scale)
    y = _top(rgb, scale, 0)
    cv2.circle(rgb, (x - 2 * radius, y - radius), radius, _RED, -1, cv2.LINE_AA)
    _text(rgb, text, x, y, scale, _RED)


def _recording_text(seconds: float) -> str:
    return f"REC {int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def _text(rgb: Pixels, text: str, x: int, y: int, scale: float, colour: tuple[int, int, int]) -> None:
    """One line, outlined, readable on any image; (x, y) is its left end on the base line."""
    text = printable(text)
    thickness = _thickness(scale)
    for right, down in _AROUND:  # not one thicker text below, which OpenCV 5 makes wider
        at = (x + right * thickness, y + down * thickness)
        cv2.putText(rgb, text, at, _FONT, scale, _BLACK, thickness, cv2.LINE_AA)
    cv2.putText(rgb, text, (x, y), _FONT, scale, colour, thickness, cv2.LINE_AA)


def _width(text: str, scale: float) -> int:
    return cv2.getTextSize(printable(text), _FONT, scale, _thickness(scale))[0][0]


def _thickness(scale: float) -> int:
    return 2 if scale > 0.8 else 1


def _letter(scale: float) -> int:
    """Height of a capital letter in pixels."""
    return max(1, round(22 * scale))


def _margin(rgb: Pixels) -> int:
    return max(4, min(rgb.shape[:2]) // 50)


def _top(rgb: Pixels, scale: float, row: int) -> int:
    return _margin(rgb) + _letter(scale) + round(row * _letter(scale) * _SPACING)
