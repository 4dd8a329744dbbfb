"""Drawing and showing the current frame of a session."""

import time
from collections.abc import Callable

from dsmap.runtime.live.hud import (
    Status,
    compose,
    draw_help,
    draw_hud,
    draw_signs,
    drawing_size,
    enlarge,
    fitted,
    message_image,
)
from dsmap.runtime.live.session import SessionState
from dsmap.runtime.live.source import Pixels
from dsmap.runtime.live.translation import LiveFrame
from dsmap.runtime.live.window import NoWindow, Window

_SAME_ASPECT = 0.02  # a difference that rounding to whole lines makes
_REDRAW = 0.1  # seconds between two redraws when no frame comes: for messages that come and go


class Screen:
    """The window and its frame. Nothing is drawn without a window. `status` gives the current numbers."""

    def __init__(self, window: Window, session: SessionState, status: Callable[[], Status]) -> None:
        self.frame: LiveFrame | None = None
        """The latest one shown."""
        self._window = window
        self._session = session
        self._status = status
        self._drawn_at = 0.0
        self._aspect = 0.0  # of the frames that the window was made to suit

    def show(self, frame: LiveFrame) -> None:
        """Show a new frame."""
        self.frame = frame
        self.refresh(at_once=True)

    def refresh(self, *, at_once: bool = False) -> None:
        """Redraw the frame and its overlay: at intervals, or at once."""
        now = time.monotonic()
        if not isinstance(self._window, NoWindow) and (at_once or now - self._drawn_at > _REDRAW):
            self._drawn_at = now
            self._window.show(self._image(self._status()))

    def _image(self, status: Status) -> Pixels:
        if self.frame is None:
            return message_image([status.camera or "waiting for the first frame", *status.notices])
        image_rgb = self._in_window(self.frame)
        if self._session.help:
            draw_help(image_rgb)
        elif self._session.hud:
            draw_hud(image_rgb, status)
        else:
            draw_signs(image_rgb, status)
        return image_rgb

    def _in_window(self, frame: LiveFrame) -> Pixels:
        """The frame as the view has it, in the size of the window: text on it is as large in every view."""
        height, width = enlarge(frame.result_rgb).shape[:2]
        if abs(width / height - self._aspect) > _SAME_ASPECT * self._aspect:  # the first frame, or another camera's
            self._aspect = width / height
            self._window.fit(width, height)
        image_rgb, size = compose(frame, self._session.view), self._window.size
        return enlarge(image_rgb) if size is None else fitted(image_rgb, drawing_size(size))
