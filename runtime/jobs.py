"""Translate a whole video with any function from frame to frame.

    report = translate_video("summer.mp4", "inverted.mp4", lambda frame: 255 - frame)

`translate` takes and gives uint8 (H, W, 3) RGB of the same size. The three stages (decode, translate, encode) are
separate steps of one loop, each with its own clock. Pictures and folders of pictures: `picture_jobs`.
"""

import errno
from pathlib import Path

from dsmap.errors import DsmapError
from dsmap.runtime.interrupts import StopRequest, stop_on_signals
from dsmap.runtime.job_report import InputFacts, JobReport, Progress, StageClock, Translate, translated
from dsmap.runtime.output_files import check_output_file, part_path
from dsmap.runtime.video_reader import Frame, VideoReader
from dsmap.runtime.video_writer import VideoWriter, check_container


def check_video(source: Path, output: Path, *, height: int | None = None, overwrite: bool = False) -> InputFacts:
    """Everything that can be wrong with the names and the file, before any work. Raises InputError."""
    with VideoReader(source, height=height) as reader:
        check_container(output, reader.audio)
        check_output_file(output, source, overwrite=overwrite)
        return InputFacts(
            width=reader.width,
            height=reader.height,
            frames=reader.expected_frames,
            audio_streams=len(reader.audio),
            left_out=reader.left_out,
        )


def translate_video(
    source: str | Path,
    output: str | Path,
    translate: Translate,
    *,
    height: int | None = None,
    side_by_side: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> JobReport:
    """Translate every frame of a video; audio packets and all timestamps are kept as they are.

    `height`: scale to that many lines first. `side_by_side`: input left, result right. The output appears under its
    name when it is whole. After Ctrl-C (`interrupted`), and where the input is damaged (not `complete`), it holds what
    was done: look at the report. When `translate` raises, nothing is left behind. Raises InputError for what is
    wrong with the arguments, DsmapError when the output cannot be written.
    """
    source, output = Path(source), Path(output)
    check_video(source, output, overwrite=overwrite)
    clock = StageClock()
    with VideoReader(source, height=height) as reader, stop_on_signals() as stop:
        writer = _open_writer(reader, part_path(output), side_by_side)
        try:
            interrupted = _run(reader, writer, translate, side_by_side, clock, progress, stop)
            _finish(reader, writer, clock, interrupted)
        except BaseException:
            writer.discard()
            raise
    if writer.frames:
        _rename(writer.path, output, overwrite)
    return JobReport(
        input=source,
        output=output,
        width=reader.width,
        height=reader.height,
        frames=writer.frames,
        frames_expected=_frames_expected(reader, writer.frames, interrupted),
        audio_streams=len(reader.audio),
        failed_packets=reader.failed_packets,
        interrupted=interrupted,
        **clock.report(),
    )


def _open_writer(reader: VideoReader, path: Path, side_by_side: bool) -> VideoWriter:
    return VideoWriter(
        path,
        width=reader.width * (2 if side_by_side else 1),
        height=reader.height,
        time_base=reader.time_base,
        rate=reader.rate,
        sample_aspect=reader.sample_aspect,
        audio=reader.audio,
        metadata=reader.metadata,
        video_metadata=reader.video_metadata,
    )


def _run(
    reader: VideoReader,
    writer: VideoWriter,
    translate: Translate,
    side_by_side: bool,
    clock: StageClock,
    progress: Progress | None,
    stop: StopRequest,
) -> bool:
    """Decode, translate and encode until the end (False) or until somebody stops it (True)."""
    items = iter(reader)
    try:
        while not stop:
            with clock.stage("decode"):
                item = next(items, None)
            if item is None:
                return False
            if not isinstance(item, Frame):
                writer.copy(item)
                continue
            with clock.stage("translate"), stop.interruptible():
                picture = translated(translate, item.rgb, side_by_side)
            with clock.stage("encode"):
                writer.write(picture, item.pts, item.duration)
            if progress:
                progress(writer.frames, reader.expected_frames)
    except KeyboardInterrupt:
        pass  # during `translate`: everything before that frame is in the writer
    return True


def _finish(reader: VideoReader, writer: VideoWriter, clock: StageClock, interrupted: bool) -> None:
    if writer.frames == 0:
        writer.discard()  # stopped during the first frame: there is nothing to keep
        return
    with clock.stage("encode"):
        writer.close(drop_audio_after_video=interrupted or reader.missing_frames > 0)


def _rename(part: Path, output: Path, overwrite: bool) -> None:
    try:
        if output.exists() and not overwrite:
            raise FileExistsError(errno.EEXIST, "somebody else has made it meanwhile")
        part.replace(output)
    except OSError as error:
        fact = f"the finished video could not be named {output}: {error.strerror}"
        raise DsmapError(fact, f"it is whole, and lies at {part}") from error


def _frames_expected(reader: VideoReader, frames: int, interrupted: bool) -> int | None:
    lost = reader.missing_frames + reader.failed_packets
    if interrupted or (lost and reader.counts_exactly):
        return reader.expected_frames
    return frames + lost
