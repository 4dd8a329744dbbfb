"""The window: shows images and reports keys. A thin shell over OpenCV."""

from typing import Protocol

import cv2

from dsmap.runtime.live.source import Pixels

_LARGEST = (1280, 800)  # pixels that a window takes by itself, at most
_FUNCTION_KEYS = range(0xFE00, 0x10000)  # X11's codes of arrows, F1, Caps Lock and the like: no letters
_NAMES = {27: "esc", 9: "tab"}
# X11's old codes of letters in other scripts: the high byte tells the script, the low one is that of an 8-bit charset.
_SCRIPTS = {0x06: "koi8-r", 0x07: "iso8859-7"}
# The keys where a Latin keyboard has the letters that we use.
_SAME_KEYS = str.maketrans("йвыкшизсмрт" + "δσριβπψωην", "qdsribpcvhn" + "dsribpcvhn")


class Window(Protocol):
    """Shows images and reports keys. Used by one thread."""

    def show(self, rgb: Pixels) -> None:
        """Show an image, uint8 RGB (H, W, 3)."""

    def key(self) -> str | None:
        """The key that was pressed since (see `key_name`). Lets the window live: call it often."""

    @property
    def closed(self) -> bool:
        """Whether somebody closed it."""

    def close(self) -> None:
        """Take it away."""


class NoWindow:
    """For use without a display."""

    closed = False

    def show(self, rgb: Pixels) -> None:
        """Nothing is shown."""

    def key(self) -> str | None:
        """No keys."""
        return None

    def close(self) -> None:
        """There is nothing to take away."""


class CvWindow:
    """A window of OpenCV. It aborts the process where there is no display: see `check_display`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._open = False
        self._seen = False
        self._shape = (0, 0)

    def show(self, rgb: Pixels) -> None:
        """See `Window`. Images of another size change that of the window, which people may change as well."""
        if not self._open:
            # Without GUI_NORMAL, Qt adds a tool bar and takes keys for itself.
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            self._open = True
        if rgb.shape[:2] != self._shape:
            height, width = self._shape = rgb.shape[:2]
            factor = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
            cv2.resizeWindow(self._title, round(width * factor), round(height * factor))
        cv2.imshow(self._title, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def key(self) -> str | None:
        """See `Window`."""
        return key_name(cv2.waitKeyEx(1)) if self._open else None

    @property
    def closed(self) -> bool:
        """Once visible and not any more; a minimised window counts as visible."""
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


def key_name(code: int) -> str | None:
    """What `cv2.waitKeyEx` gave as a lower-case letter, "esc" or "tab"; None for no key and for keys without a name.

    The low byte alone would take the left arrow for a Q. GTK adds Shift, Caps Lock and Num Lock in the high bits.
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
