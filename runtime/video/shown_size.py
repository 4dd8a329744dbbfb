"""Tracking the size of a video's frames, which may change, as in broadcasts and screen recordings."""

from collections.abc import Callable
from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dsmap.runtime.video.stream_side_data import Crop


class ShownSize:
    """The visible size of the frames of `stream`, as stored; `first` determines the result's size.

    `codec`: returns what decodes the stream.
    """

    def __init__(
        self, stream: VideoStream, first: VideoFrame, crop: Crop, codec: Callable[[], VideoCodecContext]
    ) -> None:
        self.crop = crop if crop.fits(first.width, first.height) else Crop()
        self.aspect = stream.sample_aspect_ratio or Fraction(1)
        """Pixel aspect (width / height) of the latest frame."""
        self.changed = 0
        self._codec = codec
        self._coded_size = first.width, first.height
        # An aspect set by the container holds for the whole video, as in players.
        self._follows_codec = self._codec_aspect() == self.aspect

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.crop.size(*self._coded_size)

    @property
    def shape(self) -> Fraction:
        """Display aspect (width / height)."""
        return Fraction(*self.size) * self.aspect

    def changes(self, frame: VideoFrame) -> bool:
        """Whether `frame`, the next one, differs from the one before in its size or its pixels' aspect."""
        size, aspect = (frame.width, frame.height), self.aspect
        # The decoder may be ahead of its frames: its aspect holds from the next keyframe on.
        if self._follows_codec and (frame.key_frame or size != self._coded_size):
            aspect = self._codec_aspect()
        if (size, aspect) == (self._coded_size, self.aspect):
            return False
        self._coded_size, self.aspect = size, aspect
        self.changed += 1
        return True

    def __str__(self) -> str:
        width, height = self.size
        return f"{width}x{height}" + (f" (pixel aspect {self.aspect})" if self.aspect != 1 else "")

    def _codec_aspect(self) -> Fraction:
        return self._codec().sample_aspect_ratio or Fraction(1)
