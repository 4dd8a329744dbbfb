"""A journal of encoded packets on disk, so that a killed job can continue.

The encoder's packets are written twice: into the video, and here into segments, each a whole number of GOPs. A segment
counts from the moment that `journal.json` names it; anything else that a power cut leaves is ignored.

    FOLDER/journal.json           fingerprint, encoder, segments
    FOLDER/seg-000000.packets     one record per packet
    FOLDER/.video.1a2b3c4d.part.mp4    the video that grows (see `resume`), and other temporaries

Nothing in the folder is opened through a link, and nothing is removed but regular files that have such names.

The records are our own, because no container keeps what a lossless join needs: NUT changes the time base, drops the
durations and knows no ProRes; mp4 keeps durations as differences only; Matroska rounds to milliseconds.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dsmap.common.atomic import finish_file, sync_folder
from dsmap.common.files import is_regular
from dsmap.common.part_files import is_part_name, part_file
from dsmap.common.state_files import lock_folder, open_state, write_state
from dsmap.errors import DsmapError, InputError

INDEX = "journal.json"
NOTE = "job.json"
"""What `resume` keeps there."""
FOR_MESSAGES = {"style": "style as written"}
"""Keys of a fingerprint whose values mean nothing to people, and the keys of the texts that messages show instead.

Those texts are not compared, and older journals lack them.
"""
START_OVER = "pass --overwrite instead of --resume to start over"
"""Not "remove the folder": without it, `resume` would take the cut-off result for a complete one and keep it."""
_CODE_STEP = 1e-3  # of a number of a style code: no frame shows it
_VERSION = 1
_MAGIC = b"dsmap packets 1\n"
_RECORD = struct.Struct("<qqqBI")  # pts, dts, duration, keyframe, size; then the data
_SUFFIX = ".packets"
_SEGMENT = re.compile(r"seg-\d{6,}\.packets", re.ASCII)
_MAX_INDEX_BYTES = 64_000_000  # bytes; a day's job has 0.5 MB


@dataclass(frozen=True, slots=True)
class PacketRecord:
    """One packet of the encoder; times in the encoder's time base."""

    pts: int
    dts: int
    duration: int
    keyframe: bool
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A finished part: it begins with a keyframe, and no frame outside needs one inside, or the other way round."""

    name: str
    """Of the file."""
    frames: int
    first_pts: int
    """The lowest, in the encoder's time base."""
    last_pts: int
    """The highest."""
    bytes: int
    """Of the file."""
    sha256: str


class PacketJournal:
    """The segments in one folder, and the one that is growing. `open` it; `close` or `remove` it in the end.

    `segments`: the finished ones. `frames`: how many frames they hold. `dropped`: what was found damaged and is left
    out with everything after it, in words; None when all is well.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self.dropped: str | None = None
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._encoder: dict[str, Any] | None = None
        self._lock = contextlib.ExitStack()
        self._part: BinaryIO | None = None
        self._part_path: Path | None = None
        self._first_pts: int | None = None
        self._last_pts: int | None = None
        self._forget_part()

    @classmethod
    def open(cls, folder: Path, fingerprint: Mapping[str, Any], *, fresh: bool = False) -> "PacketJournal":
        """The journal in `folder`, which is made when it is missing.

        `fingerprint`: everything that must be equal for the parts to fit together (input, model, options), in JSON's
        types. `fresh` throws away what is there. Raises InputError when it was begun with another fingerprint (the
        first key that differs is named) or another process is using it, DsmapError when it cannot be read or made.
        """
        journal = cls(folder, fingerprint)
        if folder.is_symlink():
            raise InputError(f"{folder} is a link, and finished parts are kept there", "remove it")
        try:
            folder.mkdir(exist_ok=True)
            sync_folder(folder.absolute().parent)
            journal._lock.enter_context(lock_folder(folder))
            try:
                if fresh:
                    journal._clear()
                journal._load()
                journal._sweep()
            except BaseException:
                journal._lock.close()
                raise
        except OSError as error:
            raise DsmapError(
                f"the parts of the job cannot be kept in {folder}: {error.strerror or error}",
                "check the folder and the disk, or go without --resume",
            ) from error
        return journal

    @property
    def frames(self) -> int:
        """Frames in the finished segments."""
        return sum(segment.frames for segment in self.segments)

    @property
    def encoder(self) -> Mapping[str, Any]:
        """What the encoder says of itself, see `check_encoder`."""
        return self._encoder or {}

    @property
    def last_pts(self) -> int | None:
        """The timestamp of the last finished frame, in the encoder's time base; None when there is none."""
        return self.segments[-1].last_pts if self.segments else None

    def check_encoder(self, facts: Mapping[str, Any]) -> None:
        """Note what the encoder says of itself. Raises InputError when the finished segments come from another one."""
        facts = json.loads(json.dumps(facts))
        if self.segments and self._encoder is not None and (key := _first_difference(self._encoder, facts)):
            raise InputError(
                f"the finished parts in {self.folder} come from another encoder: "
                f"{key} was {_shown(self._encoder.get(key))} and is {_shown(facts.get(key))}",
                f"finish the job with the version that started it, or {START_OVER}",
            )
        self._encoder = dict(facts)

    def adopt(self, segments: Sequence[tuple[Path, Segment]], encoder: Mapping[str, Any]) -> None:
        """Begin with segments that others have made, of this job, in order and whole; they replace those so far.

        The files stay where they are: the journal has links to them, or copies. Raises OSError.
        """
        self.drop_part()
        self.segments = []
        self._write_index()
        for number, (path, segment) in enumerate(segments):
            own = self.folder / f"seg-{number:06d}{_SUFFIX}"
            own.unlink(missing_ok=True)
            try:
                os.link(path, own)
            except OSError:  # a file system without hard links, or another one
                part = part_file(own)
                shutil.copyfile(path, part)
                finish_file(part, own)
            self.segments.append(replace(segment, name=own.name))
        self._encoder = dict(encoder)
        self._write_index()

    def packets(self) -> Iterator[PacketRecord]:
        """The packets of all finished segments, in the encoder's order, read as they are asked for."""
        for segment in list(self.segments):
            with open_state(self.folder / segment.name, "rb") as stream:
                stream.read(len(_MAGIC))
                while header := stream.read(_RECORD.size):
                    pts, dts, duration, keyframe, size = _RECORD.unpack(header)
                    yield PacketRecord(pts, dts, duration, bool(keyframe), stream.read(size))

    def add(self, record: PacketRecord) -> None:
        """Write a packet into the segment that is growing. Raises OSError."""
        if self._part is None:
            self._part_path = part_file(self.folder / f"seg{_SUFFIX}")
            self._part = self._part_path.open("wb")
            self._write(_MAGIC)
        data = record.data
        self._write(_RECORD.pack(record.pts, record.dts, record.duration, record.keyframe, len(data)))
        self._write(data)
        self._frames += 1
        self._first_pts = record.pts if self._first_pts is None else min(self._first_pts, record.pts)
        self._last_pts = record.pts if self._last_pts is None else max(self._last_pts, record.pts)

    def finish_segment(self) -> None:
        """The packets added since the last call are a whole number of groups: keep them for good. Raises OSError."""
        if self._part is None or self._part_path is None or self._first_pts is None or self._last_pts is None:
            return
        self._part.close()
        path = self.folder / f"seg-{len(self.segments):06d}{_SUFFIX}"
        finish_file(self._part_path, path)
        segment = Segment(
            name=path.name,
            frames=self._frames,
            first_pts=self._first_pts,
            last_pts=self._last_pts,
            bytes=self._bytes,
            sha256=self._hash.hexdigest(),
        )
        self._forget_part()
        self.segments.append(segment)
        self._write_index()

    def drop_part(self) -> None:
        """Forget the packets since the last finished segment."""
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.close()
        if self._part_path is not None:
            with contextlib.suppress(OSError):
                self._part_path.unlink(missing_ok=True)
        self._forget_part()

    def close(self) -> None:
        """Let go of the folder; the finished segments stay."""
        self.drop_part()
        self._lock.close()

    def remove(self) -> None:
        """The job is done: remove the segments, and the folder if nothing else is in it.

        A kill in between leaves nothing that would be taken for an unfinished job: the index goes first.
        """
        self.drop_part()
        with contextlib.suppress(OSError):
            self._clear()
            if is_own_file(self.folder / ".lock"):
                (self.folder / ".lock").unlink()
        self._lock.close()
        with contextlib.suppress(OSError):  # somebody else's files are in it
            self.folder.rmdir()

    def _write(self, data: bytes) -> None:
        assert self._part is not None
        self._part.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def _forget_part(self) -> None:
        self._part = self._part_path = None
        self._hash = hashlib.sha256()
        self._frames = self._bytes = 0
        self._first_pts = self._last_pts = None

    def _load(self) -> None:
        path = self.folder / INDEX
        try:
            index = read_index(self.folder)
        except FileNotFoundError:
            return
        try:
            version, encoder = index["version"], index["encoder"]
            fingerprint = dict(index["fingerprint"])
            segments = [segment_from(entry) for entry in index["segments"]]
        except KeyError as error:
            raise DsmapError(f"{path} is damaged: it has no {error}", START_OVER) from error
        except (ValueError, TypeError) as error:
            raise DsmapError(f"{path} is damaged: {error}", START_OVER) from error
        if version != _VERSION:
            raise InputError(f"{path} is of format {version}, expected {_VERSION}", START_OVER)
        check_fingerprint(fingerprint, self._fingerprint, self.folder)
        self._encoder = encoder
        self.segments = list(self._whole(segments))

    def _whole(self, segments: Sequence[Segment]) -> Iterator[Segment]:
        """The segments up to the first that is missing or damaged."""
        done = 0
        for segment in segments:
            if reason := damage(self.folder / segment.name, segment):
                lost = sum(part.frames for part in segments) - done
                self.dropped = f"{self.folder / segment.name} {reason}: {lost} finished frames are done again"
                return
            done += segment.frames
            yield segment

    def _sweep(self) -> None:
        """Remove what a killed job left, and write the index anew."""
        kept = {segment.name for segment in self.segments}
        for path in self._own_files():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        self._write_index()

    def _clear(self) -> None:
        if is_own_file(self.folder / INDEX):
            (self.folder / INDEX).unlink()  # first: without it the rest is nothing
            sync_folder(self.folder)
        for path in self._own_files():
            path.unlink(missing_ok=True)
        if is_own_file(self.folder / NOTE):
            (self.folder / NOTE).unlink()
        self.segments = []

    def _own_files(self) -> list[Path]:
        """Segments and temporaries."""
        kept = (INDEX, NOTE, ".lock")
        return [path for path in sorted(self.folder.iterdir()) if path.name not in kept and is_own_file(path)]

    def _write_index(self) -> None:
        index = {
            "version": _VERSION,
            "fingerprint": self._fingerprint,
            "encoder": self._encoder,
            "segments": [asdict(segment) for segment in self.segments],
        }
        write_state(self.folder / INDEX, json.dumps(index, indent=1))


def read_index(folder: Path) -> dict[str, Any]:
    """What the folder's journal.json says; `{}` when it is damaged. Raises FileNotFoundError, OSError, InputError."""
    with open_state(folder / INDEX, "rb") as stream:
        data = stream.read(_MAX_INDEX_BYTES + 1)
    try:
        index = json.loads(data) if len(data) <= _MAX_INDEX_BYTES else {}
    except (ValueError, RecursionError):
        return {}
    return index if isinstance(index, dict) else {}


def is_own_file(path: Path) -> bool:
    """Whether `path`, in a folder of parts, is a regular file that a job there has made, by its name."""
    name = path.name
    named = name in (".lock", INDEX, NOTE) or _SEGMENT.fullmatch(name) is not None or is_part_name(name)
    return named and is_regular(path)


def segment_from(entry: Any) -> Segment:
    """Raises ValueError, TypeError, KeyError for what no job has written: others may have put the index there."""
    segment = Segment(**entry)
    numbers = (segment.frames, segment.first_pts, segment.last_pts, segment.bytes)
    if any(type(number) is not int for number in numbers) or segment.frames < 1 or segment.bytes < 0:
        raise ValueError(f"numbers of {segment.name}")
    if not _SEGMENT.fullmatch(segment.name) or not isinstance(segment.sha256, str):
        raise ValueError(f"{segment.name} is not a segment")
    return segment


def damage(path: Path, segment: Segment) -> str | None:
    """What is wrong with a segment's file; None when it is whole."""
    try:
        with open_state(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size != segment.bytes:
                return "is cut off"
            found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a BufferedReader
    except FileNotFoundError:
        return "is missing"
    return None if found == segment.sha256 else "is damaged"


def check_fingerprint(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises InputError, naming the first difference, where the job in `folder` was begun with another fingerprint."""
    if key := _first_difference(before, now):
        raise InputError(
            f"the unfinished job in {folder} was started with other options: {_change(key, before, now)}",
            f"use the same options and input, or {START_OVER}",
        )


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first key of `now`, then of `before`, whose values differ; what is `FOR_MESSAGES` is not compared."""
    keys = [key for key in dict.fromkeys([*now, *before]) if key not in FOR_MESSAGES.values()]
    return next((key for key in keys if not _alike(key, before.get(key), now.get(key))), None)


def _alike(key: str, before: Any, now: Any) -> bool:
    """Whether two values are equal; style codes, which are computed, may differ as those of two processors do."""
    if before == now:
        return True
    if key != "style":
        return False
    try:
        one, other = np.asarray(before, np.float64), np.asarray(now, np.float64)
    except (TypeError, ValueError, OverflowError):  # a damaged journal
        return False
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=_CODE_STEP)


def _change(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words: what `key` was and is."""
    if (written := FOR_MESSAGES.get(key)) is None:
        return f"{key} was {_shown(before.get(key))} and is {_shown(now.get(key))}"
    was, is_now = (text if isinstance(text := of.get(written), str) else None for of in (before, now))
    if was is not None and was == is_now:
        return f"{key} {_shown(was)} has changed"  # an image file with other content
    return f"{key} was {_shown(was or f'another {key}')} and is {_shown(is_now or f'another {key}')}"


def _shown(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
