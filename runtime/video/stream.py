"""Finding a container's video stream, and its peculiarities."""

from collections.abc import Collection

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dsmap.errors import InputError
from dsmap.runtime.video.media import MAX_PIXELS
from dsmap.runtime.video.trim import is_cover

# Text files "decode" as ANSI art, and still images as one-frame videos.
_NOT_VIDEO_FORMATS = ("tty", "bin", "xbin", "adf", "idf")


def find_video_stream(container: InputContainer, name: str, ids: Collection[int] | None = None) -> VideoStream:
    """The stream that players show, among those with an id in `ids` if given.

    Raises InputError, calling the source `name`, when there is none that decodes.
    """
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    if ids is not None:
        streams = [stream for stream in streams if stream.id in ids]
    if not streams or container.format.name in _NOT_VIDEO_FORMATS:
        if streams and container.format.name == "tty":
            raise InputError(f"{name} is a text file, not a video", "pass a file with a video stream")
        held = ", ".join(sorted({s.type for s in container.streams})) if not streams else container.format.long_name
        raise InputError(f"{name} contains no video (found: {held or 'nothing'})", "pass a file with a video stream")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise InputError(f"{name}: its video codec is not supported", "convert the video to H.264 first")
    check_size(name, stream.codec_context.width, stream.codec_context.height)
    return stream


def has_decoding_times_only(stream: VideoStream) -> bool:
    """Whether the container stores decoding times only, not presentation times.

    libav invents the latter, in decoding order: with B-frames they run back and forth.
    """
    name = stream.container.format.name
    # A tag in Matroska: the stream is written as in an AVI ("VFW").
    return name in ("avi", "asf", "asf_o") or (name.startswith("matroska") and any(map(ord, stream.codec_tag)))


def delay_of_reordering(stream: VideoStream, first: VideoFrame) -> int:
    """Ticks by which frames leave the decoder after their presentation time, where only decoding times are known.

    ASF counts them in; in AVI sound and video begin together.
    """
    if stream.container.format.name.startswith("asf") or first.pts is None or first.dts is None:
        return 0
    return max(first.dts - first.pts, 0)


def check_size(name: str, width: int, height: int) -> None:
    """Raises InputError for frames that would not fit into memory."""
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has frames of {width}x{height}, expected at most {MAX_PIXELS // 1_000_000} megapixels",
            "it is damaged, or malicious; scale it down with another tool first",
        )
