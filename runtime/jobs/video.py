"""Translating a whole video with any function from frame to frame.

    report = translate_video("summer.mp4", "winter.mp4", Translator.load("summer-winter", domain="winter"))
    report = translate_video("summer.mp4", "inverted.mkv", lambda frame: 255 - frame, codec="hevc", start=10, end=20)

Reading, translating and writing run at the same time, see `pipeline`. Images and folders of images: `images`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsmap import __version__
from dsmap.common.atomic import finish_file
from dsmap.common.interrupts import stop_on_signals
from dsmap.common.notify import Notify
from dsmap.common.output_files import naming_error
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.frame_translator import FrameTranslator, as_frame_translator
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.report import InputFacts, JobReport, Progress, StageClock, Translate
from dsmap.runtime.jobs.resume import (
    JobParts,
    discard_parts,
    input_fingerprint,
    is_unfinished,
    kept_parts,
)
from dsmap.runtime.jobs.video_plan import (
    Reader,
    check_video_job,
    check_video_output,
    named_source,
    result_size,
    video_projection,
    writes_animation,
)
from dsmap.runtime.jobs.video_work import FinishedFrames, VideoWork, Writer, frame_steps, open_for
from dsmap.runtime.stabilization.stabilizer import StabilizedTranslator, Stabilizer
from dsmap.runtime.styles.style_path import StyleAt, StylePathTranslator
from dsmap.runtime.video.copy_plan import CopyPlan
from dsmap.runtime.video.hardware import SOFTWARE
from dsmap.runtime.video.pipes import OUTPUT_NAME, is_piped_in, is_piped_out
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.sequence_writer import is_sequence
from dsmap.runtime.video.writer import VideoWriter


def check_video(source: str | Path, output: str | Path, **options: Any) -> InputFacts:
    """Check the input and the output before any work. Raises InputError.

    `options`: those of `VideoOptions`.
    """
    return check_video_job(source, Path(output), VideoOptions(**options))


def translate_video(
    source: str | Path,
    output: str | Path,
    translate: FrameTranslator | Translate,
    *,
    style_at: StyleAt | None = None,
    steady: Stabilizer | None = None,
    made_with: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    clock: StageClock | None = None,
    notify: Notify = lambda _line: None,
    **options: Any,
) -> JobReport:
    """Translate every frame of a video; other streams and all timestamps are kept.

    `source`: a file, an address (rtsp://, https://), an image sequence (frames/%05d.png), or `-`: standard input; as
    `output`, `-` is standard output. `options`: those of `VideoOptions`; without a `height`, frames of more than 540
    lines are translated smaller, and refined: see `refine` there. `style_at`: the style over time, for a `Translator`.
    `steady`: a `Stabilizer`, which is reset.
    `made_with`: everything else that the frames depend on, in JSON's types; with it the job can be resumed after an
    interruption. `notify` is called with a line about a lost connection, or about what is resumed.

    The output appears under its name when it is complete. After Ctrl-C (`interrupted`), and if the input is damaged
    (not `complete`), it holds what was done: see the report. If `translate` raises, there is no output. Raises
    InputError for invalid arguments, DsmapError when the output cannot be written.
    """
    translator = as_frame_translator(translate)
    if style_at is not None:
        translator = StylePathTranslator(translator, style_at)
    if steady is not None:
        translator = StabilizedTranslator(translator, steady)
    return run_video_job(
        source,
        Path(output),
        translator,
        VideoOptions(**options),
        made_with=made_with,
        progress=progress,
        clock=clock,
        notify=notify,
    )


def run_video_job(
    source: str | Path,
    output: Path,
    translator: FrameTranslator,
    options: VideoOptions,
    *,
    made_with: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    clock: StageClock | None = None,
    notify: Notify = lambda _line: None,
    finished: FinishedFrames | None = None,
) -> JobReport:
    """See `translate_video`. `finished`: all frames are in the job's parts; the input's are not decoded again."""
    source = named_source(source)
    reader, pool = open_for(translator, source, options, notify)
    with reader, stop_on_signals() as stop:
        copies = check_video_output(reader, source, output, options)
        steps = frame_steps(reader, translator, options)
        made_with = None if writes_animation(reader, output) else made_with
        for line in _not_told_before(reader, source, copies):
            notify(line)
        with _kept_parts(source, output, options, made_with, getattr(reader, "decoder", SOFTWARE)) as parts:
            work = VideoWork(reader, steps, clock or StageClock(), stop, parts, pool, finished)
            if finished is not None and (parts is None or parts.frames != finished.frames):
                raise DsmapError(
                    f"{parts.frames if parts else 0} of {finished.frames} frames are in the parts of {output}",
                    "run it again with --resume",
                )
            for line in parts.lines() if parts is not None and finished is None else ():
                notify(line)
            writer = work.open_writer(output, copies, options, video_projection(reader, output, options).kept)
            _translate(work, writer, parts, progress)
            ending = _name_result(work, writer, output, options, parts)
        if reader.clock_jumps:
            jumps = f"the clock of {reader.name} jumps ({reader.clock_jumps})"
            notify(f"{jumps}: its parts follow each other without a gap")
        # Within the block: streams of a closed file may not be touched.
        return JobReport(
            input=Path(reader.name),
            output=Path(OUTPUT_NAME) if is_piped_out(output) else output,
            result_size=result_size(reader, output, options),
            audio_streams=sum(stream.type == "audio" for stream in copies.written),
            resumed_frames=parts.frames if parts else 0,
            **asdict(ending),
            **work.report(writer),
        )


def _not_told_before(reader: Reader, source: str | Path, copies: CopyPlan) -> Iterator[str]:
    """Notes on standard input, which is opened only now."""
    if is_piped_in(source) and isinstance(reader, VideoReader):
        yield from reader.notes
        if left_out := [*reader.left_out, *map(str, copies.left_out)]:
            yield f"left out: {', '.join(left_out)}"


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """What happened to the output; fields of a `JobReport`."""

    interrupted: bool
    resumable: bool
    kept_previous: bool


def _translate(work: VideoWork, writer: Writer, parts: JobParts | None, progress: Progress | None) -> None:
    """Run the work and complete the file. After an error only finished parts are left."""
    try:
        work.run(writer, progress)
        work.finish(writer)
    except BaseException:
        if parts is not None and isinstance(writer, VideoWriter) and writer.frames:
            with contextlib.suppress(DsmapError):  # it may be the disk that is full
                writer.close(interrupted=True)  # so that the parts have every frame that was done
        writer.discard()
        raise


def _name_result(
    work: VideoWork, writer: Writer, output: Path, options: VideoOptions, parts: JobParts | None
) -> _Ending:
    """Move what was done to the output's name; remove the parts, or keep them for another run."""
    interrupted = work.interrupted
    # What was done is in the parts: a complete earlier result is not replaced by an incomplete one.
    kept_previous = interrupted and parts is not None and output.exists() and not parts.may_replace()
    if kept_previous:
        writer.discard()
    elif writer.frames:
        _finish(writer, output, options, parts, whole=not interrupted)
    if parts is not None and not interrupted:
        parts.remove()
    resumable = parts is not None and interrupted and parts.keep()
    return _Ending(interrupted=interrupted, resumable=resumable, kept_previous=kept_previous)


def _kept_parts(
    source: str | Path, output: Path, options: VideoOptions, made_with: Mapping[str, Any] | None, decoder: str
) -> "contextlib.AbstractContextManager[JobParts | None]":
    """The parts of a job that can be resumed; None for others."""
    if is_piped_out(output):
        return contextlib.nullcontext()
    if made_with is not None and isinstance(source, Path) and not is_sequence(output):
        return kept_parts(output, job_fingerprint(source, options, made_with, decoder), resume=options.resume)
    if options.resume and is_unfinished(output):
        raise InputError("only the translation of a video file can be resumed", "go without --resume")
    discard_parts(output)
    return contextlib.nullcontext()


def job_fingerprint(source: Path, options: VideoOptions, made_with: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    """Everything that must be equal for the parts of two runs to fit together."""
    given = {
        f"--{key.replace('_', '-')}": None if value is None else str(value) for key, value in asdict(options).items()
    }
    # The parts hold no sound: every run takes it from the input. Of --hwaccel, what it led to counts.
    for name in ("overwrite", "resume", "audio", "hwaccel"):
        del given[f"--{name}"]
    if decoder != SOFTWARE:
        given["decoder"] = decoder
    return {"dsmap": __version__, **input_fingerprint(source), **given, **made_with}


def _finish(writer: Writer, output: Path, options: VideoOptions, parts: JobParts | None, *, whole: bool) -> None:
    """Give the video its name. Raises DsmapError when that fails; it says where the video is then."""
    if not isinstance(writer, VideoWriter) or is_piped_out(output):
        return  # a sequence does that itself, and a pipe has no name
    try:
        if parts is None:
            finish_file(writer.path, output, replace=options.overwrite)
        else:
            parts.finish(writer.path, whole=whole, overwrite=options.overwrite)
    except OSError as error:
        named = naming_error("video", writer.path, output, error)
        if parts is not None and writer.path.exists():  # no other name could be had either
            parts.keep_result()
        raise named from error
