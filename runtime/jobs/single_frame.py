"""One frame of a video as an image: `dsmap-video clip.mp4 --domain winter -o frame.png`.

The middle frame of what is asked for shows most of a clip; with a start it is the frame there.
"""

from dataclasses import replace
from pathlib import Path

import cv2  # noqa: F401  # before av

from dsmap.common.images import WRITTEN_SUFFIXES, kind_of
from dsmap.common.interrupts import stop_on_signals
from dsmap.errors import InputError
from dsmap.runtime.frame_translator import FrameTranslator
from dsmap.runtime.jobs.images import one_image_report, translate_rgb
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.output_paths import check_output_file
from dsmap.runtime.jobs.report import InputFacts, JobReport, Pixels, StageClock
from dsmap.runtime.jobs.video_plan import Reader, named_source, open_source
from dsmap.runtime.video.animation_writer import ANIMATION_SUFFIXES
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.sequence_writer import is_sequence


def means_one_frame(source: Path, output: Path) -> bool:
    """Whether `output` is an image of one frame of the video or animation `source`; others hold all its frames."""
    suffix = output.suffix.lower()
    if is_sequence(output) or output.is_dir() or suffix not in WRITTEN_SUFFIXES or suffix in ANIMATION_SUFFIXES:
        return False
    kind = kind_of(source)
    return suffix != ".png" or kind is None or kind.role != "animation"  # an animated image becomes an animated PNG


def middle_frame(source: str | Path, options: VideoOptions) -> Pixels:
    """The middle frame of what is asked for, uint8 RGB (H, W, 3).

    Of a stream, of a sequence and where one frame is asked for, it is the first one.

    Raises InputError where there is none.
    """
    source = named_source(source)
    with open_source(source, options) as reader:
        first_rgb = _first(reader)
        seconds = reader.expected_seconds if isinstance(source, Path) and isinstance(reader, VideoReader) else None
    if not seconds or options.frames == 1:
        return first_rgb
    middle = replace(options, start=float(options.start or 0) + seconds / 2, end=None, frames=1)
    try:
        with open_source(source, middle) as reader:
            return _first(reader)
    except InputError:  # a recording that was cut off ends before its header says
        return first_rgb


def check_single_frame(source: str | Path, output: Path, options: VideoOptions) -> InputFacts:
    """Check the job before any work. Raises InputError."""
    if (options.frames or 1) > 1:
        advice = f"leave it out, or name a sequence: -o {output.stem}-%05d{output.suffix}"
        raise InputError(f"--frames {options.frames} was passed, and {output.name} is a single image", advice)
    source = named_source(source)
    check_output_file(output, Path(source), overwrite=options.overwrite)
    with open_source(source, options) as reader:
        width, height = reader.width, reader.height
        notes = reader.notes
    inside = options.size_inside(width, height)
    which = "the first frame" if options.frames else "the middle frame; --start chooses another"
    which = "the frame at --start" if options.start is not None else which
    return InputFacts(
        width=inside[0],
        height=inside[1],
        frames=1,
        source_size=(width, height),
        notes=(f"{output.suffix} holds one image: {which}", *notes),
    )


def run_single_frame_job(
    source: str | Path, output: Path, translator: FrameTranslator, options: VideoOptions
) -> JobReport:
    """Translate one frame into the image `output`. After Ctrl-C nothing is written (`interrupted`)."""
    clock = StageClock()
    with stop_on_signals() as stop:
        with clock.stage("decode"), stop.interruptible():
            frame_rgb = _wanted_frame(source, options)
        size = translate_rgb(frame_rgb, output, translator, options, clock, stop, replace=options.overwrite)
    return one_image_report(Path(source), output, size, clock)


def _wanted_frame(source: str | Path, options: VideoOptions) -> Pixels:
    if options.start is None:
        return middle_frame(source, options)
    with open_source(named_source(source), options) as reader:
        return _first(reader)


def _first(reader: Reader) -> Pixels:
    frame = next((item for item in reader if isinstance(item, Frame)), None)
    if frame is None:
        raise InputError(f"{reader.name} has no frame in that range", "choose another --start and --end")
    return frame.rgb.copy()
