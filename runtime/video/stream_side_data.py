"""Reading a container's side data of a video stream that PyAV does not expose: cropping, projection, Dolby Vision.

libav reads it from every container (mp4's `clap`, `st3d`, `sv3d` and `dvcC`, the equivalent elements of Matroska,
descriptors of transport streams). It writes a Matroska header for the stream to memory, which has one form for all of
them, and that header is parsed here: it is libav's own, so no untrusted data is.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# Matroska's names of its elements (RFC 9559).
SEGMENT, TRACKS, TRACK_ENTRY, VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
STEREO_MODE, PROJECTION = 0x53B8, 0x7670
_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_PROJECTION_TYPE, _FLAT = 0x7671, b"\x00"
_BLOCK_ADDITION, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
_PARENTS = (SEGMENT, TRACKS, TRACK_ENTRY, VIDEO, _BLOCK_ADDITION)
_DOLBY_VISION = (int.from_bytes(b"dvcC", "big"), int.from_bytes(b"dvvC", "big"), int.from_bytes(b"dvwC", "big"))


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Pixels at each side of the stored frame that are hidden."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return bool(self.left or self.top or self.right or self.bottom)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the visible part of a frame; the whole frame where nothing would be left."""
        cropped = width - self.left - self.right, height - self.top - self.bottom
        return cropped if min(cropped) > 0 else (width, height)

    def fits(self, width: int, height: int) -> bool:
        """Whether any of the frame is left."""
        return self.left + self.right < width and self.top + self.bottom < height


@dataclass(frozen=True, kw_only=True)
class StreamSideData:
    """What the container says about a whole video stream."""

    crop: Crop = Crop()  # frozen
    projection: bytes = b""
    """The mapping to a sphere, and the layout of two views in a frame: Matroska's elements StereoMode and Projection,
    unchanged. Empty for a flat video."""
    is_spherical: bool = False
    """Whether `projection` is more than two views in a frame."""
    dolby_vision_profile: int | None = None


def stream_side_data(stream: VideoStream) -> StreamSideData:
    """The side data of `stream`; empty where libav cannot describe its codec in Matroska."""
    values: dict[int, int] = {}
    projection, spherical, addition, profile = b"", False, 0, None
    for number, body in _elements(_matroska_header(stream)):
        if number in (_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM):
            values[number] = int.from_bytes(body, "big")
        elif number == STEREO_MODE or (number == PROJECTION and dict(_elements(body)).get(_PROJECTION_TYPE) != _FLAT):
            projection += element(number, body)
            spherical |= number == PROJECTION
        elif number == _ADDITION_TYPE:
            addition = int.from_bytes(body, "big")
        elif number == _ADDITION_DATA and addition in _DOLBY_VISION and len(body) > 2:
            profile = body[2] >> 1
    left, top, right, bottom = (values.get(n, 0) for n in (_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM))
    return StreamSideData(
        crop=Crop(left=left, top=top, right=right, bottom=bottom),
        projection=projection,
        is_spherical=spherical,
        dolby_vision_profile=profile,
    )


def frame_side_data(frame: VideoFrame) -> dict[str, bytes]:
    """The side data of a decoded frame, by PyAV's names of its kinds ("SPHERICAL")."""
    # PyAV's type hints know one kind only, and no iteration.
    found = cast(Iterable[SideData], frame.side_data)
    return {one.type.name: bytes(one) for one in found}


def element(number: int, body: bytes) -> bytes:
    """A Matroska element with that id."""
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + (1 << 28 | len(body)).to_bytes(4, "big") + body


def _matroska_header(stream: VideoStream) -> bytes:
    """Empty where the muxer refuses the stream."""
    memory = io.BytesIO()
    with contextlib.suppress(av.FFmpegError, ValueError, MemoryError):
        probe = av.open(memory, "w", format="matroska")
        try:
            probe.add_stream_from_template(stream, opaque=True)
            probe.start_encoding()
            return memory.getvalue()
        finally:
            with contextlib.suppress(av.FFmpegError, ValueError):
                probe.close()
    return b""


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(id, content) of all elements but the parents, in the order of the file."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        number = int.from_bytes(data[at : at + length], "big")
        at += length
        if at >= len(data):
            return
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width
        if number in _PARENTS:
            continue  # its content follows: a segment's size is not even known
        yield number, data[at : at + size]
        at += size
