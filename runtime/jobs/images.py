"""Translating one image, or a folder of images, with any function from image to image."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Never

from dsmap.common.atomic import sync_folder
from dsmap.common.images import WRITTEN_SUFFIXES, list_images, read_image, write_image
from dsmap.common.interrupts import StopRequest, stop_on_signals
from dsmap.common.part_files import is_part_name, is_part_of
from dsmap.errors import InputError
from dsmap.runtime.frame_translator import FrameTranslator, as_frame_translator
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.output_paths import (
    check_output_file,
    check_output_folder,
    check_replaceable,
    plain_name,
    result_names,
)
from dsmap.runtime.jobs.pipeline import Pipeline
from dsmap.runtime.jobs.report import InputFacts, JobReport, Pixels, Progress, StageClock, Translate
from dsmap.runtime.jobs.stages import FrameSteps, Translated
from dsmap.runtime.video.frame import Frame

WRITABLE_IMAGES = WRITTEN_SUFFIXES


class TranslatedSize(NamedTuple):
    """(width, height) that the model worked at, and of the result."""

    inside: tuple[int, int]
    result: tuple[int, int]


def translate_image(
    source: str | Path,
    output: str | Path,
    translate: FrameTranslator | Translate,
    *,
    height: int | None = None,
    upscale: bool = True,
    refine: str = "auto",
    side_by_side: bool = False,
    overwrite: bool = False,
    strip_metadata: bool = False,
) -> JobReport:
    """Translate one image into `output` (.png, .jpg, .webp or .avif). Raises InputError, DsmapError.

    The result is sRGB, with a profile that says so. It keeps the Exif of the image except what no longer holds
    (orientation, thumbnail); `strip_metadata` removes it all. After Ctrl-C nothing is written (`interrupted`).
    Without a `height`, what has more than 540 lines is translated smaller, and refined: see `VideoOptions.refine`.
    """
    options = VideoOptions(
        height=height,
        upscale=upscale,
        refine=refine,
        side_by_side=side_by_side,
        overwrite=overwrite,
        strip_metadata=strip_metadata,
    )
    return run_image_job(Path(source), Path(output), as_frame_translator(translate), options)


def run_image_job(source: Path, output: Path, translator: FrameTranslator, options: VideoOptions) -> JobReport:
    """See `translate_image`; options that it does not have are ignored."""
    check_image(source, output, options)
    clock = StageClock()
    with stop_on_signals() as stop:
        found = _one_image(source, output, translator, options, clock, stop, replace=options.overwrite)
    size, notes = found or (None, ())
    return one_image_report(source, output, size, clock, notes)


def one_image_report(
    source: Path, output: Path, size: TranslatedSize | None, clock: StageClock, notes: tuple[str, ...] = ()
) -> JobReport:
    """Of a job that writes one image; `size` is None where it was interrupted."""
    return JobReport(
        input=source,
        output=output,
        width=size.inside[0] if size else 0,
        height=size.inside[1] if size else 0,
        result_size=size.result if size else None,
        frames=int(size is not None),
        frames_expected=1,
        interrupted=size is None,
        notes=notes,
        **clock.report(),
    )


def check_image(source: Path, output: Path, options: VideoOptions) -> InputFacts:
    """Check an image job before any work. Raises InputError."""
    if output.suffix.lower() not in WRITABLE_IMAGES:
        raise InputError(
            f"cannot write an image as {output.suffix or 'a file without a suffix'} ({output.name})",
            f"use one of {', '.join(WRITABLE_IMAGES)}",
        )
    image = read_image(source)
    lines, columns = image.rgb.shape[:2]
    check_output_file(output, source, overwrite=options.overwrite)
    width, lines = options.size_inside(columns, lines)
    return InputFacts(width=width, height=lines, frames=1, source_size=image.rgb.shape[1::-1], notes=image.notes)


def translate_folder(
    source: str | Path,
    output: str | Path,
    translate: FrameTranslator | Translate,
    *,
    height: int | None = None,
    upscale: bool = True,
    refine: str = "auto",
    side_by_side: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    strip_metadata: bool = False,
    progress: Progress | None = None,
) -> JobReport:
    """Translate the images directly in the folder `source` into the folder `output` under the same names.

    Images in a format that is not written (.bmp, .tif, .heic) become NAME.SUFFIX.png; see `result_names`. An image
    that is broken or does not fit into memory is skipped and listed in the report's `failed`. The other options are
    those of `translate_image`. With `resume`, existing results are kept (each was written whole), and temporary files
    of a killed job are removed. Ctrl-C stops it within a second; the image being translated is not written. Raises
    InputError when there are no images, DsmapError when writing fails.
    """
    options = VideoOptions(
        height=height,
        upscale=upscale,
        refine=refine,
        side_by_side=side_by_side,
        overwrite=overwrite,
        resume=resume,
        strip_metadata=strip_metadata,
    )
    return run_folder_job(Path(source), Path(output), as_frame_translator(translate), options, progress=progress)


def run_folder_job(
    source: Path, output: Path, translator: FrameTranslator, options: VideoOptions, *, progress: Progress | None = None
) -> JobReport:
    """See `translate_folder`; options that it does not have are ignored."""
    check_folder(source, output, overwrite=options.overwrite, resume=options.resume)
    names = prepare_folder(source, output, resume=options.resume)
    return run_folder_images(source, output, names, translator, options, progress=progress)


def prepare_folder(source: Path, output: Path, *, resume: bool) -> dict[Path, str]:
    """Makes the folder `output`; with `resume`, removes what a killed job left. Gives each image's result's name."""
    output.mkdir(exist_ok=True)
    sync_folder(output.absolute().parent)
    names = result_names(list_images(source))
    if resume:
        _remove_temporaries(output, names.values())
    return names


def run_folder_images(
    source: Path,
    output: Path,
    every: Mapping[Path, str],
    translator: FrameTranslator,
    options: VideoOptions,
    *,
    progress: Progress | None = None,
) -> JobReport:
    """Translates some images of the folder `source`, each into the file of `every` in `output`, which exists.

    What `prepare_folder` gave, or a part of it. See `translate_folder` for the rest.
    """
    there = _there(output, every) if options.resume and not options.overwrite else set()
    names = {path: name for path, name in every.items() if path not in there}
    clock, result = StageClock(), _FolderResult()
    with stop_on_signals() as stop:
        for _ in _translated(names, output, translator, options, clock, stop, result):
            if progress:
                progress(len(there) + result.frames + len(result.failed), len(every))
    done = len(there) + result.frames
    return JobReport(
        input=source,
        output=output,
        width=result.size[0],
        height=result.size[1],
        frames=done,
        frames_expected=len(every),
        resumed_frames=len(there),
        interrupted=bool(stop) and done + len(result.failed) < len(every),
        failed=tuple(result.failed),
        notes=tuple(result.notes),
        **clock.report(),
    )


@dataclass(kw_only=True)
class _FolderResult:
    """What was done of a folder so far."""

    frames: int = 0
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    """(width, height) that the model worked at last."""


def _translated(
    names: Mapping[Path, str],
    output: Path,
    translator: FrameTranslator,
    options: VideoOptions,
    clock: StageClock,
    stop: StopRequest,
    result: _FolderResult,
) -> Iterator[None]:
    """Translates images into the folder `output`, and gives control back after each one; it stops with `stop`."""
    replace = options.overwrite or options.resume  # two that resume make the same
    for path, name in names.items():
        if stop:
            return
        try:
            with stop.interruptible():
                found = _one_image(path, output / name, translator, options, clock, stop, replace=replace)
            if found is None:
                return
            result.size, result.frames = found[0].inside, result.frames + 1
            result.notes += [f"{path.name}: {note}" for note in found[1]]
        except InputError as error:
            result.failed.append(f"{path.name}: {error.fact}")
        except KeyboardInterrupt:
            stop.requested = True
        yield


def check_folder(source: Path, output: Path, *, overwrite: bool = False, resume: bool = False) -> InputFacts:
    """Check a folder job before any work. Raises InputError. Sizes are not known: they are 0."""
    if not source.is_dir():
        raise InputError(f"{source} is not a folder", "check the spelling")
    names = result_names(list_images(source))
    if not names:
        raise InputError(f"{source} holds no images", "pass a folder with .jpg, .png or .webp files in it")
    check_output_folder(output, source, overwrite=overwrite or resume)
    there = _there(output, names) if resume and not overwrite else set()
    check_replaceable(output / name for path, name in names.items() if path not in there)
    notes = [f"{len(there)} results exist already"] if there else []
    notes += [
        f"{path.name} becomes {name}: another image's result is called {plain_name(path)}"
        for path, name in names.items()
        if name != plain_name(path)
    ]
    return InputFacts(width=0, height=0, frames=len(names), notes=tuple(notes))


def _there(output: Path, names: Mapping[Path, str]) -> set[Path]:
    """The images whose results exist."""
    return {path for path, name in names.items() if (output / name).is_file()}


def _remove_temporaries(output: Path, names: Iterable[str]) -> None:
    """Removes temporary files of a killed job, by the hidden names that only those of these results have."""
    left = [path for path in output.iterdir() if is_part_name(path.name)]
    for path in left:
        if any(is_part_of(path, output / name) for name in names):
            path.unlink(missing_ok=True)


def _one_image(
    source: Path,
    output: Path,
    translator: FrameTranslator,
    options: VideoOptions,
    clock: StageClock,
    stop: StopRequest,
    *,
    replace: bool,
) -> tuple[TranslatedSize, tuple[str, ...]] | None:
    """The sizes, and notes for the user; None when `stop` came before the end."""
    with clock.stage("decode"):
        image = read_image(source)
    size = translate_rgb(image.rgb, output, translator, options, clock, stop, exif=image.exif, replace=replace)
    return None if size is None else (size, image.notes)


def translate_rgb(
    rgb: Pixels,
    output: Path,
    translator: FrameTranslator,
    options: VideoOptions,
    clock: StageClock,
    stop: StopRequest,
    *,
    exif: bytes | None = None,
    replace: bool,
) -> TranslatedSize | None:
    """Translate `rgb`, uint8 (H, W, 3), into `output`; None, with nothing written, when `stop` came before the end."""
    steps = FrameSteps(
        translator,
        rgb.shape[1],
        rgb.shape[0],
        lines=options.height,
        upscale=options.upscale,
        refine=options.refine,
        side_by_side=options.side_by_side,
    )
    result_rgb = _translate_one(steps, rgb, stop, clock)
    if result_rgb is None:
        return None
    with clock.stage("encode"):
        write_image(output, result_rgb, exif=None if options.strip_metadata else exif, replace=replace)
    return TranslatedSize(steps.inside, steps.written)


def _translate_one(steps: FrameSteps, rgb: Pixels, stop: StopRequest, clock: StageClock) -> Pixels | None:
    """The finished image for `rgb`, uint8 (H, W, 3); None when `stop` was set and it was not done soon after.

    The model runs in a thread: the main one, where Python handles signals, would not hear Ctrl-C while it computes.
    """
    pipeline: Pipeline[Never, Translated] = Pipeline(
        [Frame(rgb, 0, 1)],
        lambda frame, _index: steps.begin(frame.rgb),
        lambda frame, translated: steps.finish(frame.rgb, translated),
        clock=clock,
        cancel=steps.cancel,
    )
    with pipeline:
        done = [item.rgb for item in pipeline.results(stop)]
    return done[0] if done else None
