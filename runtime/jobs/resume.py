"""Resuming video jobs after a kill, a power cut or Ctrl-C.

    holiday-winter.mp4.parts/    beside holiday-winter.mp4: finished parts (see `packet_journal`), the video as it
                                 grows, a note, and segments/ where several workers share the job (see `segments`)

The folder is removed when the job is done. While it exists the job is unfinished, and no other job starts over it
without being asked to. Only regular files with the names of ours are ever removed from it, whatever the note says. The
note is read when a job is resumed: it says whether the file under the output's name comes from this job.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmap.common.atomic import finish_file, sync_folder
from dsmap.common.files import cut_name
from dsmap.common.part_files import part_file
from dsmap.common.state_files import open_state, write_state
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.jobs.content_identity import content_identity
from dsmap.runtime.jobs.packet_journal import NOTE, PacketJournal, is_own_file, read_index
from dsmap.runtime.jobs.segments.results import (
    SegmentResult,
    adoptable,
    has_results,
    is_note_name,
    is_results_folder,
    remove_results,
)
from dsmap.runtime.jobs.stored import is_stored, names_stored

CUT_SECONDS, CUT_FRAMES = 10.0, 48
"""A part ends after this many seconds and frames: each begins with a keyframe, which costs space."""
CUT_AT_LAST = 60.0
"""A part ends after this many seconds in any case: a kill loses no more."""
_MAX_NAME_BYTES = 100  # of the folder; some systems take less than 255
_MAX_NOTE_BYTES = 100_000


def parts_folder(output: Path) -> Path:
    """Where the parts of the job that writes `output` are kept."""
    name = f"{output.name}.parts"
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:8]
        name = f"{cut_name(output.stem, 60)}.{digest}{cut_name(output.suffix, 16)}.parts"
    return output.with_name(name)


def segments_folder(output: Path) -> Path:
    """Where the segments of the job that writes `output` are kept, if it is split."""
    return parts_folder(output) / "segments"


def is_unfinished(output: Path) -> bool:
    """Whether an earlier job for `output` was interrupted and left finished parts.

    Raises InputError where that is for a store to say, and it cannot be asked.
    """
    if is_stored(output):
        return any(map(is_note_name, names_stored(segments_folder(output))))
    if has_results(segments_folder(output)):
        return True
    try:
        return bool(read_index(parts_folder(output))["segments"])
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, KeyError, InputError):
        return True  # damaged, or not ours: for the person to decide


def is_finished(output: Path) -> bool:
    """Whether `output` is the complete result of a job that was killed before it removed its parts."""
    return _is_one_of(output, [_note(output).get("finished")])


def check_unfinished(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises InputError where parts of an earlier job would be lost, or files that are not such a job's."""
    folder = parts_folder(output)
    if foreign := _foreign(folder):
        raise InputError(
            f"{folder} is where finished parts are kept, and holds something else ({foreign})",
            "move it away, or choose another name with -o",
        )
    if not is_unfinished(output) or (resume and is_finished(output)):
        return
    if not resume and not overwrite:
        raise InputError(
            f"an interrupted job left finished parts in {parts_folder(output)}",
            "pass --resume to continue, or --overwrite to start over",
        )
    if resume and not overwrite and output.exists() and not _is_one_of(output, _left(_note(output))):
        raise InputError(
            f"{output} is not what the interrupted job left there",
            "move it away, or pass --overwrite as well to replace it",
        )


class JobParts:
    """The parts of one job, open. `frames`: how many are done already."""

    def __init__(self, output: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        """Opens the folder, or makes it. Raises InputError when the parts in it do not fit to this job."""
        self.output = output
        self.folder = parts_folder(output)
        segments = adoptable(segments_folder(output), fingerprint) if resume else []
        self.journal = PacketJournal.open(self.folder, fingerprint, fresh=not resume)
        if segments:
            self._adopt(segments)
        if not resume:
            remove_results(segments_folder(output))
        self.frames = self.journal.frames
        self._left = _left(_note(output)) if resume else []
        """Of what this job has put under the output's name so far, before it was interrupted: the contents."""
        self._holds_result = False
        self._last_cut, self._frames_since = time.monotonic(), 0

    def _adopt(self, found: Sequence[SegmentResult]) -> None:
        """Take over what the workers of a split job have finished, from its beginning on."""
        if sum(one.frames for one in found) <= self.journal.frames:
            return
        try:
            self.journal.adopt([one.part for one in found], found[0].encoder)
        except OSError as error:
            self.journal.close()
            raise DsmapError(f"cannot write into {self.folder}: {error.strerror}", "check the disk") from error

    def lines(self) -> Iterator[str]:
        """Notes for the user about the parts that were found."""
        if self.journal.dropped:
            yield self.journal.dropped
        if self.frames:
            yield f"resumed after frame {self.frames}"

    def new_file(self) -> Path:
        """An empty file in the folder for the video to grow in."""
        try:
            return part_file(self.folder / f"video{self.output.suffix}")
        except OSError as error:
            raise DsmapError(f"cannot write into {self.folder}: {error.strerror}", "check the disk") from error

    def may_replace(self) -> bool:
        """Whether what is under the output's name is what the interrupted job left there."""
        return _is_one_of(self.output, self._left)

    def finish(self, part: Path, *, whole: bool, overwrite: bool) -> None:
        """Give the output's name to `part`: the `whole` result, or what was done before an interruption.

        It is noted first, so that a job that is killed right then is known to be done. Raises OSError; FileExistsError
        when something else has the name by then and may not be replaced.
        """
        may_replace = overwrite or self.may_replace()
        self._left = [*self._left[-1:], content_identity(part)]
        self._write_note(left=self._left, finished=self._left[-1] if whole else None)
        finish_file(part, self.output, replace=may_replace)
        sync_folder(self.folder)

    def keep_result(self) -> None:
        """The finished video could not be named, and has to stay in the folder."""
        self._holds_result = True

    def is_due(self) -> bool:
        """Whether a part should end here; asked before every frame."""
        seconds = time.monotonic() - self._last_cut
        self._frames_since += 1
        if seconds < CUT_SECONDS or (self._frames_since <= CUT_FRAMES and seconds < CUT_AT_LAST):
            return False
        self._last_cut, self._frames_since = time.monotonic(), 0
        return True

    def keep(self) -> bool:
        """End an unfinished job: its parts are kept if there are any. Says whether they are."""
        if not self.journal.frames and not self._holds_result:
            self.remove()
            return False
        self._write_note(left=self._left)
        self.journal.close()
        return True

    def remove(self) -> None:
        """End a finished job: its parts are removed."""
        remove_results(segments_folder(self.output))
        self.journal.remove()

    def _write_note(self, **note: Any) -> None:
        with contextlib.suppress(OSError, InputError):  # without the note the user is asked
            write_state(self.folder / NOTE, json.dumps(note) + "\n")


def discard_parts(output: Path) -> None:
    """Removes the parts of an interrupted job. Raises InputError while another process is using them."""
    if parts_folder(output).exists():
        JobParts(output, {}, resume=False).remove()


def discard_nothing(output: Path) -> None:
    """Removes the folder of a job that has ended without a finished part."""
    if parts_folder(output).is_dir() and not is_unfinished(output):
        tidy_up(output)


def tidy_up(output: Path) -> None:
    """Removes the parts of a job whose result `output` is complete. Files that are not ours stay."""
    folder = parts_folder(output)
    if os.path.lexists(folder) and _foreign(folder) is None:
        with contextlib.suppress(InputError):  # another process is working there
            discard_parts(output)


@contextlib.contextmanager
def kept_parts(output: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> Iterator[JobParts]:
    """The parts of a job. When the block raises, finished parts are kept, and the error says so."""
    parts = JobParts(output, fingerprint, resume=resume)
    try:
        yield parts
    except BaseException as error:
        kept = parts.keep()
        if kept and isinstance(error, DsmapError) and not isinstance(error, InputError):
            raise saying_kept(error) from error
        raise


def saying_kept(error: DsmapError) -> DsmapError:
    """The error of a job whose finished parts are kept."""
    kept = "what was done is kept: run the same command with --resume to continue"
    if kept in error.advice:
        return error
    return DsmapError(error.fact, f"{error.advice.removesuffix('.')}; {kept}")


def input_fingerprint(source: Path) -> dict[str, Any]:
    """What identifies an input: its content, not its name, folder or times."""
    found = content_identity(source)
    return {"input's size": found["bytes"], "input's content": found["sha256"]}


def _note(output: Path) -> dict[str, Any]:
    try:
        with open_state(parts_folder(output) / NOTE, "rb") as stream:
            note = json.loads(stream.read(_MAX_NOTE_BYTES))
    except (OSError, ValueError, RecursionError, InputError):
        return {}
    return note if isinstance(note, dict) else {}


def _left(note: Mapping[str, Any]) -> list[Any]:
    left = note.get("left")
    return left if isinstance(left, list) else []


def _is_one_of(output: Path, identities: Sequence[Any]) -> bool:
    """Whether the file is one of those whose contents were noted."""
    known = [identity for identity in identities if identity]
    try:
        return bool(known) and content_identity(output) in known
    except OSError:
        return False


def _foreign(folder: Path) -> str | None:
    """The name of something in the folder that no job has put there; None where all is ours, or nothing there."""
    if not os.path.lexists(folder):
        return None
    if folder.is_symlink() or not folder.is_dir():
        return folder.name
    try:
        found = [path for path in sorted(folder.iterdir()) if not is_own_file(path)]
        return next((path.name for path in found if path.name != "segments" or not is_results_folder(path)), None)
    except OSError as error:
        raise InputError(
            f"cannot look into {folder}, where finished parts are kept: {error.strerror}",
            "move it away, or choose another name with -o",
        ) from error
