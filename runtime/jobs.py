"""Translate a whole video with any function from frame to frame.

    report = translate_video("summer.mp4", "inverted.mp4", lambda frame: 255 - frame)

`translate` takes and gives uint8 (H, W, 3) RGB of the same size; a `Translator` is one, and is used for several frames
at once. Reading, translating and writing run at the same time, see `pipeline`. Pictures and folders of pictures:
`picture_jobs`.
"""

import errno
from collections.abc import Callable
from pathlib import Path

from dsmap.errors import DsmapError
from dsmap.runtime.frame_steps import FrameSteps, Steady, StyleAt, Translated
from dsmap.runtime.interrupts import StopRequest, stop_on_signals
from dsmap.runtime.job_report import InputFacts, JobReport, Pixels, Progress, StageClock, Translate
from dsmap.runtime.output_files import check_output_file, part_path
from dsmap.runtime.pipeline import Done, Pipeline
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
    upscale: bool = True,
    side_by_side: bool = False,
    style_at: StyleAt | None = None,
    steady: Steady | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    clock: StageClock | None = None,
) -> JobReport:
    """Translate every frame of a video; audio packets and all timestamps are kept as they are.

    `height`: translate at that many lines; the result has the input's size again, or with `upscale` False the smaller
    one. `side_by_side`: input left, result right. `style_at`: the style over time, for a `Translator`. The output
    appears under its name when it is whole. After Ctrl-C (`interrupted`), and where the input is damaged (not
    `complete`), it holds what was done: look at the report. When `translate` raises, nothing is left behind. Raises
    InputError for what is wrong with the arguments, DsmapError when the output cannot be written.
    """
    source, output = Path(source), Path(output)
    check_video(source, output, overwrite=overwrite)
    clock = clock or StageClock()
    with VideoReader(source) as reader, stop_on_signals() as stop:
        steps = FrameSteps(
            translate,
            reader.width,
            reader.height,
            lines=height,
            upscale=upscale,
            side_by_side=side_by_side,
            style_at=style_at,
            steady=steady,
        )
        writer = _open_writer(reader, part_path(output), steps)
        try:
            _run(reader, writer, steps, clock, progress, stop)
            _finish(reader, writer, clock, stop.requested)
        except BaseException:
            writer.discard()
            raise
    if writer.frames:
        _rename(writer.path, output, overwrite)
    return JobReport(
        input=source,
        output=output,
        width=steps.inside[0],
        height=steps.inside[1],
        frames=writer.frames,
        frames_expected=_frames_expected(reader, writer.frames, stop.requested),
        audio_streams=len(reader.audio),
        failed_packets=reader.failed_packets,
        interrupted=stop.requested,
        **clock.report(),
    )


def _open_writer(reader: VideoReader, path: Path, steps: FrameSteps) -> VideoWriter:
    width, height = steps.written
    return VideoWriter(
        path,
        width=width,
        height=height,
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
    steps: FrameSteps,
    clock: StageClock,
    progress: Progress | None,
    stop: StopRequest,
) -> None:
    """Decode, translate and encode until the end, or until somebody stops it."""
    first: int | None = None

    def begin(frame: Frame, index: int) -> Callable[[], Translated]:
        nonlocal first
        first = frame.pts if first is None else first
        last = (reader.expected_frames or 0) - 1
        share = min(1.0, index / last) if last > 0 else None
        return steps.begin(frame.rgb, float((frame.pts - first) * reader.time_base), share)

    def finish(frame: Frame, translated: Translated) -> Pixels:
        return steps.finish(frame.rgb, translated)

    with Pipeline(reader, begin, finish, in_flight=steps.in_flight, clock=clock, cancel=steps.cancel) as pipeline:
        for item in pipeline.results(stop):
            if not isinstance(item, Done):
                writer.copy(item)
                continue
            with clock.stage("encode"):
                writer.write(item.rgb, item.frame.pts, item.frame.duration)
            if progress:
                progress(writer.frames, reader.expected_frames)


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
