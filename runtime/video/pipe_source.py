"""Reading a video from standard input."""

from fractions import Fraction

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from dsmap.errors import InputError
from dsmap.runtime.video.file_source import ContainerSource
from dsmap.runtime.video.media import open_pipe
from dsmap.runtime.video.pipes import INPUT_NAME, PipeInput


class PipeSource(ContainerSource):
    """The packets of the video that is piped in. Raises InputError when it is not one that can be read so."""

    threads = "SLICE"  # several frames at once are faster, but delay those of a camera

    def __init__(self) -> None:
        self._input = PipeInput()
        super().__init__(INPUT_NAME, open_pipe(self._input))

    def restart(self, at: Fraction | None) -> None:
        """See `FileSource`: not possible here. Raises InputError."""
        raise InputError(f"{INPUT_NAME} can be read once, from its beginning", "leave --start out")

    def cancel(self) -> None:
        """End `packets` soon. Any thread may call it."""
        super().cancel()
        self._input.cancel()
