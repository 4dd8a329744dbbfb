"""Segments of a split job whose output is in an object store: kept there, under the names that they have in a folder.

A segment is sent when it is whole, its note last: as in a folder (see `results`), it counts from then on.
"""

from collections.abc import Iterable
from pathlib import Path

from dsmap.errors import DsmapError
from dsmap.runtime.jobs.resume import segments_folder
from dsmap.runtime.jobs.segments.plan import VideoSegment
from dsmap.runtime.jobs.segments.results import SegmentResult, is_note_name, is_segment_name, note_path, read_result
from dsmap.runtime.jobs.stored import fetch, names_stored, remove_empty, remove_stored, send, stored_exists


def send_segment(result: SegmentResult, output: Path) -> None:
    """Sends a finished segment to where those for `output` are kept. Raises InputError, DsmapError."""
    packets, _ = result.part
    note = note_path(result.folder, result.index, result.begin, result.end)
    for path in (packets, note):
        send(path, segments_folder(output) / path.name)


def fetch_segment(segment: VideoSegment, output: Path, folder: Path) -> SegmentResult | None:
    """The segment, if it is kept for `output`, copied into `folder`; None where it is not. Its packets are not checked.

    Raises InputError, DsmapError.
    """
    note = note_path(folder, segment.index, segment.begin, segment.end)
    kept = segments_folder(output)
    if not stored_exists(kept / note.name):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    fetch(str(kept / note.name), note)
    result = read_result(note)
    if result is None or not stored_exists(kept / result.part[0].name):
        return None
    fetch(str(kept / result.part[0].name), result.part[0])
    return result


def fetch_segments(segments: Iterable[VideoSegment], output: Path, folder: Path) -> list[SegmentResult]:
    """All of them, as `fetch_segment`. Raises DsmapError where one is missing."""
    found = []
    for segment in segments:
        if (result := fetch_segment(segment, output, folder)) is None:
            raise DsmapError(
                f"segment {segment.index} of {output} is not in the store any more",
                "run the job again with --resume: only what is missing is translated",
            )
        found.append(result)
    return found


def are_kept(segments: Iterable[VideoSegment], output: Path) -> bool:
    """Whether all of them are kept for `output`, by their notes. Raises InputError."""
    kept = segments_folder(output)
    return all(stored_exists(note_path(kept, one.index, one.begin, one.end)) for one in segments)


def remove_segments_there(output: Path) -> None:
    """Removes the segments that are kept for `output`, and nothing else. Raises InputError."""
    kept = segments_folder(output)
    ours = sorted(filter(is_segment_name, names_stored(kept)), key=lambda name: not is_note_name(name))
    remove_stored([kept / name for name in ours])
    for folder in (kept, kept.parent):
        remove_empty(folder)
