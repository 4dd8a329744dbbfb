"""Opens a video file and reads its packets: files from anywhere, so nothing but the file itself is read."""

import functools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
from av.container import InputContainer
from av.packet import Packet

from dsmap.errors import DsmapError, InputError

MAX_READ_FAILURES = 16  # in a row; then the rest of the file counts as lost

# These name further files and addresses to read. Device formats are no danger: no file is taken for one.
_NAMING_OTHERS = frozenset(
    {"hls", "concat", "dash", "imf", "image2", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest"}
)
_PLAYLIST_STARTS = (b"#EXTM3U", b"ffconcat", b"v=0\r\n", b"v=0\n", b"<MPD")


class FileSource:
    """The packets of the file `path`. Raises InputError when it is no video."""

    reconnections = 0
    broken_off: DsmapError | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.container = open_file(path)
        self.failures = 0
        """Places where nothing could be read; reading went on behind them."""
        self._cancelled = False

    def restart(self, at: Fraction | None) -> None:
        """Go to a keyframe at or before `at` seconds of the file's clock; None: to the beginning.

        Raises av.FFmpegError where the file cannot do that.
        """
        if at is None:
            self.container.close()
            self.container = open_file(self.path)
            return
        self.container.seek(int(at * av.time_base))

    def packets(self) -> Iterator[Packet]:
        """All packets of all streams; reading goes on after an error while anything comes."""
        failures = 0
        while failures < MAX_READ_FAILURES:
            try:
                for packet in self.container.demux():
                    if self._cancelled:
                        return
                    failures = 0
                    yield packet
                return
            except av.FFmpegError:
                failures += 1
                self.failures += failures == 1
        yield from flush_packets(self.container)  # reading gave up: take what is still in the decoder

    def cancel(self) -> None:
        """Ends `packets` at the next one. Any thread may call it."""
        self._cancelled = True

    def close(self) -> None:
        """Closes the file. No iteration may be under way."""
        self.container.close()


def flush_packets(container: InputContainer) -> Iterator[Packet]:
    """What makes the video decoders give what they still hold."""
    for stream in container.streams.video:
        packet = Packet()
        packet.stream = stream
        yield packet


def open_file(path: Path) -> InputContainer:
    """Raises InputError, with the reason, when `path` is no video file."""
    av.logging.set_libav_level(av.logging.PANIC)  # we report failures ourselves
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the spelling and the folder")
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name a video file")
    if not path.is_file():
        raise InputError(f"{path} is not a file but a pipe or a device", "save the video in a file first")
    try:
        options = {"format_whitelist": _formats_of_one_file()}
        # An absolute path: FFmpeg would take "12:30.mp4" for a protocol.
        return av.open(str(path.absolute()), metadata_errors="replace", container_options=options)
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied", "check the file's permissions") from None
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise _explained(path, error) from error


def _explained(path: Path, error: BaseException) -> InputError:
    if _lacks_index(path):
        return InputError(
            f"{path} is cut off: its index (moov), which stands at the end, is missing",
            "copy or download the whole file again; a recording that broke off needs a repair tool",
        )
    if _is_playlist(path):
        return InputError(
            f"{path} is a playlist: it names other files or addresses, which are not opened from a file",
            "pass the video itself, or the playlist's own address (https://...)",
        )
    if isinstance(error, MemoryError):
        fact = f"{path} asks for more memory than there is, or holds more than 1000 streams"
        return InputError(fact, "it is damaged, or made to do harm; get a sound copy")
    # Other errors' texts mislead: "Device or resource busy" for an impossible size.
    reason = "it is damaged at its beginning"
    if isinstance(error, av.error.InvalidDataError) and error.strerror:
        reason = error.strerror
    return InputError(f"{path} is not a video: {reason}", "pass a video file (mp4, mkv, mov, webm, ...)")


@functools.cache
def _formats_of_one_file() -> str:
    return ",".join(sorted(av.formats_available - _NAMING_OTHERS))


def _is_playlist(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(_PLAYLIST_STARTS) or (start.startswith(b"<?xml") and b"<MPD" in start)


def _lacks_index(path: Path) -> bool:
    """Whether the file begins as an mp4 or mov and has no `moov` box."""
    with path.open("rb") as stream:
        if stream.read(8)[4:] != b"ftyp":
            return False
        end = stream.seek(0, os.SEEK_END)
        at = 0
        while at + 8 <= end:
            stream.seek(at)
            header = stream.read(16)
            if header[4:8] == b"moov":
                return False
            size = int.from_bytes(header[:4], "big")
            if size == 1:  # the real one stands behind the name
                size = int.from_bytes(header[8:16], "big")
            if size < 8:  # 0: up to the end of the file
                break
            at += size
    return True
