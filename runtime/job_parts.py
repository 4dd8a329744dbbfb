"""What a video job keeps while it runs, so that it can go on after a kill, a power cut or Ctrl-C.

    holiday-winter.mp4.parts/    beside holiday-winter.mp4: finished parts (see `packet_journal`), and a note

The folder goes with the job's end. While it is there the job is unfinished: nothing begins anew over it unasked.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.packet_journal import INDEX, PacketJournal

CUT_SECONDS, CUT_FRAMES = 10.0, 48
"""A part is finished after so many seconds of work and frames: each begins with a keyframe, which costs space."""
CUT_AT_LAST = 60.0
"""And after so many seconds in any case: no more is lost."""
_NOTE = "job.json"


def parts_folder(output: Path) -> Path:
    """Where the parts of the job that writes `output` are kept."""
    return output.with_name(output.name + ".parts")


def is_unfinished(output: Path) -> bool:
    """Whether an earlier job for `output` was interrupted and left finished parts."""
    try:
        return bool(json.loads((parts_folder(output) / INDEX).read_text(encoding="utf-8"))["segments"])
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True  # damaged: for the person to decide


def check_unfinished(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises InputError where parts of an earlier job would be lost, or files that are not such a job's."""
    folder = parts_folder(output)
    if foreign := _foreign(folder):
        raise InputError(
            f"{folder} is where finished parts are kept, and holds something else ({foreign})",
            "move it away, or choose another name with -o",
        )
    if not is_unfinished(output):
        return
    if not resume and not overwrite:
        raise InputError(
            f"an interrupted job left finished parts in {parts_folder(output)}",
            "pass --resume to go on where it was, or --overwrite to begin anew",
        )
    if resume and not overwrite and output.exists() and not _is_it(output, _note(output).get("partial")):
        raise InputError(
            f"{output} is not what the interrupted job left there",
            "move it away, or pass --overwrite as well to replace it",
        )


class JobParts:
    """The parts of one job, open. `frames`: how many are done already."""

    def __init__(self, output: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        """Opens the folder, or makes it. Raises InputError when the parts in it do not fit to this job."""
        self.output = output
        self.journal = PacketJournal.open(parts_folder(output), fingerprint, fresh=not resume)
        self.frames = self.journal.frames
        note = _note(output)
        self._partial = note.get("partial")
        """Of the file that the interrupted job left under the output's name: size and time."""
        self._last_cut, self._frames_since = time.monotonic(), 0
        unfinished = note.get("writing")
        if isinstance(unfinished, str) and Path(unfinished).name == unfinished:
            (output.parent / unfinished).unlink(missing_ok=True)  # what a killed job was writing

    def lines(self) -> Iterator[str]:
        """What the user should know of what was found."""
        if self.journal.dropped:
            yield self.journal.dropped
        if self.frames:
            yield f"resumed after frame {self.frames}"

    def begin(self, path: Path) -> None:
        """The video grows in `path` from now on."""
        self._write_note(writing=path.name, partial=self._partial)

    def may_replace(self) -> bool:
        """Whether what is under the output's name is what the interrupted job left there."""
        return _is_it(self.output, self._partial)

    def named(self) -> None:
        """What was done is under the output's name now."""
        self._partial = _identity(self.output)

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
        if not self.journal.frames:
            self.remove()
            return False
        self._write_note(partial=self._partial)
        self.journal.close()
        return True

    def remove(self) -> None:
        """The job is done: nothing of its parts stays."""
        (parts_folder(self.output) / _NOTE).unlink(missing_ok=True)
        self.journal.remove()

    def _write_note(self, **note: Any) -> None:
        with contextlib.suppress(OSError):  # without it only tidying up is lost
            (parts_folder(self.output) / _NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def discard_parts(output: Path) -> None:
    """Throws away what an interrupted job left: for one that cannot be resumed. InputError while one is at work."""
    if parts_folder(output).exists():
        JobParts(output, {}, resume=False).remove()


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
    """What tells an input from another one under its name."""
    found = source.stat()
    return {"input": source.name, "input's size": found.st_size, "input's time": found.st_mtime_ns}


def _note(output: Path) -> dict[str, Any]:
    try:
        note = json.loads((parts_folder(output) / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _identity(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _is_it(output: Path, partial: Any) -> bool:
    """Whether the file is the one whose identity was noted; None: none was."""
    return partial is not None and partial == _identity(output)


def _foreign(folder: Path) -> str | None:
    """The name of something in the folder that no job has put there; None where all is ours, or nothing there."""
    if not folder.exists() and not folder.is_symlink():
        return None
    if not folder.is_dir() or folder.is_symlink():
        return folder.name
    ours = re.compile(rf"\.lock|{re.escape(_NOTE)}|{re.escape(INDEX)}(\.part)?|seg(-\d+)?\.packets(\.part)?")
    return next((path.name for path in sorted(folder.iterdir()) if not ours.fullmatch(path.name)), None)
