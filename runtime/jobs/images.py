"""Translate one image, or a folder of images, with any function from image to image."""

import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dsmap.common.atomic import sync_folder
from dsmap.common.files import cut_name
from dsmap.common.images import WRITTEN_SUFFIXES, list_images, read_image, write_image
from dsmap.common.interrupts import StopRequest, stop_on_signals
from dsmap.common.output_files import MAX_NAME_BYTES
from dsmap.common.part_files import is_part_name, is_part_of
from dsmap.errors import InputError
from dsmap.runtime.frame_translator import FrameTranslator, as_frame_translator
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.output_paths import check_output_file, check_output_folder, check_replaceable
from dsmap.runtime.jobs.report import InputFacts, JobReport, Progress, StageClock, Translate
from dsmap.runtime.jobs.single_frame import translate_one
from dsmap.runtime.jobs.stages import FrameSteps
from dsmap.runtime.video.scaling import size_at_height

WRITABLE_IMAGES = WRITTEN_SUFFIXES


def translate_image(
    source: str | Path,
    output: str | Path,
    translate: FrameTranslator | Translate,
    *,
    height: int | None = None,
    upscale: bool = True,
    side_by_side: bool = False,
    overwrite: bool = False,
    strip_metadata: bool = False,
) -> JobReport:
    """Translate one image into `output` (.png, .jpg, .webp or .avif). Raises InputError, DsmapError.

    The result is sRGB and says so. It has the Exif of the image, less what no longer holds (orientation, thumbnail),
    or none with `strip_metadata`. After Ctrl-C nothing is written (`interrupted`).
    """
    options = VideoOptions(
        height=height,
        upscale=upscale,
        side_by_side=side_by_side,
        overwrite=overwrite,
        strip_metadata=strip_metadata,
    )
    return run_image_job(Path(source), Path(output), as_frame_translator(translate), options)


def run_image_job(source: Path, output: Path, translator: FrameTranslator, options: VideoOptions) -> JobReport:
    """See `translate_image`; of the options those that it has count."""
    check_image(source, output, overwrite=options.overwrite)
    clock = StageClock()
    with stop_on_signals() as stop:
        found = _one_image(source, output, translator, options, clock, stop, replace=options.overwrite)
    (width, lines), notes = found or ((0, 0), ())
    return JobReport(
        input=source,
        output=output,
        width=width,
        height=lines,
        frames=int(found is not None),
        frames_expected=1,
        interrupted=found is None,
        notes=notes,
        **clock.report(),
    )


def check_image(source: Path, output: Path, *, height: int | None = None, overwrite: bool = False) -> InputFacts:
    """Everything that can be wrong with an image job before any work. Raises InputError."""
    if output.suffix.lower() not in WRITABLE_IMAGES:
        raise InputError(
            f"cannot write an image as {output.suffix or 'a file without a suffix'} ({output.name})",
            f"use one of {', '.join(WRITABLE_IMAGES)}",
        )
    image = read_image(source)
    lines, columns = image.rgb.shape[:2]
    check_output_file(output, source, overwrite=overwrite)
    width, lines = size_at_height(columns, lines, height)
    return InputFacts(width=width, height=lines, frames=1, notes=image.notes)


def translate_folder(
    source: str | Path,
    output: str | Path,
    translate: FrameTranslator | Translate,
    *,
    height: int | None = None,
    upscale: bool = True,
    side_by_side: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    strip_metadata: bool = False,
    progress: Progress | None = None,
) -> JobReport:
    """Translate the images directly in the folder `source` into the folder `output` under the same names.

    Images in a format we do not write (.bmp, .tif, .heic) become NAME.SUFFIX.png; see `result_names`. A broken
    image, or one that does not fit into memory, is skipped and listed in the report's `failed`. `strip_metadata`: as
    of an image. With `resume` results that are there stay (each appeared whole), and what a killed job was writing
    goes. Ctrl-C ends it within a second; the image that was under way is not written then. Raises InputError
    when there are no images, DsmapError when writing fails.
    """
    options = VideoOptions(
        height=height,
        upscale=upscale,
        side_by_side=side_by_side,
        overwrite=overwrite,
        resume=resume,
        strip_metadata=strip_metadata,
    )
    return run_folder_job(Path(source), Path(output), as_frame_translator(translate), options, progress=progress)


def run_folder_job(
    source: Path, output: Path, translator: FrameTranslator, options: VideoOptions, *, progress: Progress | None = None
) -> JobReport:
    """See `translate_folder`; of the options those that it has count."""
    overwrite, resume = options.overwrite, options.resume
    check_folder(source, output, overwrite=overwrite, resume=resume)
    output.mkdir(exist_ok=True)
    sync_folder(output.absolute().parent)
    every = result_names(list_images(source))
    if resume:
        _remove_temporaries(output, every.values())
    there = _there(output, every) if resume and not overwrite else set()
    names = {path: name for path, name in every.items() if path not in there}
    clock, failed, done, size = StageClock(), [], len(there), (0, 0)
    notes: list[str] = []
    replace = overwrite or resume  # two that resume make the same
    with stop_on_signals() as stop:
        for path, name in names.items():
            if stop:
                break
            try:
                with stop.interruptible():
                    found = _one_image(path, output / name, translator, options, clock, stop, replace=replace)
                if found is None:
                    break
                size, done = found[0], done + 1
                notes += [f"{path.name}: {note}" for note in found[1]]
            except InputError as error:
                failed.append(f"{path.name}: {error.fact}")
            except KeyboardInterrupt:
                stop.requested = True
            if progress:
                progress(done + len(failed), len(every))
    return JobReport(
        input=source,
        output=output,
        width=size[0],
        height=size[1],
        frames=done,
        frames_expected=len(every),
        resumed_frames=len(there),
        interrupted=bool(stop) and done + len(failed) < len(every),
        failed=tuple(failed),
        notes=tuple(notes),
        **clock.report(),
    )


def check_folder(source: Path, output: Path, *, overwrite: bool = False, resume: bool = False) -> InputFacts:
    """Everything that can be wrong with a folder job before any work. Raises InputError. Sizes are not known: 0."""
    if not source.is_dir():
        raise InputError(f"{source} is not a folder", "check the spelling")
    names = result_names(list_images(source))
    if not names:
        raise InputError(f"{source} holds no images", "pass a folder with .jpg, .png or .webp files in it")
    check_output_folder(output, source, overwrite=overwrite or resume)
    there = _there(output, names) if resume and not overwrite else set()
    check_replaceable(output / name for path, name in names.items() if path not in there)
    notes = [f"{len(there)} results are there already"] if there else []
    notes += [
        f"{path.name} becomes {name}: another image's result is called {_plain_name(path)}"
        for path, name in names.items()
        if name != _plain_name(path)
    ]
    return InputFacts(width=0, height=0, frames=len(names), notes=tuple(notes))


def _there(output: Path, names: Mapping[Path, str]) -> set[Path]:
    """The images whose results are there."""
    return {path for path, name in names.items() if (output / name).is_file()}


def _remove_temporaries(output: Path, names: Iterable[str]) -> None:
    """What a killed job was writing to, under the hidden names that only temporaries of these results have."""
    left = [path for path in output.iterdir() if is_part_name(path.name)]
    for path in left:
        if any(is_part_of(path, output / name) for name in names):
            path.unlink(missing_ok=True)


def result_names(images: Sequence[Path]) -> dict[Path, str]:
    """What the result of each image is called in a folder job: no two alike, in the order of `images`.

    Those that keep their names have the first choice; of the others one whose name is taken gets a number
    (a.bmp beside a.bmp.png becomes a.bmp-2.png). Names count as alike where a file system could take them for one:
    A.png and a.png.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in sorted(images, key=lambda path: _plain_name(path) != path.name):  # stable
        name = next(name for name in _numbered_names(path) if _alike(name) not in taken)
        taken.add(_alike(name))
        names[path] = name
    return {path: names[path] for path in images}


def _plain_name(path: Path) -> str:
    return path.name if path.suffix.lower() in WRITABLE_IMAGES else _with_end(path.name, ".png")


def _numbered_names(path: Path) -> Iterator[str]:
    yield _plain_name(path)
    kept = path.suffix.lower() in WRITABLE_IMAGES
    for number in itertools.count(2):
        end = f"-{number}{path.suffix if kept else '.png'}"
        yield _with_end(path.stem if kept else path.name, end)


def _with_end(name: str, end: str) -> str:
    return cut_name(name, MAX_NAME_BYTES - len(os.fsencode(end))) + end


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _one_image(
    source: Path,
    output: Path,
    translator: FrameTranslator,
    options: VideoOptions,
    clock: StageClock,
    stop: StopRequest,
    *,
    replace: bool,
) -> tuple[tuple[int, int], tuple[str, ...]] | None:
    """(width, height) that the network worked at, and what there is to tell; None when `stop` came before the end."""
    with clock.stage("decode"):
        image = read_image(source)
    steps = FrameSteps(
        translator,
        image.rgb.shape[1],
        image.rgb.shape[0],
        lines=options.height,
        upscale=options.upscale,
        side_by_side=options.side_by_side,
    )
    result_rgb = translate_one(steps, image.rgb, stop, clock)
    if result_rgb is None:
        return None
    with clock.stage("encode"):
        write_image(output, result_rgb, exif=None if options.strip_metadata else image.exif, replace=replace)
    return steps.inside, image.notes
