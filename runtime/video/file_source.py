"""Reading the packets of a video file."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.container import InputContainer
from av.packet import Packet

from dsmap.errors import DsmapError
from dsmap.runtime.video.media import open_file

MAX_READ_FAILURES = 16  # in a row; then the rest of the file counts as lost


class ContainerSource:
    """The packets of an open container, called `name` in messages."""

    reconnections = 0
    broken_off: DsmapError | None = None
    threads = "AUTO"
    """How the decoder's threads share the work: "AUTO" or "SLICE", see FFmpeg."""

    def __init__(self, name: str, container: InputContainer) -> None:
        self.name = name
        self.container = container
        self.failures = 0
        """Unreadable places in the file, after which reading continued."""
        self._cancelled = False

    def packets(self) -> Iterator[Packet]:
        """All packets of all streams; reading continues after errors as long as packets come."""
        failures = 0
        while failures < MAX_READ_FAILURES:
            try:
                for packet in self.container.demux():
                    if self._cancelled:
                        return
                    failures = 0
                    yield packet
                return
            except (
                IndexError
            ):  # PyAV, at the very end, where streams have appeared that were not there at the beginning
                return
            except av.FFmpegError:
                failures += 1
                self.failures += failures == 1
        yield from flush_packets(self.container)  # reading gave up: take what is still in the decoder

    def saw_frame(self) -> None:
        """Do nothing: a file ends by itself."""

    def cancel(self) -> None:
        """End `packets` at the next one. Any thread may call it."""
        self._cancelled = True

    def close(self) -> None:
        """Close the file. No iteration may be in progress."""
        self.container.close()


class FileSource(ContainerSource):
    """The packets of the file `path`. Raises InputError when it is not a video."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), open_file(path))

    def restart(self, at: Fraction | None) -> None:
        """Go to a keyframe at or before `at` seconds of the file's clock; None: to the beginning.

        Raises av.FFmpegError where the file cannot seek.
        """
        if at is None:
            self.container.close()
            self.container = open_file(self.path)
            return
        self.container.seek(int(at * av.time_base))


def flush_packets(container: InputContainer) -> Iterator[Packet]:
    """Empty packets, which make the video decoders return the frames they still hold."""
    for stream in container.streams.video:
        packet = Packet()
        packet.stream = stream
        yield packet
