"""Translating one segment of a split job into a part of its journal."""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

from dsmap.common.atomic import finish_file
from dsmap.common.interrupts import StopRequest, stop_on_signals
from dsmap.common.notify import Notify
from dsmap.common.part_files import part_file, part_folder
from dsmap.errors import DsmapError
from dsmap.runtime.frame_translator import FrameTranslator
from dsmap.runtime.jobs.packet_journal import PacketJournal, check_fingerprint
from dsmap.runtime.jobs.plan import Job
from dsmap.runtime.jobs.report import Progress, StageClock
from dsmap.runtime.jobs.request import VideoRequest
from dsmap.runtime.jobs.segments.plan import SegmentPlan, VideoSegment
from dsmap.runtime.jobs.segments.results import SegmentResult, note_path, read_result, remove_work, write_result
from dsmap.runtime.jobs.video import job_fingerprint
from dsmap.runtime.jobs.video_plan import video_projection
from dsmap.runtime.jobs.video_work import VideoWork, frame_steps, open_for
from dsmap.runtime.video.copy_plan import CopyPlan
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.section import Section
from dsmap.runtime.video.writer import VideoWriter


class VideoModel(Protocol):
    """What translates, such as a `LoadedModel`."""

    for_videos: FrameTranslator

    def fingerprint(self) -> dict[str, Any]:
        """Everything that frames depend on, in JSON's types."""


def translate_segment(
    request: VideoRequest,
    job: Job,
    plan: SegmentPlan,
    index: int,
    model: VideoModel,
    folder: Path,
    *,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    notify: Notify = lambda _line: None,
) -> SegmentResult:
    """Decode, translate and encode the frames of segment `index` into a part in `folder` (see `segments_folder`).

    A part that is there and whole is not made again. `progress` is called after every frame with (done, expected).
    `stop`: ends the work soon, without a part; None: signals do, in a main thread. Raises InputError where the part
    that is there, or the input, is another job's, DsmapError when the part cannot be made. Several workers may make
    the same segment at once, and a worker may be killed at any time: a part is whole or not there.
    """
    segment = plan.segments[index]
    reader, pool = open_for(model.for_videos, job.source, request.options, notify)
    with reader, contextlib.nullcontext(stop) if stop is not None else stop_on_signals() as stopping:
        fingerprint = job_fingerprint(Path(job.source), request.options, model.fingerprint(), _decoder(reader))
        if (found := _finished(folder, segment, fingerprint)) is not None:
            return found
        section = Section(begin=segment.begin, end=segment.end, keyframe=segment.begin, seeks=plan.seeks)
        assert isinstance(reader, VideoReader)
        reader.limit_to(section)
        steps = frame_steps(reader, model.for_videos, request.options)
        with _work_folder(folder) as work_folder, _WorkParts(work_folder, job.output.suffix, segment) as parts:
            work = VideoWork(reader, steps, StageClock(), stopping, parts, pool)
            projection = video_projection(reader, job.output, request.options).kept
            writer = work.open_writer(job.output, CopyPlan(), request.options, projection)
            assert isinstance(writer, VideoWriter)
            try:
                work.run(writer, _counted(progress, segment))
                if not work.interrupted:
                    writer.close(interrupted=True)  # so that the journal keeps the last packets too
            finally:
                writer.discard()
            if work.interrupted:
                return _result(segment, folder, fingerprint, section)
            return _kept(parts, _result(segment, folder, fingerprint, section, work.report(writer)))


class _WorkParts:
    """The journal of a segment while it is made, in a folder of its own. A context manager, which closes it."""

    def __init__(self, folder: Path, suffix: str, segment: VideoSegment) -> None:
        self._folder, self._suffix = folder, suffix
        self.journal = PacketJournal.open(folder, {})
        self.frames = 0 if segment.begin is None else 1
        """The first frame of the whole video is read in any case, and belongs to the first segment."""

    def new_file(self) -> Path:
        """See `Parts`."""
        return part_file(self._folder / f"video{self._suffix}")

    def is_due(self) -> bool:
        """See `Parts`: a segment is one part."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.journal.close()


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A folder of this worker's own, which is removed in the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = part_folder(folder / "part")
    except OSError as error:
        raise DsmapError(
            f"cannot write into {folder}: {error.strerror or error}", "check the folder and the disk of this worker"
        ) from error
    try:
        yield own
    finally:
        remove_work(own)


def _finished(folder: Path, segment: VideoSegment, fingerprint: Mapping[str, Any]) -> SegmentResult | None:
    """The segment, if it is there and whole. Raises InputError where it is another job's."""
    found = read_result(note_path(folder, segment.index, segment.begin, segment.end))
    if found is None or found.damage() is not None:
        return None
    check_fingerprint(found.fingerprint, json.loads(json.dumps(fingerprint)), folder.parent)
    return found


def _kept(parts: _WorkParts, result: SegmentResult) -> SegmentResult:
    """Give the finished packets a name in the segments' folder, then write the note that names them."""
    (made,) = parts.journal.segments
    name = f"seg-{result.index:06d}-{secrets.token_hex(4)}.packets"
    try:
        finish_file(parts.journal.folder / made.name, result.folder / name)
        result = replace(result, segment=replace(made, name=name), encoder=parts.journal.encoder)
        write_result(result)
    except OSError as error:
        raise DsmapError(
            f"cannot write into {result.folder}: {error.strerror or error}", "check the disk and run it again"
        ) from error
    return result


def _counted(progress: Progress | None, segment: VideoSegment) -> Progress | None:
    """Tells the frames of the segment, where the work would tell those of the whole video."""
    if progress is None:
        return None
    return lambda done, _expected: progress(done, max(done, segment.frames))


def _decoder(reader: Any) -> str:
    return str(getattr(reader, "decoder", "software"))


def _result(
    segment: VideoSegment,
    folder: Path,
    fingerprint: Mapping[str, Any],
    section: Section,
    report: Mapping[str, Any] | None = None,
) -> SegmentResult:
    return SegmentResult(
        index=segment.index,
        begin=segment.begin,
        end=segment.end,
        folder=folder,
        segment=None,
        fingerprint=fingerprint,
        head=tuple(section.head),
        beyond=tuple(section.beyond),
        shapes=section.shapes,
        damaged=section.damaged,
        report=report or {},
    )
