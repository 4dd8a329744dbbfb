"""Translation thread of a live session: the newest frame, in the current style and direction."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dsmap.errors import DsmapError
from dsmap.runtime.frame_translator import FrameTranslator
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.mailbox import LatestFrame
from dsmap.runtime.live.source import Pixels
from dsmap.runtime.live.styles import LiveStyle, StyleCodeCache, StyleMix
from dsmap.runtime.live.working_height import WorkingHeight
from dsmap.runtime.refine.choice import is_refined
from dsmap.runtime.refine.refiners import refiner_for
from dsmap.runtime.translator import Translator
from dsmap.runtime.video.scaling import scaled, size_at_height

LoadTranslator = Callable[[str], Translator]
"""Loads the translator to the domain that it is called with."""

_POLL_SECONDS = 0.05  # between two looks at whether to stop
_JOIN_SECONDS = 5.0  # that a cancelled frame may take to end


@dataclass(frozen=True)
class LoadedDirection:
    """A loaded translator and the codes of its styles."""

    translator: Translator
    codes: StyleCodeCache

    @classmethod
    def load(cls, load: LoadTranslator, domain: str, styles: Sequence[LiveStyle]) -> "LoadedDirection":
        """Loads the translator to `domain` and finds the codes of `styles`. Raises InputError, DsmapError."""
        translator = load(domain)
        codes = StyleCodeCache(translator)
        try:
            codes.prepare(styles)
        except BaseException:
            translator.close()
            raise
        return cls(translator, codes)


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """A frame and its translation, both uint8 RGB (H, W, 3) of one size."""

    input_rgb: Pixels
    result_rgb: Pixels
    captured: float
    """When it was captured, by `time.monotonic`."""
    begun: float
    """When its translation began."""
    done: float
    """When its translation was done, and refined."""
    refining: float = 0.0
    """The last so many seconds before that brought it to the camera's size."""
    translated_at: tuple[int, int] | None = None
    """(width, height) that the network worked at; None: those of the result."""
    direction: LoadedDirection | None = None
    """What translated it."""
    style: StyleMix | None = None
    """The style that it was translated in."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Preprocessing of a frame, before it is translated."""

    height: int | None = None
    """Height in pixels to scale to, with the aspect kept; None keeps the size, or `target_fps` chooses."""
    target_fps: float | None = None
    """Without a height: the largest one that is so fast; None keeps the size."""
    mirror: bool = False
    """Swap left and right."""
    refine: str = "off"
    """Bring results to the size of the camera's frames, one of `REFINE_CHOICES`; "off" leaves them at the height.

    With "learnt" the direction that a session begins with has a refiner; the other one is "guided" if it has none.
    """

    def __call__(self, rgb: Pixels, height: int | None) -> Pixels:
        """uint8 RGB (H, W, 3) -> the same at a height, C-contiguous."""
        rgb = scaled(rgb, size_at_height(rgb.shape[1], rgb.shape[0], height))
        return self.mirrored(rgb)

    def mirrored(self, rgb: Pixels) -> Pixels:
        """uint8 RGB (H, W, 3) -> left and right swapped where that is wanted, C-contiguous."""
        return np.ascontiguousarray(rgb[:, ::-1] if self.mirror else rgb)

    def refined(
        self, frame_rgb: Pixels, input_rgb: Pixels, result_rgb: Pixels, translator: FrameTranslator
    ) -> tuple[Pixels, Pixels]:
        """The input and the result to show: at the size of the camera's frame where they are refined."""
        if not is_refined(self.refine, input_rgb.shape[1::-1], frame_rgb.shape[1::-1]):
            return input_rgb, result_rgb
        whole_rgb = self.mirrored(frame_rgb)
        way = "auto" if self.refine == "learnt" else self.refine
        return whole_rgb, refiner_for(way, translator)(whole_rgb, input_rgb, result_rgb)


class TranslationThread:
    """Translates in a thread of its own from `start` to `close`; the newest result is in `results`.

    `capture` and `direction` may be replaced at any time, from the next frame on. When a translation fails, `error`
    holds the reason and the thread ends.
    """

    def __init__(
        self, capture: Capture, direction: LoadedDirection, prepare: Preparation, style: Callable[[], StyleMix]
    ) -> None:
        self.capture = capture
        self.direction = direction
        self.results: LatestFrame[LiveFrame] = LatestFrame()
        self.count = 0
        """Number of frames translated so far."""
        self.error: Exception | None = None
        self.exhausted = False
        """Whether the last frame of the capture was translated, and no more will come."""
        self.working_height = WorkingHeight(prepare.height, prepare.target_fps)
        self._prepare = prepare
        self._style = style
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="translate", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> bool:
        """Stops the thread. Returns whether it has ended: only then may the translators be closed."""
        self._stop.set()
        if self._thread.is_alive():
            self.direction.translator.cancel()
            self._thread.join(_JOIN_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                capture = self.capture
                ended = capture.status == "ended"  # read before the frame: then no frame comes after it
                frame = capture.latest.take(_POLL_SECONDS)
                if frame is not None:
                    self._translate(self.direction, frame.at, frame.load)
                self.exhausted = ended and frame is None
        except DsmapError as error:
            if not self._stop.is_set():  # else it is only the cancelled frame
                self.error = error
        except Exception as error:
            self.error = error

    def _translate(self, direction: LoadedDirection, captured: float, load: Callable[[], Pixels]) -> None:
        begun = time.monotonic()
        style = self._style()
        code = direction.codes.of(style)
        frame_rgb = load()
        translator = direction.translator

        def of_small(rgb: Pixels) -> object:
            return self._prepare.refined(frame_rgb, rgb, translator.submit(rgb, code)(), translator)

        small_rgb = self._prepare(frame_rgb, self.working_height.of(frame_rgb, of_small))
        # A copy: a backend may return a view of memory that it uses again.
        result_rgb = translator.submit(small_rgb, code)().copy()
        translated = time.monotonic()
        input_rgb, result_rgb = self._prepare.refined(frame_rgb, small_rgb, result_rgb, translator)
        done = time.monotonic()
        self.count += 1
        self.results.put(
            LiveFrame(
                input_rgb=input_rgb,
                result_rgb=result_rgb,
                captured=captured,
                begun=begun,
                done=done,
                refining=done - translated,
                translated_at=(small_rgb.shape[1], small_rgb.shape[0]),
                direction=direction,
                style=style,
            )
        )


class DirectionLoader:
    """Loads the translator of the other direction in the background, once; the current one goes on meanwhile."""

    def __init__(self, load: LoadTranslator, styles: Sequence[LiveStyle], first: LoadedDirection) -> None:
        self._load = load
        self._styles = styles
        self._ready: dict[str, LoadedDirection] = {first.translator.target: first}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def want(self, domain: str) -> None:
        """Starts loading the direction to `domain`; see `take`."""
        if self._thread is None and domain not in self._ready:
            self._thread = threading.Thread(target=self._run, args=(domain,), name="load", daemon=True)
            self._thread.start()

    def take(self, domain: str) -> LoadedDirection | None:
        """The direction to `domain`, or None while it is not loaded. Raises the error of a failed load, once."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            if self._error is not None:
                fault, self._error = self._error, None
                raise fault
        return self._ready.get(domain)

    def close(self) -> None:
        """Closes all translators; no frame may be under way."""
        for direction in list(self._ready.values()):
            direction.translator.close()

    def _run(self, domain: str) -> None:
        try:
            self._ready[domain] = LoadedDirection.load(self._load, domain, self._styles)
        except Exception as error:
            self._error = error
