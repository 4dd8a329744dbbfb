"""Translation of a live session's frames: from a decoded frame to one for the encoder, with statistics."""

import time

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.video.frame import VideoFrame

from dsmap.errors import InputError
from dsmap.runtime.backends.base import Codes
from dsmap.runtime.live.statistics import FrameTiming, LiveStatistics
from dsmap.runtime.serve.live_options import MAX_SIDE, LiveOptions, style_of
from dsmap.runtime.serve.pool import TranslatorLease
from dsmap.runtime.serve.rtp_frames import RtpFrames, limited_size

MAX_PIXELS = 4096 * 2304
"""Of a frame that comes in; larger ones are refused before they are converted."""


class LiveTranslation:
    """Translates frames to one domain, in the style and strength of the latest options. Blocks; one thread at a time.

    `statistics` may be read from any thread, and goes on with the next direction.
    """

    def __init__(self, lease: TranslatorLease, statistics: LiveStatistics) -> None:
        self.statistics = statistics
        self.size = (0, 0)
        """(width, height) of the latest result."""
        self.backend_name = lease.translator.backend_name
        self._lease = lease
        self._convert = RtpFrames()
        self._style: object = self  # of no options
        self._code: Codes | None = None
        self._strength = 1.0

    def __call__(self, frame: VideoFrame, came: float, options: LiveOptions) -> VideoFrame:
        """The translated frame, yuv420p, with the time of `frame`; `came`: when it came, by `time.monotonic`.

        Raises InputError for a frame that is too large and for an unknown style; DsmapError when it was cancelled.
        """
        if frame.width * frame.height > MAX_PIXELS:
            raise InputError(f"the frames have {frame.width}x{frame.height} pixels", "Choose a smaller size.")
        begun = time.monotonic()
        size = limited_size(frame.width, frame.height, min(options.size or MAX_SIDE, MAX_SIDE))
        frame_rgb = self._convert.to_rgb(frame, size)
        translator = self._lease.at_strength(options.strength)
        if options.strength < 1 and self._strength == 1:
            translator.start_clip()  # the style of the source is that of this frame, not of the last viewer's
        self._strength = options.strength
        translator.check_size(*frame_rgb.shape[:2])
        result_rgb = translator.submit(frame_rgb, self._code_of(options))()
        translated = time.monotonic()
        result = self._convert.to_frame(result_rgb, frame)
        self.size = size
        self.statistics.add(FrameTiming(came, begun, translated, time.monotonic()))
        return result

    def cancel(self) -> None:
        """Cancels the frame under way, where the backend can; from any thread."""
        self._lease.translator.cancel()

    def _code_of(self, options: LiveOptions) -> Codes:
        if self._code is None or options.style != self._style:
            style = style_of(options)
            self._code = self._lease.translator.find_style(style) if isinstance(style, str | int | None) else style
            self._style = options.style
        return self._code
