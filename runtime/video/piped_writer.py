"""Writing a video to standard output, so that whoever reads it gets each frame soon."""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.container import OutputContainer

from dsmap.errors import DsmapError
from dsmap.runtime.video.containers import open_piped_output
from dsmap.runtime.video.encoder_table import Encoder
from dsmap.runtime.video.encoders import EncoderSettings
from dsmap.runtime.video.pipes import OUTPUT_NAME, PIPE, PipeOutput, StalledError, suffix_of
from dsmap.runtime.video.writer import VideoWriter


class PipedWriter(VideoWriter):
    """As `VideoWriter`, for standard output: Matroska, each frame as soon as it is encoded, encoders without delay.

    `stopped`: asked while the reader takes nothing, see `PipeOutput`. Raises BrokenPipeError when the reader has gone,
    KeyboardInterrupt when it is stopped then.
    """

    def __init__(self, stopped: Callable[[], bool] = bool, **options: Any) -> None:
        self._output = PipeOutput(stopped)
        super().__init__(PIPE, **options)

    def _chosen(self, encoding: EncoderSettings, suffix: str) -> Encoder:
        return super()._chosen(encoding, suffix).without_delay()

    def _opened(self, time_base: Fraction, *, recoverable: bool, alone: bool) -> OutputContainer:
        container = open_piped_output(self._output, suffix_of(self.path))
        self.path = Path(OUTPUT_NAME)  # for messages
        return container

    def _complete(self) -> None:
        pass

    def _remove(self) -> None:
        pass

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with super()._explained():
                yield
        except DsmapError as error:
            if isinstance(error.__cause__, BrokenPipeError):  # not an error: nobody wants the rest
                raise error.__cause__ from None
            if isinstance(error.__cause__, StalledError):
                raise KeyboardInterrupt from None
            raise
