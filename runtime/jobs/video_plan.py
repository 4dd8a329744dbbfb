"""Planning a video job: its input opened, its output checked, before any work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2  # noqa: F401  # before av

# isort: split
from av.stream import Stream

from dsmap.common.notify import Notify
from dsmap.runtime.jobs.frame_pool import FramePool
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.output_paths import check_output_file
from dsmap.runtime.jobs.report import InputFacts
from dsmap.runtime.jobs.resume import check_unfinished, is_unfinished
from dsmap.runtime.video.addresses import is_address
from dsmap.runtime.video.animation_reader import AnimationReader
from dsmap.runtime.video.animation_writer import ANIMATION_SUFFIXES, animation_notes, check_animation_size
from dsmap.runtime.video.containers import codec_name
from dsmap.runtime.video.copy_plan import CopyPlan, LeftOut, plan_copies
from dsmap.runtime.video.encoders import keeps_ten_bits, resolve
from dsmap.runtime.video.orientation import Orientation
from dsmap.runtime.video.pipes import is_piped_in, is_piped_out, suffix_of
from dsmap.runtime.video.projection import Projection, plan_projection
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.rgb_to_frame import padded_size
from dsmap.runtime.video.sequence_reader import SequenceReader, open_reader, sequence_images
from dsmap.runtime.video.sequence_reader import is_sequence as is_image_sequence
from dsmap.runtime.video.sequence_writer import check_sequence, is_sequence
from dsmap.runtime.video.sound import encoder_title
from dsmap.runtime.video.writer import check_container

Reader = VideoReader | SequenceReader | AnimationReader


def check_video_job(source: str | Path, output: Path, options: VideoOptions) -> InputFacts:
    """What is known of the input; InputError for everything that is wrong with it or with the output."""
    source = named_source(source)
    with open_source(source, options) as reader:
        plan = check_video_output(reader, source, output, options)
        size = options.size_inside(reader.width, reader.height)
        copied = [*plan.copied, *(stream for stream, _ in plan.converted)]
        projection = video_projection(reader, output, options)
        notes = [*reader.notes, *([projection.note] if projection.note else [])]
        notes += [f"subtitles are rewritten as {codec}" for _, codec in plan.converted]
        notes += [
            f"audio ({codec_name(sound)}) is re-encoded as {encoder_title(suffix_of(output))}" for sound in plan.encoded
        ]
        notes += animation_notes(output, reader.rate) if writes_animation(reader, output) else []
        left_out = [*reader.left_out, *map(str, plan.left_out)]
        return InputFacts(
            width=size[0],
            height=size[1],
            frames=reader.expected_frames,
            source_size=(reader.width, reader.height),
            result_size=result_size(reader, output, options),
            audio_streams=sum(stream.type == "audio" for stream in copied),
            subtitle_streams=sum(stream.type == "subtitle" for stream in copied),
            chapters=0 if is_sequence(output) or writes_animation(reader, output) else len(reader.chapters),
            left_out=tuple(left_out),
            notes=tuple(notes),
        )


def result_size(reader: Reader, output: Path, options: VideoOptions) -> tuple[int, int]:
    """(width, height) of the output, with what its codec adds to odd sides."""
    size = options.size_of_result(reader.width, reader.height)
    if is_sequence(output) or writes_animation(reader, output):
        return size
    return padded_size(*size, resolve(options.encoding, suffix_of(output)).pix_fmt)


def named_source(source: str | Path) -> str | Path:
    """A path, where a text names a file."""
    is_text = isinstance(source, str) and (is_address(source) or is_piped_in(source) or is_image_sequence(source))
    return source if is_text else Path(source)


def open_source(
    source: str | Path,
    options: VideoOptions,
    notify: Notify | None = None,
    pool: FramePool | None = None,
    *,
    on_device: bool = False,
) -> Reader:
    return open_reader(
        source,
        rate=options.rate,
        start=options.start,
        end=options.end,
        frames=options.frames,
        programme=options.programme,
        deinterlace=options.deinterlace,
        ten_bits=keeps_ten_bits(options.codec),
        hwaccel=options.hwaccel,
        on_device=on_device,
        notify=notify,
        pool=pool,
    )


def check_video_output(reader: Reader, source: str | Path, output: Path, options: VideoOptions) -> CopyPlan:
    """What becomes of the other streams. Raises InputError where the output cannot be made."""
    if is_sequence(output):
        inputs = [source] if isinstance(source, Path) else [] if is_address(source) else sequence_images(source)
        check_sequence(output, overwrite=options.overwrite, inputs=inputs)
        return CopyPlan()
    if writes_animation(reader, output):
        check_animation_size(output, reader.width, reader.height)
        check_output_file(output, Path(source), overwrite=options.overwrite)
        sound = "animated images have no sound"
        return CopyPlan(left_out=tuple(LeftOut(stream=stream, reason=sound) for stream in reader.copied))
    sounds = [stream for stream in reader.audio if stream.codec_context.sample_rate]
    check_video_name(output, source, options, sounds if options.audio == "copy" else [])
    data = [stream for stream in reader.copied if stream.type == "data"] if options.strip_metadata else []
    plan = plan_copies(suffix_of(output), [stream for stream in reader.copied if stream not in data], options.audio)
    stripped = tuple(LeftOut(stream=stream, reason="metadata is stripped") for stream in data)
    return replace(plan, left_out=(*plan.left_out, *stripped))


def check_video_name(output: Path, source: str | Path, options: VideoOptions, sounds: Sequence[Stream] = ()) -> None:
    """Raises InputError unless a video with these sounds, copied, can be written under the name `output`."""
    if not is_piped_out(output):
        check_container(output, sounds)
    resolve(options.encoding, suffix_of(output))
    if is_piped_out(output):
        return
    check_unfinished(output, resume=options.resume, overwrite=options.overwrite)
    replace_it = options.overwrite or (options.resume and is_unfinished(output))
    check_output_file(output, Path(source), overwrite=replace_it)


def video_projection(reader: Reader, output: Path, options: VideoOptions) -> Projection:
    """What becomes of the projection of a spherical video."""
    if not isinstance(reader, VideoReader):
        return Projection()
    images = is_sequence(output) or writes_animation(reader, output)
    return plan_projection(
        reader.side_data,
        None if images else resolve(options.encoding, suffix_of(output)),
        suffix_of(output),
        turned=reader.orientation != Orientation(),
        cropped=bool(reader.side_data.crop),
        side_by_side=options.side_by_side,
    )


def writes_animation(reader: Reader, output: Path) -> bool:
    """Whether `output` is to be an animated image: by its suffix, and for .png by the input too."""
    suffix = output.suffix.lower()
    moves = suffix in ANIMATION_SUFFIXES or (suffix == ".png" and isinstance(reader, AnimationReader))
    return moves and not is_sequence(output)
