"""The thread that translates: always the newest frame, with the style that is on, in the direction that is wanted."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.mailbox import LatestFrame
from dsmap.runtime.live.source import Pixels
from dsmap.runtime.live.styles import Mix, Style, StyleCodes
from dsmap.runtime.translator import Translator
from dsmap.runtime.video.scaling import scaled, size_at_height

LoadTranslator = Callable[[str], Translator]
"""Loads the translator to a domain."""

_POLL = 0.05  # seconds after which the thread looks up
_LEAVE = 5.0  # seconds that a frame under way may take to end after it was cancelled


@dataclass(frozen=True)
class Direction:
    """A loaded translator and the codes of its styles."""

    translator: Translator
    codes: StyleCodes

    @classmethod
    def load(cls, load: LoadTranslator, domain: str, styles: Sequence[Style]) -> "Direction":
        """Load the translator to `domain`, and find the styles' codes."""
        translator = load(domain)
        codes = StyleCodes(translator)
        try:
            codes.prepare(styles)
        except BaseException:
            translator.close()
            raise
        return cls(translator, codes)


@dataclass(frozen=True, kw_only=True)
class Translated:
    """A frame and what became of it."""

    input_rgb: Pixels
    result_rgb: Pixels
    """As large as the input."""
    captured: float
    """When each happened, by `time.monotonic`."""
    begun: float
    done: float


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What happens to a frame before it is translated."""

    height: int | None = None
    """Lines to scale to, aspect kept; None leaves it."""
    mirror: bool = False

    def __call__(self, rgb: Pixels) -> Pixels:
        """uint8 (H, W, 3), C-contiguous."""
        rgb = scaled(rgb, size_at_height(rgb.shape[1], rgb.shape[0], self.height))
        return np.ascontiguousarray(rgb[:, ::-1] if self.mirror else rgb)


class Translation:
    """Translates in a thread of its own from `start` to `close`; results are taken from `results`.

    `capture` and `direction` may be changed at any time and count from the next frame on. When a translation fails,
    `error` says why and the thread ends.
    """

    def __init__(self, capture: Capture, direction: Direction, prepare: Preparation, style: Callable[[], Mix]) -> None:
        self.capture = capture
        self.direction = direction
        self.results: LatestFrame[Translated] = LatestFrame()
        self.count = 0
        """Frames that were translated."""
        self.error: Exception | None = None
        self.exhausted = False
        """Whether the camera's last frame was translated, and no more will come."""
        self._prepare = prepare
        self._style = style
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="translate", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> bool:
        """End the thread; whether it has ended, so that the translators may be closed."""
        self._stop.set()
        if self._thread.is_alive():
            self.direction.translator.cancel()
            self._thread.join(_LEAVE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                capture = self.capture
                ended = capture.status == "ended"  # looked at first: nothing is left behind the last frame
                frame = capture.latest.take(_POLL)
                if frame is not None:
                    self._translate(self.direction, frame.at, frame.load)
                self.exhausted = ended and frame is None
        except DsmapError as error:
            if not self._stop.is_set():  # then it is only the cancelled frame
                self.error = error
        except Exception as error:
            self.error = error

    def _translate(self, direction: Direction, captured: float, load: Callable[[], Pixels]) -> None:
        begun = time.monotonic()
        input_rgb = self._prepare(load())
        code = direction.codes.of(self._style())
        # A copy: a backend may give a view of memory that it uses again.
        result_rgb = direction.translator.submit(input_rgb, code)().copy()
        self.count += 1
        self.results.put(
            Translated(
                input_rgb=input_rgb, result_rgb=result_rgb, captured=captured, begun=begun, done=time.monotonic()
            )
        )


class OtherDirection:
    """Loads the translator of the other direction in the background, once; the present one goes on meanwhile."""

    def __init__(self, load: LoadTranslator, styles: Sequence[Style], first: Direction) -> None:
        self._load = load
        self._styles = styles
        self._ready: dict[str, Direction] = {first.translator.target: first}
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None

    def want(self, domain: str) -> None:
        """Get ready to translate to `domain`; see `take`."""
        if self._thread is None and domain not in self._ready:
            self._thread = threading.Thread(target=self._run, args=(domain,), name="load", daemon=True)
            self._thread.start()

    def take(self, domain: str) -> Direction | None:
        """The direction when it is ready. Raises what went wrong with loading it, once."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
        return self._ready.get(domain)

    def close(self) -> None:
        """Give back what was loaded; nothing may be under way."""
        for direction in list(self._ready.values()):
            direction.translator.close()

    def _run(self, domain: str) -> None:
        try:
            self._ready[domain] = Direction.load(self._load, domain, self._styles)
        except Exception as error:
            self._fault = error
