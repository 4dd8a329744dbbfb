"""Translate a whole video with any function from frame to frame.

    report = translate_video("summer.mp4", "winter.mp4", Translator.load("summer-winter", domain="winter"))
    report = translate_video("summer.mp4", "inverted.mkv", lambda frame: 255 - frame, codec="hevc", start=10, end=20)

`translate` takes and gives uint8 (H, W, 3) RGB of the same size; a `Translator` is one, and is used for several frames
at once. Reading, translating and writing run at the same time, see `pipeline`. Images and folders of pictures:
`picture_jobs`.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dsmap import __version__
from dsmap.common.atomic import finish_file
from dsmap.common.interrupts import stop_on_signals
from dsmap.common.notify import Notify
from dsmap.common.output_files import naming_error
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.frame_translator import FrameTranslator, as_frame_translator
from dsmap.runtime.jobs.frame_pool import FramePool
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.output_paths import check_output_file
from dsmap.runtime.jobs.report import InputFacts, JobReport, Progress, StageClock, Translate
from dsmap.runtime.jobs.resume import (
    JobParts,
    check_unfinished,
    discard_parts,
    input_fingerprint,
    is_unfinished,
    kept_parts,
)
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.jobs.video_work import Reader, VideoWork, Writer, writes_animation
from dsmap.runtime.stabilization.stabilizer import StabilizedTranslator, Stabilizer
from dsmap.runtime.styles.style_path import StyleAt, StylePathTranslator
from dsmap.runtime.video.addresses import is_address
from dsmap.runtime.video.animation_writer import animation_notes, check_animation_size
from dsmap.runtime.video.containers import codec_name
from dsmap.runtime.video.copy_plan import CopyPlan, LeftOut, plan_copies
from dsmap.runtime.video.encoders import keeps_ten_bits, resolve
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.projection import Projection, plan_projection
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.scaling import size_at_height
from dsmap.runtime.video.sequence_reader import is_sequence as is_image_sequence
from dsmap.runtime.video.sequence_reader import open_reader, sequence_images
from dsmap.runtime.video.sequence_writer import check_sequence, is_sequence
from dsmap.runtime.video.sound import encoder_title
from dsmap.runtime.video.writer import VideoWriter, check_container


def check_video(source: str | Path, output: str | Path, **options: Any) -> InputFacts:
    """Everything that can be wrong with the names and the file, before any work. Raises InputError.

    `options`: those of `VideoOptions`.
    """
    return check_video_job(source, Path(output), VideoOptions(**options))


def check_video_job(source: str | Path, output: Path, wanted: VideoOptions) -> InputFacts:
    """See `check_video`."""
    source = _named(source)
    with _open_reader(source, wanted) as reader:
        plan = _check_output(reader, source, output, wanted)
        size = size_at_height(reader.width, reader.height, wanted.height)
        copied = [*plan.copied, *(stream for stream, _ in plan.converted)]
        projection = _projection(reader, output, wanted)
        notes = [*reader.notes, *([projection.note] if projection.note else [])]
        notes += [f"subtitles are rewritten as {codec}" for _, codec in plan.converted]
        notes += [f"audio ({codec_name(sound)}) is encoded as {encoder_title(output.suffix)}" for sound in plan.encoded]
        notes += animation_notes(output, reader.rate) if writes_animation(reader, output) else []
        left_out = [*reader.left_out, *map(str, plan.left_out)]
        return InputFacts(
            width=size[0],
            height=size[1],
            frames=reader.expected_frames,
            audio_streams=sum(stream.type == "audio" for stream in copied),
            subtitle_streams=sum(stream.type == "subtitle" for stream in copied),
            chapters=0 if is_sequence(output) or writes_animation(reader, output) else len(reader.chapters),
            left_out=tuple(left_out),
            notes=tuple(notes),
        )


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
    notify: Notify | None = None,
    **options: Any,
) -> JobReport:
    """Translate every frame of a video; other streams and all timestamps are kept as they are.

    `source`: a file, an address (rtsp://, https://), or an image sequence (frames/%05d.png). `options`: those of
    `VideoOptions`. `style_at`: the style over time, for a `Translator`. `steady`: a `Stabilizer`, which is reset.
    `made_with`: whatever else the frames depend on, in JSON's types; with it the job can be resumed after an
    interruption. `notify` gets a line about a network that breaks off, and about what is resumed.

    The output appears under its name when it is whole. After Ctrl-C (`interrupted`), and where the input is damaged
    (not `complete`), it holds what was done: look at the report. When `translate` raises, nothing is left under the
    output's name. Raises InputError for what is wrong with the arguments, DsmapError when the output cannot be written.
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
    wanted: VideoOptions,
    *,
    made_with: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    clock: StageClock | None = None,
    notify: Notify | None = None,
) -> JobReport:
    """See `translate_video`."""
    source = _named(source)
    clock = clock or StageClock()
    pool = None if translator.keeps_frames else FramePool()
    with _open_reader(source, wanted, notify, pool) as reader, stop_on_signals() as stop:
        plan = _check_output(reader, source, output, wanted)
        steps = FrameSteps(
            translator,
            reader.width,
            reader.height,
            lines=wanted.height,
            upscale=wanted.upscale,
            side_by_side=wanted.side_by_side,
        )
        animation = writes_animation(reader, output)
        with _kept_parts(source, output, wanted, None if animation else made_with) as parts:
            projection = _projection(reader, output, wanted).kept
            work = VideoWork(reader, steps, clock, stop, parts, pool)
            if parts is not None and notify is not None:
                for line in parts.lines():
                    notify(line)
            writer = work.open_writer(output, plan, wanted, projection)
            try:
                work.run(writer, progress)
                work.finish(writer)
            except BaseException:
                if parts is not None and isinstance(writer, VideoWriter) and writer.frames:
                    with contextlib.suppress(DsmapError):  # it may be the disk that is full
                        writer.close(interrupted=True)  # so that the parts have every frame that was done
                writer.discard()
                raise
            interrupted = work.interrupted
            # The parts have what was done: a whole earlier result is not given up for a piece.
            spared = interrupted and parts is not None and output.exists() and not parts.may_replace()
            if spared:
                writer.discard()
            elif writer.frames:
                _finish(writer, output, wanted, parts, whole=not interrupted)
            if parts is not None and not interrupted:
                parts.remove()
            resumable = parts is not None and interrupted and parts.keep()
        if notify is not None and reader.clock_jumps:
            notify(
                f"the clock of {reader.name} jumps ({reader.clock_jumps}): its parts follow each other without a gap"
            )
        # Within the block: streams of a closed file may not be touched.
        lost = reader.missing_frames + reader.failed_packets
        return JobReport(
            input=Path(reader.name),
            output=output,
            width=steps.inside[0],
            height=steps.inside[1],
            frames=writer.frames,
            frames_expected=_frames_expected(reader, writer.frames, lost, interrupted),
            resumed_frames=parts.frames if parts else 0,
            audio_streams=sum(stream.type == "audio" for stream in plan.written),
            failed_packets=reader.failed_packets,
            dropped_packets=writer.dropped_packets,
            broken_off=reader.broken_off.fact if reader.broken_off else None,
            reconnections=reader.reconnections,
            size_changes=reader.size_changes,
            interrupted=interrupted,
            resumable=resumable,
            spared=spared,
            **clock.report(),
        )


def _named(source: str | Path) -> str | Path:
    """A path, where a text names a file."""
    is_text = isinstance(source, str) and (is_address(source) or is_image_sequence(source))
    return source if is_text else Path(source)


def _open_reader(
    source: str | Path,
    wanted: VideoOptions,
    notify: Notify | None = None,
    pool: FramePool | None = None,
) -> Reader:
    return open_reader(
        source,
        rate=wanted.rate,
        start=wanted.start,
        end=wanted.end,
        frames=wanted.frames,
        programme=wanted.programme,
        deinterlace=wanted.deinterlace,
        ten_bits=keeps_ten_bits(wanted.codec),
        notify=notify,
        pool=pool,
    )


def _check_output(reader: Reader, source: str | Path, output: Path, wanted: VideoOptions) -> CopyPlan:
    """What becomes of the other streams. Raises InputError where the output cannot be made."""
    if is_sequence(output):
        inputs = [source] if isinstance(source, Path) else [] if is_address(source) else sequence_images(source)
        check_sequence(output, overwrite=wanted.overwrite, inputs=inputs)
        return CopyPlan()
    if writes_animation(reader, output):
        check_animation_size(output, reader.width, reader.height)
        check_output_file(output, Path(source), overwrite=wanted.overwrite)
        sound = "an animated image holds frames alone"
        return CopyPlan(left_out=tuple(LeftOut(stream=stream, reason=sound) for stream in reader.copied))
    if wanted.audio == "copy":
        check_container(output, [stream for stream in reader.audio if stream.codec_context.sample_rate])
    resolve(wanted.encoding, output.suffix)
    check_unfinished(output, resume=wanted.resume, overwrite=wanted.overwrite)
    replace_it = wanted.overwrite or (wanted.resume and is_unfinished(output))
    check_output_file(output, Path(source), overwrite=replace_it)
    data = [stream for stream in reader.copied if stream.type == "data"] if wanted.strip_metadata else []
    plan = plan_copies(output.suffix, [stream for stream in reader.copied if stream not in data], wanted.audio)
    stripped = tuple(LeftOut(stream=stream, reason="metadata is stripped") for stream in data)
    return replace(plan, left_out=(*plan.left_out, *stripped))


def _projection(reader: Reader, output: Path, wanted: VideoOptions) -> Projection:
    """What becomes of the projection of a spherical video."""
    if not isinstance(reader, VideoReader):
        return Projection()
    images = is_sequence(output) or writes_animation(reader, output)
    return plan_projection(
        reader.side_data,
        None if images else resolve(wanted.encoding, output.suffix),
        output.suffix,
        turned=reader.orientation != Orientation(),
        cropped=bool(reader.side_data.crop),
        side_by_side=wanted.side_by_side,
    )


def _kept_parts(
    source: str | Path, output: Path, wanted: VideoOptions, made_with: Mapping[str, Any] | None
) -> "contextlib.AbstractContextManager[JobParts | None]":
    """The parts of a job that can be resumed; None for others."""
    if made_with is not None and isinstance(source, Path) and not is_sequence(output):
        return kept_parts(output, _fingerprint(source, wanted, made_with), resume=wanted.resume)
    if wanted.resume and is_unfinished(output):
        raise InputError("only the translation of a video file can be resumed", "go without --resume")
    discard_parts(output)
    return contextlib.nullcontext()


def _fingerprint(source: Path, wanted: VideoOptions, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that has to be the same for the parts of two runs to fit together."""
    options = {
        f"--{key.replace('_', '-')}": None if value is None else str(value) for key, value in asdict(wanted).items()
    }
    for name in ("overwrite", "resume", "audio"):  # the parts are of the picture; every run takes the sound anew
        del options[f"--{name}"]
    return {"dsmap": __version__, **input_fingerprint(source), **options, **made_with}


def _finish(writer: Writer, output: Path, wanted: VideoOptions, parts: JobParts | None, *, whole: bool) -> None:
    """Give the video its name. Raises DsmapError when that fails; it says where the video is then."""
    if not isinstance(writer, VideoWriter):
        return  # a sequence does that itself
    try:
        if parts is None:
            finish_file(writer.path, output, replace=wanted.overwrite)
        else:
            parts.finish(writer.path, whole=whole, overwrite=wanted.overwrite)
    except OSError as error:
        told = naming_error("video", writer.path, output, error)
        if parts is not None and writer.path.exists():  # no other name could be had either
            parts.keep_result()
        raise told from error


def _frames_expected(reader: Reader, frames: int, lost: int, interrupted: bool) -> int | None:
    if interrupted or (lost and reader.counts_exactly):
        return reader.expected_frames
    return frames + lost
