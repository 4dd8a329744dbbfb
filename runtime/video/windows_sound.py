"""Writing sound that Matroska stores under a Windows codec's name (WMA, ADPCM, ...), which PyAV alone cannot write.

PyAV asks libav whether a container "normally" takes a codec, and for these Matroska says no, although it has a track
type for them: A_MS/ACM, whose private data is Windows' own description of the codec. libav's muxer for sound-only
Matroska makes that description. It is copied into the video under the name of another codec of equal length, and the
name is corrected in the finished file.
"""

import io
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from dsmap.errors import DsmapError

_CODECS = ("adpcm_", "gsm_ms", "pcm_", "truespeech", "wma")  # prefixes of libav's names
_NAME, _STAND_IN = b"A_MS/ACM", b"A_TRUEHD"
_ELEMENT = b"\x86\x88"  # Matroska's CodecID, of 8 letters
_CLUSTER = b"\x1f\x43\xb6\x75"
_MAX_HEADER_BYTES = 64 << 20  # bytes; attachments are in it


def goes_by_windows_name(suffix: str, stream: Stream) -> bool:
    """Whether files with `suffix` store this sound under a Windows codec's name."""
    if suffix.lower() != ".mkv" or not isinstance(stream, AudioStream) or stream.codec_context is None:
        return False
    return stream.codec_context.name.startswith(_CODECS) and _described(stream) is not None


def add_by_windows_name(container: OutputContainer, stream: AudioStream) -> AudioStream:
    """Add the stream's copy to a Matroska file; call `name_tracks` when the file is complete."""
    described = _described(stream)
    assert described is not None
    with av.open(io.BytesIO(described.replace(_NAME, _STAND_IN))) as template:
        copy = container.add_stream_from_template(template.streams.audio[0], opaque=True)
    copy.time_base = stream.time_base
    return copy


def name_tracks(path: Path, count: int) -> None:
    """Correct the codec name of `count` tracks in the finished file. Raises DsmapError if it has fewer or more."""
    if not count:
        return
    with path.open("r+b") as file:
        header = file.read(_MAX_HEADER_BYTES)
        header = header[: header.find(_CLUSTER) if _CLUSTER in header else len(header)]
        if header.count(_ELEMENT + _STAND_IN) != count:
            raise DsmapError(f"{path}: the tracks of its sound cannot be named", "pass --audio convert")
        at = -1
        for _ in range(count):
            at = header.index(_ELEMENT + _STAND_IN, at + 1)
            file.seek(at + len(_ELEMENT))
            file.write(_NAME)


class _SoundFile(io.BytesIO):
    name = "sound.mka"  # PyAV derives the format from it


def _described(stream: AudioStream) -> bytes | None:
    """A sound-only Matroska file with the stream's description; None where Windows has no name for its codec."""
    file = _SoundFile()
    try:
        with av.open(file, "w") as sound:
            copy = sound.add_stream_from_template(stream, opaque=True)
            packet = Packet(bytes(16))
            packet.pts = packet.dts = 0
            packet.stream, packet.time_base = copy, stream.time_base or Fraction(1, 1000)
            sound.mux(packet)
    except (av.FFmpegError, ValueError):
        return None
    made = file.getvalue()
    return made if made.count(_NAME) == 1 else None
