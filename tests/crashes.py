"""Ends a process before its N-th operation on files, for every N: what is left then is what a kill leaves.

    for left in crashes(folder, template, argv, again): ...

A process imports everything and starts nothing; each run is a fork of it, in a copy of `template`, which SIGKILL ends
before operation N. Then `again` is run in that copy, to its end. The commands run with the stand-in of `stand_in.py`.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_NEEDED = ("filelock", "rich.console", "rich.progress", "dsmap.runtime.jobs.video", "dsmap.runtime.jobs.images",
           "dsmap.runtime.jobs.plan", "dsmap.runtime.bundle.bundled", "dsmap.runtime.styles.resolver",
           "dsmap.runtime.stabilization.stabilizer",
           "dsmap.runtime.jobs.batch", "dsmap.tools.video.display", "dsmap.tools.video")  # fmt: skip
_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree"}


class Left(NamedTuple):
    """What a killed run left, and what the next one made of it."""

    folder: Path
    """As it is after the second run."""
    operations: list[str]
    """Of the first run; the last was not done any more when it was `killed`."""
    killed: bool
    files: dict[str, str]
    """After the first run: SHA-256 of each file, by its path in the folder."""
    code: int
    """Exit code of the run that came to its end: the second when the first was `killed`."""
    told: str
    """What that one printed."""


def crashes(folder: Path, template: Path, argv: Sequence[object], again: Sequence[object]) -> list[Left]:
    """Every run of `argv` (the arguments of dsmap-video), from N = 0 to the N at which it came to its end."""
    told = {"folder": str(folder), "template": str(template), "argv": list(map(str, argv))}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(told | {"again": list(map(str, again))}),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [Left(Path(folder), *rest) for folder, *rest in map(json.loads, done.stdout.splitlines())]


def watch(folder: Path, before: Callable[[str], None]) -> None:
    """Calls `before` before every operation in `folder` that changes what is there, and before every flush.

    It gets the operation in words. What libav does goes unseen: it writes into temporaries.
    """
    busy = False

    def tell(what: str) -> None:
        nonlocal busy
        if not busy:
            busy = True
            before(what.replace(f"{folder}{os.sep}", ""))
            busy = False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        paths = [os.path.abspath(os.fsdecode(a)) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        if event == "ctypes.dlsym" and arguments[1] == "renameat2":
            tell("renameat2")
        elif event == "open":
            flags = arguments[2] or 0
            changes = paths and not os.path.lexists(paths[0]) if flags & os.O_CREAT else flags & os.O_TRUNC
            if changes and paths and paths[0].startswith(str(folder)):
                tell(f"open {paths[0]}")
        elif event in _EVENTS and any(path.startswith(str(folder)) for path in paths):
            changes = event == "os.mkdir" or os.path.lexists(paths[0])
            if changes:
                tell(" ".join([event, *paths]))

    fsync = os.fsync

    def flush(number: int) -> None:
        tell(f"fsync {os.readlink(f'/proc/self/fd/{number}')}")
        fsync(number)

    os.fsync = flush
    sys.addaudithook(audit)


class Snapshots:
    """A copy of `folder` in `kept` before every operation that changes it: what a kill at that moment leaves.

    For commands that take too long to run once for each. `operations`: all of them, flushes too.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self.operations: list[str] = []
        self.folders: list[Path] = []
        self._folder, self._kept, self._process = folder, kept, os.getpid()
        watch(folder, self._take)

    def _take(self, what: str) -> None:
        if os.getpid() != self._process:
            return
        self.operations.append(what)
        if what.startswith("fsync"):
            return
        shutil.copytree(self._folder, self._kept / str(len(self.folders)), symlinks=True, copy_function=self._copy)
        self.folders.append(self._kept / str(len(self.folders)))

    def _copy(self, source: str, target: str) -> str:
        """A hard link to the copy in the last snapshot where nothing has changed since."""
        last = self.folders[-1] / Path(source).relative_to(self._folder) if self.folders else None
        if last is not None and last.is_file():
            found, earlier = os.stat(source), last.stat()
            if (found.st_size, found.st_mtime_ns) == (earlier.st_size, earlier.st_mtime_ns):
                os.link(last, target)
                return target
        return shutil.copy2(source, target)


def run_here(module: str, arguments: Sequence[object], folder: Path) -> int:
    """Runs a command in this process, in `folder`; its exit code."""
    before, sys.argv = Path.cwd(), [module, *map(str, arguments)]
    os.chdir(folder)
    try:
        importlib.import_module(f"dsmap.tools.{module}").main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        os.chdir(before)
    return 0


def _prepare() -> Callable[[], None]:
    """Imports what the command needs; gives its `main`."""
    from stand_in import STAND_IN

    exec(STAND_IN.replace("\nmain()\n", "\n"), {"__name__": "stand_in_of_crashes"})
    for name in _NEEDED:
        importlib.import_module(name)
    parts = sys.modules["dsmap.runtime.jobs.resume"]
    parts.CUT_SECONDS, parts.CUT_FRAMES = 0.0, 2
    return sys.modules["dsmap.tools.video"].main


def _in_fork(main: Callable[[], None], argv: Sequence[str], folder: Path, number: int | None) -> tuple[int, list[str]]:
    """(exit code, operations). It is killed before the one that has this number, flushes not counted."""
    out, log = folder.parent / "out.txt", folder.parent / "operations.txt"
    log.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            _redirect(out)
            os.chdir(folder)
            sys.argv = ["dsmap-video", *argv]
            watch(folder, _killer(log, number))
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text().splitlines() if log.exists() else []


def _redirect(out: Path) -> None:
    stream = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)


def _killer(log: Path, number: int | None) -> Callable[[str], None]:
    stream, left = os.open(log, os.O_WRONLY | os.O_CREAT), number

    def count(what: str) -> None:
        nonlocal left
        os.write(stream, f"{what}\n".encode())
        if left is not None and not what.startswith("fsync"):  # which changes nothing that a kill would leave
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return count


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _all(told: dict[str, Any]) -> Iterator[list[Any]]:
    main = _prepare()
    for number in range(1000):
        folder = Path(told["folder"], str(number), "place")
        shutil.copytree(told["template"], folder, symlinks=True)
        code, operations = _in_fork(main, told["argv"], folder, number)
        files, killed = contents(folder), code == -signal.SIGKILL
        if killed:
            code, _ = _in_fork(main, told["again"], folder, None)
        yield [str(folder), operations, killed, files, code, (folder.parent / "out.txt").read_text()]
        if not killed:
            return


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    for one in _all(json.load(sys.stdin)):
        sys.stdout.write(json.dumps(one) + "\n")
