"""Containers of output files: which one a name means, and what it can hold."""

import contextlib
import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.audio.stream import AudioStream
from av.container import Flags, OutputContainer
from av.stream import Stream

from dsmap.common.images import IMAGE_SUFFIXES
from dsmap.errors import InputError
from dsmap.runtime.video.windows_sound import add_by_windows_name, goes_by_windows_name

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffixes of videos, and libav's names for them."""

# Written at least once a second. delay_moov: the header waits for the first fragment, which determines the start time.
_FRAGMENTS = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": "1000000"}
_CLUSTERS = {"cluster_time_limit": "1000"}
_RECOVERABLE = {"mp4": _FRAGMENTS, "mov": _FRAGMENTS, "matroska": _CLUSTERS, "webm": _CLUSTERS}


def format_of(path: Path) -> str:
    """libav's name of the container that `path`'s suffix asks for. Raises InputError for an unsupported one."""
    if path.suffix.lower() not in FORMATS:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(
                f"a video does not fit into one image ({path.name})",
                f"use .mp4, or number the images: -o {path.with_name(path.stem)}/%05d{path.suffix};"
                f" --preview {path} shows one frame in every style",
            )
        raise InputError(
            f"cannot write a video as {path.suffix or 'a file without a suffix'} ({path.name})",
            f"use one of {', '.join(FORMATS)}, for example -o {path.stem or path.name}.mp4",
        )
    return FORMATS[path.suffix.lower()]


def check_container(path: Path, audio: Sequence[Stream]) -> None:
    """Raise InputError when the container that `path`'s suffix asks for is unknown or cannot hold `audio`."""
    format_of(path)
    if holds(path.suffix, audio):
        return
    raise no_room(path.suffix, audio, path)


def no_room(suffix: str, audio: Sequence[Stream], path: Path | None = None) -> InputError:
    """The error for a container that cannot hold the sound as it is, with one that can."""
    refused = [stream for stream in audio if not holds(suffix, [stream])] or list(audio)
    codecs = ", ".join(sorted({codec_name(stream) for stream in refused}))
    fact = f"{suffix} files cannot hold this video's audio ({codecs}) as it is"
    if suffix.lower() == ".webm":
        fact = f"{suffix} files hold Opus and Vorbis audio; this video's ({codecs}) would be copied as it is"
    other = next((known for known in (".mkv", ".mov", ".mp4") if holds(known, audio)), None)
    advice = "pass --audio convert to encode it again, or --audio none to leave it out"
    if other:
        name = path.with_suffix(other) if path else f"NAME{other}"
        advice = f"choose one that holds {codecs.upper()}: -o {name}; or {advice}"
    return InputError(fact, advice)


def holds(suffix: str, streams: Sequence[Stream]) -> bool:
    """Whether the container can hold these streams as they are; tried by writing its header to memory."""
    if not streams:
        return True
    probe = av.open(io.BytesIO(), "w", format=FORMATS[suffix.lower()])
    try:
        names = sum(add_copy(probe, suffix, stream)[1] for stream in streams)
        if names and any(codec_name(stream) == "truehd" for stream in streams):
            return False  # whose name stands in for Windows' names
        probe.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, ValueError):
            probe.close()
    return True


def add_copy(container: OutputContainer, suffix: str, stream: Stream) -> tuple[Stream, bool]:
    """Add a copy of a stream; also whether it is stored under a Windows codec's name. Raises PyAV's errors."""
    try:
        return container.add_stream_from_template(stream, opaque=True), False
    except ValueError:
        if not goes_by_windows_name(suffix, stream):
            raise
    return add_by_windows_name(container, cast(AudioStream, stream)), True


def open_output(path: Path, time_base: Fraction, *, recoverable: bool = False) -> OutputContainer:
    """A new file at `path` for video with timestamps in `time_base`. Raises PyAV's errors.

    `recoverable`: if the process is killed, the file plays up to the last second or two. An mp4 consists of
    fragments until it is closed; then it becomes an ordinary one, with the index after the frames.
    """
    name = format_of(path)
    # Matroska's default moves everything so that no timestamp is negative: audio often starts just before 0.
    options = {"avoid_negative_ts": "disabled"}
    if name in ("mp4", "mov"):
        # Where a stream starts is counted in the movie's time scale, and the usual 1/1000 s is too coarse: a multiple
        # of the video's is exact for it, and within half an audio sample.
        scale = time_base.denominator * math.ceil(90_000 / time_base.denominator)
        # Faststart: the index moves to the front, so that browsers start before the whole file has come.
        options = {"movflags": "+faststart", "movie_timescale": str(scale)}
    if recoverable:
        options |= {"flush_packets": "1", **_RECOVERABLE[name]}
    container = av.open(str(path.absolute()), "w", format=name, options=options)
    container.flags |= cast(
        int, Flags.bitexact.value
    )  # no random numbers and no versions: the same input gives the same file
    return container


def open_piped_output(file: object, suffix: str) -> OutputContainer:
    """A video for a `file` that cannot seek, of the container for `suffix`; every packet is written at once.

    Raises PyAV's errors and those of the file.
    """
    options = {"avoid_negative_ts": "disabled", "flush_packets": "1", "max_interleave_delta": "1000000"}
    options |= {"cluster_time_limit": "0"} if suffix == ".mkv" else {}
    container = av.open(file, "w", format=FORMATS[suffix], options=options)
    container.flags |= cast(int, Flags.bitexact.value)
    return container


def codec_name(stream: Stream) -> str:
    """The codec's name for messages."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    return getattr(stream, "name", None) or "unknown codec"  # PyAV has no name without a codec context
