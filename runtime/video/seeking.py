"""Opening a decoder at the first wanted frame: by way of the keyframe before it, or else of the beginning."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.video.frame import VideoFrame

from dsmap.errors import InputError
from dsmap.runtime.video.decoder import PacketSource, VideoDecoder
from dsmap.runtime.video.file_source import FileSource
from dsmap.runtime.video.frame_count import BROADCAST_FORMATS
from dsmap.runtime.video.stream_choice import StreamChoice

_SEEKS_BADLY = ("mpeg",)  # its frames get other times after a seek
_EARLIER = Fraction(10)  # seconds: where a seek went too far, the next one aims so much earlier


def decoder_at(
    start: Fraction | None,
    origin: Fraction,
    source: PacketSource,
    streams: StreamChoice,
    new_decoder: Callable[[Fraction | None], VideoDecoder],
) -> tuple[VideoDecoder, VideoFrame]:
    """A decoder whose iteration begins with the first frame at or after `start` (None: with the first), and that frame.

    Times in seconds on the file's clock, which begins at `origin`. `new_decoder` takes the time from which on packets
    are decoded. Raises InputError where there is no such frame, and what a network source failed with.
    """
    decoder = new_decoder(None)
    if start is None:
        return decoder, _first_frame(decoder, source)
    for seek, decode_from in _ways_to(start, origin, source):
        try:
            source.restart(seek)
        except av.FFmpegError:
            continue
        streams.take(source.container)
        decoder = new_decoder(decode_from)
        first = decoder.first_frame_from(start, exact=seek is not None or decode_from is not None)
        if first is not None:
            return decoder, first
    length = f"; it ends at {float(decoder.end - origin):.2f} s" if decoder.end else ""
    raise InputError(
        f"{source.name} has no frame at or after --start {float(start - origin):g} s{length}", "choose an earlier start"
    )


def decoder_at_keyframe(
    keyframe: Fraction,
    source: PacketSource,
    streams: StreamChoice,
    new_decoder: Callable[[], VideoDecoder],
    *,
    seeks: bool,
) -> VideoDecoder:
    """A decoder that begins with the keyframe shown at that time exactly, in seconds on the file's clock.

    `seeks`: by way of the container's index, if that leads there; otherwise all packets before it are read.
    Raises InputError where there is none.
    """
    for seek in (keyframe, None) if seeks else (None,):
        try:
            source.restart(seek)
        except av.FFmpegError:
            continue
        streams.take(source.container)
        decoder = new_decoder()
        if decoder.reaches_frame():
            return decoder
    raise InputError(
        f"{source.name} has no keyframe at {float(keyframe):.3f} s of its clock",
        "it has changed since its segments were planned: plan them again",
    )


def _first_frame(decoder: VideoDecoder, source: PacketSource) -> VideoFrame:
    first = decoder.first_frame()
    if first is not None:
        return first
    if source.broken_off is not None:
        raise source.broken_off
    raise InputError(
        f"{source.name} has a video stream, but no frame of it can be decoded",
        "check that it plays and is complete; download or record it again",
    )


def _ways_to(
    start: Fraction, origin: Fraction, source: PacketSource
) -> Iterator[tuple[Fraction | None, Fraction | None]]:
    """Where to seek (None: to the beginning), and from when on to decode, until the start is surely found."""
    earlier = start - _EARLIER
    # Where a recording's clock jumps, a seek lands anywhere: only reading it all shows its times.
    name = source.container.format.name
    recording = isinstance(source, FileSource) and name in BROADCAST_FORMATS
    if not recording and name not in _SEEKS_BADLY:
        yield from ((at, None) for at in (start, earlier) if at > origin)
    if earlier > origin:
        yield None, earlier
    yield None, None
