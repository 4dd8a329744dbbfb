"""The files that videos are written into: which container a name means, and what fits in it."""

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
from av.container import Flags, OutputContainer
from av.stream import Stream

from dsmap.errors import InputError
from dsmap.images import PICTURE_SUFFIXES

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffixes of videos, and libav's names for them."""

# What is written at least once a second. delay_moov: the header waits for the first fragment, which tells its start.
_FRAGMENTS = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": "1000000"}
_CLUSTERS = {"cluster_time_limit": "1000"}
_RECOVERABLE = {"mp4": _FRAGMENTS, "mov": _FRAGMENTS, "matroska": _CLUSTERS, "webm": _CLUSTERS}


def format_of(path: Path) -> str:
    """libav's name of the container that `path`'s suffix asks for. Raises InputError when it is none of ours."""
    if path.suffix.lower() not in FORMATS:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            raise InputError(
                f"a video does not fit into one picture ({path.name})",
                f"use .mp4, or number the pictures: -o {path.with_name(path.stem)}/%05d{path.suffix}",
            )
        raise InputError(
            f"cannot write a video as {path.suffix or 'a file without a suffix'} ({path.name})",
            f"use one of {', '.join(FORMATS)}, for example -o {path.stem or path.name}.mp4",
        )
    return FORMATS[path.suffix.lower()]


def check_container(path: Path, audio: Sequence[Stream]) -> None:
    """Raise InputError when the container that `path`'s suffix asks for is not known or cannot hold `audio`."""
    format_of(path)
    if holds(path.suffix, audio):
        return
    suffix, codecs = path.suffix, ", ".join(sorted({codec_name(stream) for stream in audio}))
    other = next((suffix for suffix in (".mkv", ".mov", ".mp4") if holds(suffix, audio)), None)
    fact = f"{suffix} files cannot hold this video's audio ({codecs}), which is copied, never re-encoded"
    if suffix.lower() == ".webm":
        fact = f"{suffix} files hold Opus and Vorbis audio; this video's ({codecs}) would be copied, never re-encoded"
    raise InputError(
        fact,
        f"choose a container that can: -o {path.with_suffix(other)}" if other else "convert the audio to AAC first",
    )


def holds(suffix: str, streams: Sequence[Stream]) -> bool:
    """Whether the container takes these streams as they are, by writing its header to memory."""
    if not streams:
        return True
    probe = av.open(io.BytesIO(), "w", format=FORMATS[suffix.lower()])
    try:
        for stream in streams:
            probe.add_stream_from_template(stream, opaque=True)
        probe.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, ValueError):
            probe.close()
    return True


def open_output(path: Path, time_base: Fraction, *, recoverable: bool = False) -> OutputContainer:
    """A new file at `path` for video with timestamps in `time_base`. Raises what PyAV raises.

    `recoverable`: what was written until a second or two ago plays even when the process is killed. An mp4 grows in
    fragments then, and becomes an ordinary one at its end, with the index behind the frames.
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


def codec_name(stream: Stream) -> str:
    """For people."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    return getattr(stream, "name", None) or "unknown codec"  # PyAV has no name without a codec context
