"""A bundle that answers requests: both directions loaded, several frames under way, the styles of clients kept.

It knows nothing of Triton: requests are arrays and texts (`requests`), answers are arrays or errors.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dsmap.errors import DsmapError, InputError, first_line
from dsmap.runtime.backends.base import Codes, Frames, Pending
from dsmap.runtime.stabilization.stabilizer import Stabilizer
from dsmap.runtime.translator import Translator, padded_size
from dsmap.runtime.triton.directions import Directions
from dsmap.runtime.triton.interface import MAX_MEGAPIXELS, MAX_SEQUENCES, STYLE_CODE, TRANSLATED
from dsmap.runtime.triton.requests import FrameRequest, RequestedFrame
from dsmap.runtime.triton.settings import ServingSettings, read_settings
from dsmap.runtime.triton.styles import StyleCodes

_LOG = logging.getLogger(__name__)

Answer = dict[str, Any] | DsmapError
"""Arrays by the names of outputs, or why there are none."""


def load_served(arguments: Mapping[str, str]) -> "BundleServer":
    """The model that Triton's arguments of `initialize` describe. Raises DsmapError, and InputError."""
    return BundleServer(read_settings(arguments))


class SequenceState:
    """What is kept of a sequence whose frames are stabilized."""

    def __init__(self) -> None:
        self.stabilizer = Stabilizer()
        self.source_style: Codes | None = None
        """Of the reconstruction at a strength below 1: read from the first frame."""


class _Reply:
    """The answer to a request, as far as it is there."""

    def __init__(self, request: FrameRequest | DsmapError) -> None:
        self.request = request
        self.error = request if isinstance(request, DsmapError) else None
        self.frames: list[Frames] = []
        self.codes: list[Codes] = []

    def finish(self) -> Answer:
        """The arrays that were asked for, or the first error."""
        if self.error is not None or isinstance(self.request, DsmapError):
            return self.error or InputError("there is no request", "Send one.")
        answer: dict[str, Any] = {}
        if self.request.translate:
            answer[TRANSLATED] = np.stack(self.frames)
        if self.request.code:
            answer[STYLE_CODE] = np.stack(self.codes).astype(np.float32)
        return answer


class _UnderWay:
    """Frames whose translation has begun, in order: no more pixels at a time than the largest frame may have.

    So several clients with the largest frames take no more memory than one.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels, self._pixels = max_pixels, 0
        self._finishers: deque[tuple[int, Callable[[], None]]] = deque()

    def make_room(self, pixels: int, most: int) -> None:
        """Finishes earlier frames until one of `pixels` is allowed, and fewer than `most` are under way."""
        while self._finishers and (len(self._finishers) >= most or self._pixels + pixels > self._max_pixels):
            self._finish_first()

    def add(self, pixels: int, finish: Callable[[], None]) -> None:
        self._pixels += pixels
        self._finishers.append((pixels, finish))

    def finish(self) -> None:
        """Finishes all."""
        while self._finishers:
            self._finish_first()

    def _finish_first(self) -> None:
        pixels, finish = self._finishers.popleft()
        self._pixels -= pixels
        finish()


class BundleServer:
    """Answers requests for one bundle. Use it from one thread at a time."""

    def __init__(self, settings: ServingSettings) -> None:
        """Loads both directions. Raises InputError and DsmapError as `Translator`."""
        self.settings = settings
        self.directions = Directions(settings)
        self.styles = StyleCodes(self.directions.bundle.manifest, settings.max_pixels)
        self._sequences: OrderedDict[int | str, SequenceState] = OrderedDict()

    @property
    def description(self) -> str:
        """What is served and what runs it, in one line."""
        manifest = self.directions.bundle.manifest
        what = "sequences, stabilized" if self.settings.stabilised else "frames"
        return f"{manifest.name}: {' and '.join(manifest.domains)}, {what}, on {self.directions.describe()}"

    def answer(self, requests: Sequence[FrameRequest | DsmapError]) -> list[Answer]:
        """An answer for each request, in their order. A request's error is its own: the others get their frames."""
        replies = [_Reply(request) for request in requests]
        under_way = _UnderWay(self.settings.max_pixels)
        for reply in replies:
            if isinstance(reply.request, FrameRequest) and self._is_of_this_bundle(reply.request, reply):
                self._begin_all(reply.request, reply, under_way)
        under_way.finish()
        return [reply.finish() for reply in replies]

    def close(self) -> None:
        """Frees what the backend holds."""
        self.directions.close()

    def _begin_all(self, request: FrameRequest, reply: _Reply, under_way: _UnderWay) -> None:
        """Begins the frames of a request, and finishes earlier ones where no more may be under way."""
        state = self._state(request) if self.settings.stabilised else None
        for frame in request.frames:
            try:
                translator = self._translator(frame)
                code = self.styles.find(frame, translator)
                reply.codes.append(code)
                if not request.translate:
                    continue
                under_way.make_room(self._pixels(frame), translator.in_flight)
                under_way.add(self._pixels(frame), _finisher(reply, self._begin(frame, translator, code, state)))
            except Exception as error:
                reply.error = reply.error or _for_client(error)
                return

    def _is_of_this_bundle(self, request: FrameRequest, reply: _Reply) -> bool:
        """Whether the bundle that the client means, if it says so, is the one here; if not, that is the answer.

        A repository may change while a client translates a video.
        """
        if request.bundle_sha256 in ("", self.settings.bundle_sha256):
            return True
        name = self.directions.bundle.manifest.name
        reply.error = InputError(
            f"the bundle {name} on the server is not the one that this client began with",
            "Put that bundle there again to continue, or start over (dsmap: --overwrite): two models would be mixed.",
        )
        return False

    def _translator(self, frame: RequestedFrame) -> Translator:
        """Raises InputError for a domain that the model does not have, and for a frame that is too large."""
        translator = self.directions.find(frame.source or "", frame.target)
        height, width = frame.frame_rgb.shape[:2]
        pixels = self._pixels(frame)
        if pixels > self.settings.max_pixels:
            itself = height * width > self.settings.max_pixels
            has = (
                f" has {height * width / 1e6:.10g}"
                if itself
                else f", padded as the model needs it, has {pixels / 1e6:.10g}"
            )
            raise InputError(
                f"a frame of {width}x{height}{has} million pixels; this server takes"
                f" {self.settings.max_pixels / 1e6:g} million",
                f"Send smaller frames, or raise {MAX_MEGAPIXELS} in the model's config.pbtxt.",
            )
        return translator

    def _pixels(self, frame: RequestedFrame) -> int:
        """Of a frame as the graphs see it: that is what takes memory. A frame of one row is padded to several."""
        height, width = frame.frame_rgb.shape[:2]
        full_height, full_width = padded_size(height, width, self.directions.bundle.manifest.sizes)
        return full_height * full_width

    def _begin(
        self, frame: RequestedFrame, translator: Translator, code: Codes, state: SequenceState | None
    ) -> Pending:
        """Begins the translation of a frame and gives what waits for it."""
        if frame.strength == 1:
            wait = translator.submit(frame.frame_rgb, code)
        else:
            wait = self._mix(frame, translator, code, state)
        if state is None:
            return wait
        return lambda: state.stabilizer(frame.frame_rgb, wait())

    def _mix(self, frame: RequestedFrame, translator: Translator, code: Codes, state: SequenceState | None) -> Pending:
        """As `_begin` for a strength below 1. The style of the reconstruction is the frame's or the sequence's."""
        mixing = self.directions.at_strength(translator, frame.strength)
        mixing.source_style = state.source_style if state else None
        mixing.check_size(*frame.frame_rgb.shape[:2])
        mixed = mixing.submit(frame.frame_rgb, code)()  # at once: the next frame may have another strength
        if state:
            state.source_style = mixing.source_style
        return lambda: mixed

    def _state(self, request: FrameRequest) -> SequenceState:
        """The state of a request's sequence; the one that was idle longest makes room for a new one."""
        if request.begins or request.sequence not in self._sequences:
            self._sequences[request.sequence] = SequenceState()
        self._sequences.move_to_end(request.sequence)
        if len(self._sequences) > MAX_SEQUENCES:
            self._sequences.popitem(last=False)
        state = self._sequences[request.sequence]
        if request.ends:
            del self._sequences[request.sequence]
        return state


def _finisher(reply: _Reply, wait: Pending) -> Callable[[], None]:
    def finish() -> None:
        try:
            reply.frames.append(wait())
        except Exception as error:
            reply.error = reply.error or _for_client(error)

    return finish


def _for_client(error: Exception) -> DsmapError:
    """What a client is told; what is nobody's fault but ours is in the server's log."""
    if isinstance(error, DsmapError):
        return error
    _LOG.error("a frame could not be translated", exc_info=error)
    return DsmapError(f"the translation has failed: {first_line(error)}", "The server's log says more.")
