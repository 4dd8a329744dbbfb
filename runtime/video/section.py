"""A section of a video: the frames from one keyframe's time to another's, decoded without those before them.

That they are the frames that decoding from the beginning gives is checked, not assumed: the first frames of a section
are marked, and so are the frames that follow a section, as the decoder of that section gives them. The two must agree.
"""

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.planes import plane_pixels

MARKED = 8
"""So many frames are marked at either end: more than a codec's references reach in practice."""


class FrameMark(NamedTuple):
    """What a frame is known by."""

    pts: int
    """In the reader's time base."""
    digest: str
    """Of its pixels."""


@dataclass(kw_only=True)
class Section:
    """Frames from `begin` to before `end`: seconds on the file's clock; None: from its beginning, or to its end.

    `keyframe`: when the one is shown with which decoding begins; None with `begin`. `seeks`: by way of the container's
    index; otherwise packets are read from the beginning of the file, and not decoded before the keyframe.
    """

    begin: Fraction | None = None
    end: Fraction | None = None
    keyframe: Fraction | None = None
    seeks: bool = True
    head: list[FrameMark] = field(default_factory=list)
    """Of its first frames; filled while they are read."""
    beyond: list[FrameMark] = field(default_factory=list)
    """Of the frames after its end, if it has one."""
    shapes: tuple[str, str] = "", ""
    """The size, and the shape of the pixels, of its first and its last frame."""

    damaged: int = 0
    """Frames, of the section and beyond, that the decoder had to repair; how depends on those before them."""

    def saw(self, frame: Frame, shape: str) -> None:
        """Note a frame of the section."""
        self.shapes = (self.shapes[0] or shape, shape)
        if len(self.head) < MARKED:
            self.head.append(_mark(frame))

    def saw_beyond(self, frame: Frame) -> bool:
        """Mark a frame after the section; whether no further ones are needed."""
        self.beyond.append(_mark(frame))
        return len(self.beyond) == MARKED


def _mark(frame: Frame) -> FrameMark:
    digest = hashlib.blake2b(digest_size=16)
    for pixels in _stored(frame):
        digest.update(np.ascontiguousarray(pixels).data)
    return FrameMark(frame.pts, digest.hexdigest())


def _stored(frame: Frame) -> list[npt.NDArray]:
    """All that there is of a frame's pixels."""
    if frame.yuv is not None:
        return [plane_pixels(plane) for plane in frame.yuv.planes]
    rgb = frame.rgb if frame.device is None else frame.device.to_rgb()
    return [rgb] if frame.residual is None else [rgb, frame.residual]
