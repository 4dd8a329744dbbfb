"""A sheet of one frame in several styles, to choose from before a long job.

write_preview(request, Path("sheet.jpg"))  # the input, the requested style, the named styles, some random ones
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dsmap.common.images import WRITTEN_SUFFIXES, kind_of, read_rgb, write_rgb
from dsmap.common.output_files import check_outputs
from dsmap.common.text import printable
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import MEAN
from dsmap.runtime.jobs.loaded_model import LoadedModel
from dsmap.runtime.jobs.options import VideoOptions
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import Pixels
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.single_frame import middle_frame
from dsmap.runtime.styles.resolver import StyleLike
from dsmap.runtime.video.scaling import scaled, size_at_height

SEEDS = (1, 2, 3, 4, 5)
MAX_LINES = 540
"""Of the shorter side, where a video is translated at more: the sheet is for choosing a style."""
_COLUMNS = 4
_CELL_WIDTH = 480
_LABEL_HEIGHT = 34
_BACKGROUND, _INK = 24, 235


class PreviewCell(NamedTuple):
    """An image of the sheet."""

    label: str
    rgb: Pixels


def write_preview(request: VideoRequest, path: Path) -> int:
    """Writes the sheet of the first input's middle frame to `path` (.png, .jpg, .webp, .avif); gives its images.

    Raises InputError for several inputs, for a name that no image can have, and for an existing file without the
    option `overwrite`.
    """
    job = _only_job(request)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise InputError(f"cannot write a preview as {path.name}", f"use one of {', '.join(WRITTEN_SUFFIXES)}")
    inputs = [*request.style.images(), *((source, "the input") for source in job.inputs())]
    closed = request.bundle.closed_folders
    check_outputs({"--preview": path}, inputs, closed=closed, overwrite=request.options.overwrite)
    frame_rgb = shown_frame(job, request)
    height, width = frame_rgb.shape[:2]
    frame_rgb = scaled(frame_rgb, shown_size(width, height, request.options))
    with LoadedModel(request, largest=None) as model:
        translations = _translations(model, frame_rgb, request.style.fixed.written)
        cells = [PreviewCell(model.translator.source, frame_rgb), *translations]
    write_rgb(path, sheet(cells))
    return len(cells)


def shown_frame(job: Job, request: VideoRequest) -> Pixels:
    """The frame to show, uint8 RGB (H, W, 3): the middle one of what is asked for, the first of a stream."""
    kind = kind_of(Path(job.source)) if isinstance(job.source, Path) else None
    if kind is not None and kind.role == "image":
        return read_rgb(Path(job.source))
    return middle_frame(job.source, request.options)


def shown_size(width: int, height: int, options: VideoOptions) -> tuple[int, int]:
    """(width, height) that such a frame is shown at: that of its translation, as styles look different at another."""
    inside, shorter = options.size_inside(width, height), min(width, height)
    if options.height is not None or min(inside) <= MAX_LINES:
        return inside
    return size_at_height(width, height, round(height * MAX_LINES / shorter))


def sheet(cells: Sequence[PreviewCell]) -> Pixels:
    """The cells in rows of four, each with its label below; all images have one size."""
    height, width = cells[0].rgb.shape[:2]
    size = (min(width, _CELL_WIDTH), round(height * min(1.0, _CELL_WIDTH / width)))
    drawn = [_drawn(cell, size) for cell in cells]
    columns = min(_COLUMNS, len(drawn))
    drawn += [np.full_like(drawn[0], _BACKGROUND)] * (-len(drawn) % columns)
    return np.vstack([np.hstack(drawn[i : i + columns]) for i in range(0, len(drawn), columns)])


def _only_job(request: VideoRequest) -> Job:
    job = request.jobs[0]
    if len(request.jobs) > 1 or job.kind == "folder":
        raise InputError("--preview shows one input, and several were passed", "pass one video or image")
    if job.is_piped:
        raise InputError("--preview does not go with standard input or output", "pass a file")
    return job


def _translations(model: LoadedModel, frame_rgb: Pixels, written: str) -> Iterator[PreviewCell]:
    """In the requested style, which the user has `written`, the mean, the named styles and some random ones."""
    translator = model.translator
    yield PreviewCell(written, model.for_images(frame_rgb))
    others: list[tuple[str, StyleLike]] = [(MEAN, None), *((name, name) for name in translator.styles)]
    if translator.bundle.manifest.has_styles:
        others += [(f"seed:{seed}", seed) for seed in SEEDS]
    for name, style in others:
        if name != written:
            translator.set_style(style)
            yield PreviewCell(name, model.for_images(frame_rgb))


def _drawn(cell: PreviewCell, size: tuple[int, int]) -> Pixels:
    image = cv2.resize(cell.rgb, size, interpolation=cv2.INTER_AREA) if cell.rgb.shape[1::-1] != size else cell.rgb
    label = np.full((_LABEL_HEIGHT, size[0], 3), _BACKGROUND, np.uint8)
    ink = (_INK,) * 3
    cv2.putText(label, printable(cell.label), (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, ink, 1, cv2.LINE_AA)
    return np.vstack([np.asarray(image, np.uint8), label])
