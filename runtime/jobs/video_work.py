"""Running the stages of one video job: reading, translating and writing, each in its thread."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2  # noqa: F401  # before av

# isort: split
from av.packet import Packet

from dsmap.common.interrupts import StopRequest
from dsmap.common.notify import Notify
from dsmap.common.part_files import part_file
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.device_result import DeviceResult
from dsmap.runtime.frame_translator import ClipTime, FrameTranslator
from dsmap.runtime.jobs.frame_pool import FramePool
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.packet_journal import PacketJournal
from dsmap.runtime.jobs.pipeline import Done, Pipeline
from dsmap.runtime.jobs.report import Progress, StageClock
from dsmap.runtime.jobs.stages import FrameSteps, Translated
from dsmap.runtime.jobs.video_plan import Reader, open_source, writes_animation
from dsmap.runtime.styles.style_path import share_of_clip
from dsmap.runtime.video.animation_writer import AnimationWriter
from dsmap.runtime.video.copy_plan import CopyPlan
from dsmap.runtime.video.encoders import keeps_ten_bits
from dsmap.runtime.video.frame import Frame, Pixels
from dsmap.runtime.video.hardware import SOFTWARE
from dsmap.runtime.video.pipes import is_piped_out
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.sequence_writer import SequenceWriter, is_sequence, open_writer
from dsmap.runtime.video.writer import VideoWriter

Writer = VideoWriter | SequenceWriter | AnimationWriter


@dataclass(frozen=True, kw_only=True)
class FinishedFrames:
    """All frames of a job, when they are in its parts already: what decoding them has told."""

    frames: int
    failed_packets: int
    size_changes: int


class Parts(Protocol):
    """Where the finished parts of a job are kept."""

    journal: PacketJournal
    frames: int
    """So many of the frames that are read are done already."""

    def new_file(self) -> Path:
        """An empty file for the video to grow in."""

    def is_due(self) -> bool:
        """Whether a part should end here; asked before every frame."""


def open_for(
    translator: FrameTranslator, source: str | Path, options: VideoOptions, notify: Notify
) -> tuple[Reader, FramePool | None]:
    """The input, opened for a translator, and where its frames' memory comes from. Raises InputError."""
    pool = None if translator.keeps_frames else FramePool()
    # What is done to frames besides the translation is done by the host.
    on_device = translator.takes_device_frames() and not keeps_ten_bits(options.codec)
    on_device &= options.height is None and options.refine in ("auto", "off") and not options.side_by_side
    reader = open_source(source, options, notify, pool, on_device=on_device)
    if isinstance(reader, VideoReader):
        size = reader.width, reader.height
        reader.on_device &= options.size_inside(*size) == size and translator.takes_device_frames(*size)
    return reader, pool


def frame_steps(reader: Reader, translator: FrameTranslator, options: VideoOptions) -> FrameSteps:
    """What is done to each frame of a job."""
    return FrameSteps(
        translator,
        reader.width,
        reader.height,
        lines=options.height,
        upscale=options.upscale,
        refine=options.refine,
        side_by_side=options.side_by_side,
    )


class VideoWork:
    """The stages of one job."""

    def __init__(
        self,
        reader: Reader,
        steps: FrameSteps,
        clock: StageClock,
        stop: StopRequest,
        parts: Parts | None,
        pool: FramePool | None,
        finished: FinishedFrames | None = None,
    ) -> None:
        self._reader, self._steps, self._clock, self._stop, self._parts = reader, steps, clock, stop, parts
        self._pool = pool
        self._finished_before = finished
        if finished is not None and isinstance(reader, VideoReader):
            reader.skip_decoding()
        self._skip = parts.frames if parts else 0
        self._first_pts: int | None = None
        self._keeps_results = False  # in the memory of the device, up to its encoder
        self.interrupted = False
        """Whether it was stopped before the end of the input."""

    def open_writer(self, output: Path, plan: CopyPlan, options: VideoOptions, projection: bytes = b"") -> Writer:
        """The writer, already holding the frames of an earlier job."""
        if is_sequence(output) or is_piped_out(output) or writes_animation(self._reader, output):
            return self._open(output, plan, options, projection)
        path = self._new_file(output)
        try:
            return self._open(path, plan, options, projection)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _new_file(self, output: Path) -> Path:
        """An empty file for the video to grow in."""
        if self._parts is not None:
            return self._parts.new_file()
        try:
            return part_file(output)
        except OSError as error:
            raise DsmapError(f"cannot write into {output.parent}: {error.strerror}", "check the disk") from error

    def _open(self, path: Path, plan: CopyPlan, options: VideoOptions, projection: bytes) -> Writer:
        width, height = self._steps.written
        writer = open_writer(
            path,
            width=width,
            height=height,
            time_base=self._reader.time_base,
            rate=self._reader.rate,
            sample_aspect=self._reader.sample_aspect,
            encoding=options.encoding,
            copied=plan.written,
            sound=options.audio,
            chapters=self._reader.chapters,
            metadata={} if options.strip_metadata else self._reader.metadata,
            video_metadata={} if options.strip_metadata else self._reader.video_metadata,
            journal=self._parts.journal if self._parts else None,
            projection=projection,
            on_device=isinstance(self._reader, VideoReader) and self._reader.keeps_on_device,
            timecode=None if options.strip_metadata else self._reader.timecode,
            overwrite=options.overwrite,
            recoverable=isinstance(self._reader, VideoReader) and self._reader.is_live,
            animation=writes_animation(self._reader, path),
            plays=getattr(self._reader, "plays", 0),
            stopped=lambda: self._stop.requested,
        )
        if isinstance(writer, VideoWriter):
            writer.prefill()
        return writer

    def run(self, writer: Writer, progress: Progress | None) -> None:
        """Decode, translate and encode until the end of the input, or until it is stopped."""
        if isinstance(self._reader, VideoReader):
            self._reader.as_yuv = self._steps.takes_yuv and isinstance(writer, VideoWriter) and writer.takes_yuv
        self._keeps_results = isinstance(writer, VideoWriter) and writer.on_device
        with Pipeline(
            self._items(),
            self._begin,
            self._steps.finish_frame,
            in_flight=self._steps.in_flight,
            clock=self._clock,
            cancel=self._cancel,
        ) as pipeline:
            for item in pipeline.results(self._stop):
                if not isinstance(item, Done):
                    writer.copy(item)
                    continue
                with self._clock.stage("encode"):
                    if self._parts and isinstance(writer, VideoWriter) and self._parts.is_due():
                        writer.cut()
                    writer.write(item.rgb, item.frame.pts, item.frame.duration)
                if self._pool is not None and item.frame.device is None and item.frame.yuv is None:
                    self._pool.give(item.frame.rgb)
                if progress:
                    progress(writer.frames, self._reader.expected_frames)
            self.interrupted = self._stop.requested and not pipeline.ended
        if writer.frames == 0 and not self.interrupted:
            raise InputError(f"{self._reader.name} has no frame in that range", "choose another --start and --end")

    def finish(self, writer: Writer) -> None:
        """Complete the file with what was done."""
        if writer.frames == 0:
            writer.discard()  # stopped during the first frame: there is nothing to keep
            return
        with self._clock.stage("encode"):
            interrupted = self._stop.requested
            writer.close(drop_audio_after_video=interrupted or self._reader.missing_frames > 0, interrupted=interrupted)

    def report(self, writer: Writer) -> dict[str, Any]:
        """The fields of a `JobReport` that are about the work."""
        reader, before = self._reader, self._finished_before
        failed = reader.failed_packets + (before.failed_packets if before else 0)
        return {
            "width": self._steps.inside[0],
            "height": self._steps.inside[1],
            "frames": writer.frames,
            "frames_expected": self._frames_expected(writer.frames, failed),
            "decoder": getattr(reader, "decoder", SOFTWARE),
            "failed_packets": failed,
            "codec_change": getattr(reader, "codec_change", None) if failed else None,
            "dropped_packets": writer.dropped_packets,
            "broken_off": reader.broken_off.fact if reader.broken_off else None,
            "reconnections": reader.reconnections,
            "size_changes": before.size_changes if before else reader.size_changes,
            **self._clock.report(),
        }

    def _frames_expected(self, frames: int, failed: int) -> int | None:
        lost = self._reader.missing_frames + failed
        if self.interrupted or (lost and self._reader.counts_exactly):
            return self._reader.expected_frames
        return frames + lost

    def _items(self) -> Iterator[Frame | Packet]:
        """What the reader gives, without the frames that are done already."""
        skip = self._skip
        for item in self._reader:
            if isinstance(item, Frame):
                if self._first_pts is None:
                    self._first_pts = item.pts
                    if skip and item.device is None:
                        self._steps.begin_later(item.pixels)
                if skip:
                    skip -= 1
                    continue
            yield item

    def _begin(self, frame: Frame, index: int) -> Callable[[], Translated | Pixels | DeviceResult]:
        assert self._first_pts is not None
        seconds = float((frame.pts - self._first_pts) * self._reader.time_base)
        share = share_of_clip(seconds, self._reader.expected_seconds, 1 / float(self._reader.rate))
        at = ClipTime(seconds, share)
        if frame.device is not None:
            return self._steps.begin_device(frame.device, at, keep=self._keeps_results)
        return self._steps.begin(frame.pixels, at)

    def _cancel(self) -> None:
        self._steps.cancel()
        self._reader.cancel()
