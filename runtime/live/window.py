"""The window: shows images and reports keys. A thin shell over OpenCV."""

from typing import Protocol

import cv2

from dsmap.runtime.live.source import Pixels

_MAX_WINDOW = (1280, 800)  # maximum initial size of a window in pixels
_MIN_WINDOW = 32  # smaller areas are those of windows that are hidden or only being opened
_FUNCTION_KEYS = range(0xFE00, 0x10000)  # X11's codes of arrows, F1, Caps Lock and so on: not letters
_NAMES = {27: "esc", 9: "tab", 0xFFAB: "+", 0xFFAD: "-"}  # the last two: of the number pad
# X11's old codes of letters in other scripts: the high byte is the script, the low one is in an 8-bit charset.
_SCRIPTS = {0x06: "koi8-r", 0x07: "iso8859-7"}
# Letters in the places where a Latin keyboard has ours.
_SAME_KEYS = str.maketrans("йвыкшизсмрт" + "δσριβπψωην", "qdsribpcvhn" + "dsribpcvhn")


class Window(Protocol):
    """Shows images and reports keys. Used by one thread."""

    def show(self, rgb: Pixels) -> None:
        """Show an image, uint8 RGB (H, W, 3)."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of its area in pixels; None while that is unknown. Images of that size are shown as they are,
        others are stretched."""

    def fit(self, width: int, height: int) -> None:
        """Suit images of that size, unless the user has given it a size."""

    def key(self) -> str | None:
        """The key pressed since the last call (see `key_name`). Runs the window's event loop: call it often."""

    @property
    def closed(self) -> bool:
        """Whether the user has closed it."""

    def close(self) -> None:
        """Close the window."""


class NoWindow:
    """For use without a display."""

    closed = False
    size = None

    def show(self, rgb: Pixels) -> None:
        """Do nothing."""

    def fit(self, width: int, height: int) -> None:
        """Do nothing."""

    def key(self) -> str | None:
        """Return None: there are no keys."""
        return None

    def close(self) -> None:
        """Do nothing."""


class CvWindow:
    """A window of OpenCV. It aborts the process where there is no display: see `check_display`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._open = False
        self._seen = False
        self._given: tuple[int, int] | None = None  # the size that `fit` gave it last

    def show(self, rgb: Pixels) -> None:
        """See `Window`."""
        if not self._open:
            # Without GUI_NORMAL, Qt adds a toolbar and intercepts keys. With KEEPRATIO nobody knows the whole area.
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
            self._open = True
            self._resize(rgb.shape[1], rgb.shape[0])
        cv2.imshow(self._title, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    @property
    def size(self) -> tuple[int, int] | None:
        """See `Window`."""
        if not self._open:
            return None
        try:
            _, _, width, height = cv2.getWindowImageRect(self._title)
        except cv2.error:  # it is gone
            return None
        return (width, height) if min(width, height) >= _MIN_WINDOW else None

    def fit(self, width: int, height: int) -> None:
        """See `Window`."""
        size = self.size
        if size is not None and self._given is not None and all(map(_is_near, size, self._given)):
            self._resize(width, height)

    def _resize(self, width: int, height: int) -> None:
        factor = min(1.0, _MAX_WINDOW[0] / width, _MAX_WINDOW[1] / height)
        self._given = round(width * factor), round(height * factor)
        cv2.resizeWindow(self._title, *self._given)

    def key(self) -> str | None:
        """See `Window`."""
        return key_name(cv2.waitKeyEx(1)) if self._open else None

    @property
    def closed(self) -> bool:
        """Whether it was visible and no longer is; a minimised window counts as visible."""
        if not self._open:
            return False
        visible = self._visible()
        self._seen |= visible
        return self._seen and not visible

    def close(self) -> None:
        """See `Window`."""
        if self._open and self._visible():
            cv2.destroyWindow(self._title)
        self._open = False

    def _visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # it is gone altogether
            return False


def _is_near(size: int, given: int) -> bool:
    """Window managers round."""
    return abs(size - given) <= 8


def key_name(code: int) -> str | None:
    """A code of `cv2.waitKeyEx` as a lower-case character, "esc" or "tab"; None for no key and those without a name.

    The low byte alone would mistake the left arrow for Q. GTK adds Shift, Caps Lock and Num Lock in the high bits.
    """
    if code < 0:
        return None
    code &= 0xFFFF
    if code in _NAMES:
        return _NAMES[code]
    if code in _FUNCTION_KEYS:
        return None
    character = chr(code)
    if (charset := _SCRIPTS.get(code >> 8)) is not None:
        character = bytes([code & 0xFF]).decode(charset, errors="replace")
    return character.lower().translate(_SAME_KEYS) if character.isprintable() else None
