"""Segments of a split job on disk: the encoder's packets of each, and what is known of it.

    FOLDER/seg-000003-1a2b3c4d.packets    packets, as in a journal (see `packet_journal`)
    FOLDER/part-000003-5e6f7a8b.json      names them: a segment counts from the moment that this file is there
    FOLDER/.part.0123abcd.part/           a worker's, while it works

Everything is written beside and renamed. Two workers that make the same segment write packets of two names; the later
note stands, and both are whole.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from dsmap.common.atomic import sync_folder
from dsmap.common.files import is_regular
from dsmap.common.part_files import is_part_name
from dsmap.common.state_files import open_state, write_state
from dsmap.errors import InputError
from dsmap.runtime.jobs.packet_journal import Segment, check_fingerprint, damage, is_own_file, segment_from

_VERSION = 1
_NOTE = re.compile(r"part-\d{6,}-[0-9a-f]{8}\.json", re.ASCII)
_PACKETS = re.compile(r"seg-\d{6,}-[0-9a-f]{8}\.packets", re.ASCII)
_MAX_NOTE_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """A segment that is done, or was stopped."""

    index: int
    begin: Fraction | None
    """As in the plan."""
    end: Fraction | None
    folder: Path
    segment: Segment | None
    """Its packets: `name` is a file in the folder. None where the work was stopped; nothing is kept of it then."""
    fingerprint: Mapping[str, Any]
    """Everything that must be equal for the segments of a job to fit together."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[tuple[int, str], ...] = ()
    """Marks of its first frames, see `Section`."""
    beyond: tuple[tuple[int, str], ...] = ()
    """Marks of the frames after it, decoded together with it."""
    shapes: tuple[str, str] = ("", "")
    """See `Section`."""
    damaged: int = 0
    """See `Section`."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a `JobReport` that are about the work."""
    was_done: bool = False
    """Whether it was done already, and nothing was translated now."""

    @property
    def interrupted(self) -> bool:
        """Whether the work was stopped."""
        return self.segment is None

    @property
    def frames(self) -> int:
        """How many it holds."""
        return self.segment.frames if self.segment else 0

    @property
    def part(self) -> tuple[Path, Segment]:
        """The file of its packets, and what it holds; of a finished segment."""
        assert self.segment is not None
        return self.folder / self.segment.name, self.segment

    def damage(self) -> str | None:
        """What is wrong with the file of its packets, which is read; None where it is whole."""
        return damage(*self.part) if self.segment else "was not finished"


def note_path(folder: Path, index: int, begin: Fraction | None, end: Fraction | None) -> Path:
    """The name of a segment's note: that of another one with the same number, of another plan, is a different one."""
    digest = hashlib.sha256(f"{begin} {end}".encode()).hexdigest()[:8]
    return folder / f"part-{index:06d}-{digest}.json"


def is_note_name(name: str) -> bool:
    """Whether the note of a segment may have that name."""
    return _NOTE.fullmatch(name) is not None


def is_segment_name(name: str) -> bool:
    """Whether a note or the packets of a segment may have that name."""
    return is_note_name(name) or _PACKETS.fullmatch(name) is not None


def write_result(result: SegmentResult) -> None:
    """Write the note: from now on the segment is done. Raises OSError, InputError."""
    content = asdict(replace(result, was_done=False)) | {"version": _VERSION}
    del content["folder"]
    content |= {name: None if value is None else str(value) for name, value in _ends(result).items()}
    write_state(note_path(result.folder, result.index, result.begin, result.end), json.dumps(content, indent=1))
    sync_folder(result.folder)


def read_result(path: Path) -> SegmentResult | None:
    """What the note says; None where there is none, or it is damaged. The packets are not looked at."""
    try:
        with open_state(path, "rb") as stream:
            content = json.loads(stream.read(_MAX_NOTE_BYTES))
        if content.pop("version") != _VERSION:
            return None
        content["segment"] = segment = Segment(**content["segment"])
        segment_from(asdict(segment) | {"name": "seg-000000.packets"})
        ends = {name: None if content[name] is None else Fraction(content[name]) for name in ("begin", "end")}
        marks = {name: tuple((int(pts), str(digest)) for pts, digest in content[name]) for name in ("head", "beyond")}
        first, last = content["shapes"]
        content |= {"shapes": (str(first), str(last)), "damaged": int(content["damaged"])}
        result = SegmentResult(**{**content, **ends, **marks, "folder": path.parent, "was_done": True})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError, InputError):
        return None
    named = _PACKETS.fullmatch(segment.name) and note_path(path.parent, result.index, result.begin, result.end) == path
    return result if named and isinstance(result.fingerprint, dict) and isinstance(result.encoder, dict) else None


def results_in(folder: Path) -> Iterator[SegmentResult]:
    """All that have a readable note, by number."""
    if is_results_folder(folder):
        with contextlib.suppress(OSError):
            for path in sorted(folder.iterdir()):
                if is_note_name(path.name) and (result := read_result(path)) is not None:
                    yield result


def has_results(folder: Path) -> bool:
    """Whether a segment is done there."""
    return next(results_in(folder), None) is not None


def is_results_folder(folder: Path) -> bool:
    """Whether `folder` is one, not a link, and holds nothing that is not ours."""
    try:
        return not folder.is_symlink() and folder.is_dir() and all(map(_is_own, folder.iterdir()))
    except OSError:
        return False


def adoptable(folder: Path, fingerprint: Mapping[str, Any]) -> list[SegmentResult]:
    """The segments that are done and whole, from the first without a gap. Raises InputError for another job's."""
    found = list(results_in(folder))
    by_begin: dict[Fraction | None, SegmentResult] = {}
    for one in found:
        check_fingerprint(one.fingerprint, fingerprint, folder.parent)
        by_begin.setdefault(one.begin, one)
    chain: list[SegmentResult] = []
    begin: Fraction | None = None
    while begin in by_begin:
        one = by_begin.pop(begin)
        if one.damage() or (chain and (one.encoder != chain[0].encoder or difference(chain[-1], one))):
            break
        chain.append(one)
        if (begin := one.end) is None:
            break
    return chain


def difference(before: SegmentResult, after: SegmentResult) -> str | None:
    """Where the frames after a segment are not the first ones of the next, in words; None where they are."""
    pairs = list(zip(before.beyond, after.head, strict=False))
    if not pairs:
        return f"segment {before.index} ends before segment {after.index} begins"
    if before.damaged or after.damaged:  # only the times can be compared
        pairs = [((one[0], ""), (other[0], "")) for one, other in pairs]
    if any(tuple(one) != tuple(other) for one, other in pairs):
        return f"the first frames of segment {after.index} decode differently after segment {before.index}"
    return None


def remove_results(folder: Path) -> None:
    """Remove all segments, and the folder if nothing else is in it. Only files with the names of ours are removed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        paths = sorted(folder.iterdir())  # notes first: without them the rest is nothing
        for path in paths:
            if not _is_own(path):
                continue
            if path.is_dir():
                remove_work(path)
            else:
                path.unlink(missing_ok=True)
        folder.rmdir()


def remove_work(folder: Path) -> None:
    """Remove a worker's folder."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if is_own_file(path):
                path.unlink(missing_ok=True)
        folder.rmdir()


def _ends(result: SegmentResult) -> dict[str, Fraction | None]:
    return {"begin": result.begin, "end": result.end}


def _is_own(path: Path) -> bool:
    if is_part_name(path.name):
        return not path.is_symlink() and (path.is_dir() or path.is_file())
    return is_segment_name(path.name) and is_regular(path)
