"""Runs a function in a process of its own, which may crash or hang without affecting the caller."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, Any, NamedTuple

from dsmap.errors import first_line

# The caller's import path, whatever it was started by: what it would import is what is looked at. Only then dsmap.
_CODE = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path'];"
    "from dsmap.runtime.system.subprocess_call import answer; answer(given)"
)
_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",  # a json.py in the current folder is not Python's
    "OPENCV_LOG_LEVEL": "ERROR",
    "NO_COLOR": "1",
}
_GRACE = 1.0  # seconds for what has ended to be gone; a process stuck in a driver is left behind


class CallResult(NamedTuple):
    """The value of the call, or how it ended without one."""

    value: Any = None
    """What the function returned."""
    ended: str = ""
    """In words: an exception, a signal, or no answer in time; empty when there is a value."""
    said: str = ""
    """What was printed meanwhile, by libraries too."""


def isolated(target: str, seconds: float, /, *, nested: bool = False, **arguments: Any) -> CallResult:
    """Calls `target` ("module:function") with JSON arguments in a new interpreter; its value has to be JSON too.

    It never raises, and comes back a little after `seconds` at the latest. `nested`: within another such call, so that
    ending that one ends this one too.
    """
    given = {"path": _absolute(sys.path), "target": target, "arguments": arguments}
    command = [sys.executable or "python", "-c", _CODE, json.dumps(given)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=not nested,
        )
    except OSError as error:
        return CallResult(ended=f"no process could be started ({error.strerror or error})")
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [_PipeReader(process.stdout), _PipeReader(process.stderr)]
    late = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        late = True
        _end(process, nested)
    except BaseException:  # Ctrl-C reaches only this process
        _end(process, nested)
        raise
    out, said = (reader.text() for reader in readers)
    with contextlib.suppress(ValueError):
        result = json.loads(out)
        return CallResult(result.get("value"), result.get("ended", ""), said)
    return CallResult(
        ended=f"no answer in {seconds:g} s" if late else _how_it_ended(process.returncode, said), said=said
    )


def _absolute(path: list[str]) -> list[str]:
    try:
        return [os.path.abspath(entry) for entry in path]
    except OSError:  # the current folder has been removed: nothing can be found there
        return [entry for entry in path if os.path.isabs(entry)]


class _PipeReader(threading.Thread):
    """Reads a pipe until its end; which never comes if what was started left behind something that holds it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._parts = pipe, list[bytes]()
        self.start()

    def run(self) -> None:
        with self._pipe:
            while part := os.read(self._pipe.fileno(), 1 << 16):
                self._parts.append(part)

    def text(self) -> str:
        """What was written, once the writer has ended."""
        self.join(_GRACE)
        return b"".join(self._parts).decode(errors="replace")


def _end(process: "subprocess.Popen[bytes]", nested: bool) -> None:
    """Kills it with all that it started."""
    with contextlib.suppress(OSError):
        if nested or not hasattr(os, "killpg"):
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)


def _how_it_ended(code: int, said: str) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it crashed ({signal.Signals(-code).name})"
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    return f"it ended with code {code}" + (f" ({last[:160]})" if last else "")


def answer(given: dict[str, Any]) -> None:
    """Calls the function in the new process, writes its value to stdout, and ends the process."""
    channel = os.dup(1)  # stdout is for the answer alone: what libraries print goes to stderr
    os.dup2(2, 1)
    _no_core_file()
    try:
        module, _, function = given["target"].partition(":")
        result = {"value": getattr(importlib.import_module(module), function)(**given["arguments"])}
    except BaseException as error:
        result = {"ended": f"{type(error).__name__}: {first_line(error)[:200] or type(error).__name__}"}
    with os.fdopen(channel, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
    sys.stderr.flush()
    os._exit(0)  # libraries that crash while they are unloaded have done their work before


def _no_core_file() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # Unix only

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
