"""What a video job keeps while it runs, so that it can go on after a kill, a power cut or Ctrl-C.

    holiday-winter.mp4.parts/    beside holiday-winter.mp4: finished parts (see `packet_journal`), the video as it
                                 grows, and a note

The folder goes with the job's end. While it is there the job is unfinished: nothing begins anew over it unasked.
Nothing is removed but regular files in it that have the names of ours, whatever a note in it says; the note is read
for a job that is resumed, and tells of what has the output's name whether this job has put it there.
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

CUT_SECONDS, CUT_FRAMES = 10.0, 48
"""A part is finished after so many seconds of work and frames: each begins with a keyframe, which costs space."""
CUT_AT_LAST = 60.0
"""And after so many seconds in any case: no more is lost."""
_LONGEST_NAME = 100  # bytes of the folder's name: systems that take less than 255 are about
_LARGEST_NOTE = 100_000  # bytes


def parts_folder(output: Path) -> Path:
    """Where the parts of the job that writes `output` are kept."""
    name = f"{output.name}.parts"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:8]
        name = f"{cut_name(output.stem, 60)}.{digest}{cut_name(output.suffix, 16)}.parts"
    return output.with_name(name)


def is_unfinished(output: Path) -> bool:
    """Whether an earlier job for `output` was interrupted and left finished parts."""
    try:
        return bool(read_index(parts_folder(output))["segments"])
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, KeyError, InputError):
        return True  # damaged, or not ours: for the person to decide


def is_finished(output: Path) -> bool:
    """Whether `output` is the whole result of the job whose parts are there still: it was killed while tidying up."""
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
            "pass --resume to go on where it was, or --overwrite to begin anew",
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
        self.journal = PacketJournal.open(self.folder, fingerprint, fresh=not resume)
        self.frames = self.journal.frames
        self._left = _left(_note(output)) if resume else []
        """Of what this job has put under the output's name so far, before it was interrupted: the contents."""
        self._holds_result = False
        self._last_cut, self._frames_since = time.monotonic(), 0

    def lines(self) -> Iterator[str]:
        """What the user should know of what was found."""
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
        """The job ends before its end: the parts stay if there are any. Says whether they do."""
        if not self.journal.frames and not self._holds_result:
            self.remove()
            return False
        self._write_note(left=self._left)
        self.journal.close()
        return True

    def remove(self) -> None:
        """The job is done: nothing of its parts stays."""
        self.journal.remove()

    def _write_note(self, **note: Any) -> None:
        with contextlib.suppress(OSError, InputError):  # without it the person is asked, no more
            write_state(self.folder / NOTE, json.dumps(note) + "\n")


def discard_parts(output: Path) -> None:
    """Throws away what an interrupted job left: for one that cannot be resumed. InputError while one is at work."""
    if parts_folder(output).exists():
        JobParts(output, {}, resume=False).remove()


def tidy_up(output: Path) -> None:
    """Removes what is left of the job whose result `output` is there and whole; somebody else's files stay."""
    folder = parts_folder(output)
    if os.path.lexists(folder) and _foreign(folder) is None:
        with contextlib.suppress(InputError):  # another process is working there
            discard_parts(output)


@contextlib.contextmanager
def kept_parts(output: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> Iterator[JobParts]:
    """The parts of a job. An error in the block keeps what is done, and says so."""
    parts = JobParts(output, fingerprint, resume=resume)
    try:
        yield parts
    except BaseException as error:
        kept = parts.keep()
        if kept and isinstance(error, DsmapError) and not isinstance(error, InputError):
            advice = f"{error.advice}; what was done is kept: the same command with --resume goes on from there"
            raise DsmapError(error.fact, advice) from error
        raise


def input_fingerprint(source: Path) -> dict[str, Any]:
    """What tells an input from another one: what is in it, not its name, its place or its times."""
    found = content_identity(source)
    return {"input's size": found["bytes"], "input's content": found["sha256"]}


def _note(output: Path) -> dict[str, Any]:
    try:
        with open_state(parts_folder(output) / NOTE, "rb") as stream:
            note = json.loads(stream.read(_LARGEST_NOTE))
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
        return next((path.name for path in sorted(folder.iterdir()) if not is_own_file(path)), None)
    except OSError as error:
        raise InputError(
            f"cannot look into {folder}, where finished parts are kept: {error.strerror}",
            "move it away, or choose another name with -o",
        ) from error
