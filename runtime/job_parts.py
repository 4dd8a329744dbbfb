"""What a video job keeps while it runs, so that it can go on after a kill, a power cut or Ctrl-C.

    holiday-winter.mp4.parts/    beside holiday-winter.mp4: finished parts (see `packet_journal`), and a note

The folder goes with the job's end. While it is there the job is unfinished: nothing begins anew over it unasked.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsmap.errors import InputError
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
    """Raises InputError where parts of an earlier job would be lost, or a file that is not its result."""
    if not is_unfinished(output):
        return
    if not resume and not overwrite:
        raise InputError(
            f"an interrupted job left finished parts in {parts_folder(output)}",
            "pass --resume to go on where it was, or --overwrite to begin anew",
        )
    if resume and not overwrite and output.exists() and _note(output).get("partial") != _identity(output):
        raise InputError(
            f"{output} is not what the interrupted job left there",
            "move it away and pass --resume again, or begin anew with --overwrite",
        )


class JobParts:
    """The parts of one job, open. `frames`: how many are done already."""

    def __init__(self, output: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        """Opens the folder, or makes it. Raises InputError when the parts in it do not fit to this job."""
        self.output = output
        self.journal = PacketJournal.open(parts_folder(output), fingerprint, fresh=not resume)
        self.frames = self.journal.frames
        self._last_cut, self._frames_since = time.monotonic(), 0
        if unfinished := _note(output).get("writing"):
            (output.parent / Path(unfinished).name).unlink(missing_ok=True)  # what a killed job was writing

    def lines(self) -> Iterator[str]:
        """What the user should know of what was found."""
        if self.journal.dropped:
            yield self.journal.dropped
        if self.frames:
            yield f"resumed after frame {self.frames}"

    def begin(self, path: Path) -> None:
        """The video grows in `path` from now on."""
        self._write_note(writing=path.name)

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
        partial = _identity(self.output) if self.output.exists() else None
        self._write_note(partial=partial)
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
    """Throws away what an interrupted job left: for a job that cannot be resumed and is to begin anew."""
    shutil.rmtree(parts_folder(output), ignore_errors=True)


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


def _identity(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
