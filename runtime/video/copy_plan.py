"""Planning what becomes of the streams that are not translated: copied, converted, encoded, or left out.

Everything is copied bit for bit where the container takes it. Text subtitles are converted for a container that knows
another kind of text only, and sound is encoded again where that was asked for; the rest is left out, and reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.audio.stream import AudioStream
from av.stream import Disposition, Stream
from av.subtitles.stream import SubtitleStream

from dsmap.runtime.video.containers import codec_name, holds, no_room

_TEXT_CODECS = {".mp4": "mov_text", ".m4v": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
_MAX_STREAMS = 999  # beside the video: PyAV crashes when libav refuses the 1001st stream, and no input has more
_MAX_ENCODED = 64


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A stream that the output will not contain."""

    stream: Stream
    reason: str

    def __str__(self) -> str:
        language = self.stream.metadata.get("language")
        return f"{self.stream.type} stream {self.stream.index}{f' ({language})' if language else ''}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """What becomes of each stream that is not translated."""

    copied: tuple[Stream, ...] = ()
    """Bit for bit."""
    converted: tuple[tuple[Stream, str], ...] = ()
    """Text subtitles, each with the codec they are converted to."""
    encoded: tuple[AudioStream, ...] = ()
    """Sound that is encoded again."""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def written(self) -> list[Stream]:
        """The streams that the output contains in some form."""
        return [*self.copied, *(stream for stream, _ in self.converted), *self.encoded]


def plan_copies(suffix: str, streams: Sequence[Stream], audio: str = "copy") -> CopyPlan:
    """Which of `streams` a container (its suffix, one of `FORMATS`) can hold, and how.

    `audio`: "copy"; "convert" encodes all sound again; "none" leaves it out. Raises InputError for sound that cannot
    be copied.
    """
    suffix = suffix.lower()
    fitting: list[Stream] = []
    converted: list[tuple[Stream, str]] = []
    encoded: list[AudioStream] = []
    left_out: list[LeftOut] = []
    for stream in streams:
        if _is_chapter_text(stream):
            continue  # chapters are copied separately
        if isinstance(stream, AudioStream) and (reason := _why_silent(stream, audio)):
            left_out.append(LeftOut(stream=stream, reason=reason))
        elif isinstance(stream, AudioStream) and audio == "convert":
            encoded.append(stream)
        elif _fits(suffix, stream) and holds(suffix, [stream]):
            fitting.append(stream)
        elif stream.type == "audio":
            raise no_room(suffix, [one for one in streams if isinstance(one, AudioStream)])
        elif isinstance(stream, SubtitleStream) and _is_text(stream):
            converted.append((stream, _TEXT_CODECS[suffix]))
        else:
            left_out.append(LeftOut(stream=stream, reason=f"{suffix} files cannot hold {_words(stream)}"))
    converted, encoded = converted[:_MAX_STREAMS], encoded[:_MAX_ENCODED]
    room = max(_MAX_STREAMS - len(converted) - len(encoded), 0)
    copied = fitting[: _max_together(suffix, fitting[:room])]
    for stream in fitting[len(copied) :]:
        if stream.type == "audio":
            raise no_room(suffix, [stream])
        left_out.append(LeftOut(stream=stream, reason=f"{suffix} files cannot hold that many streams"))
    return CopyPlan(copied=tuple(copied), converted=tuple(converted), encoded=tuple(encoded), left_out=tuple(left_out))


def _why_silent(stream: AudioStream, audio: str) -> str:
    """Why a sound stream cannot be in the result; empty where it can."""
    if audio == "none":
        return "--audio none"
    if not stream.codec_context.sample_rate:
        return "it is announced, but none of it was found at the beginning of the file"
    return ""


def _max_together(suffix: str, streams: Sequence[Stream]) -> int:
    """How many of the streams, from the first on, the container can hold together. Each fits alone."""
    if holds(suffix, streams):
        return len(streams)
    fits, too_many = 0, len(streams)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if holds(suffix, streams[:middle]) else (fits, middle)
    return fits


def _is_text(stream: SubtitleStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.text_sub


def _fits(suffix: str, stream: Stream) -> bool:
    """Whether the container can hold the stream, where writing its header does not show it."""
    if stream.type == "attachment":
        return suffix == ".mkv"  # WebM takes them and does not write them
    if stream.type == "data":
        return stream.name not in (None, "bin_data")  # timecodes and camera data fail when the file is closed
    return stream.type != "video" or bool(stream.disposition & Disposition.attached_pic)


def _words(stream: Stream) -> str:
    if stream.type == "attachment":
        return f"attachments ({stream.name})"
    if stream.type == "video":
        return "a cover image" if stream.disposition & Disposition.attached_pic else "a second, untranslated video"
    return f"{codec_name(stream)} {'subtitles' if stream.type == 'subtitle' else stream.type}"


def _is_chapter_text(stream: Stream) -> bool:
    """Whether this is the track in which mov and mp4 store the names of chapters."""
    return stream.type == "data" and stream.name == "bin_data" and bool(stream.container.chapters())
