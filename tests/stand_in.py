"""The command `dsmap-video` with a Translator that inverts, in place of the network."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Stands in for the real Translator: the same names, and seconds to wait per frame from the environment.
# STAND_IN_HOLDS_AT, STAND_IN_HOLD: before that frame it makes a file and goes on when that is gone. See `held`.
STAND_IN = """
import os, sys, time, types
from pathlib import Path
from dsmap.runtime.frame_translator import FrameTranslator

class Translator(FrameTranslator):
    model_name, source = "summer-winter", "summer"
    backend_title = "stand-in, fp32 (auto)"
    backend_name, backend_description, backend_reason, precision = "stand-in", "inverts", "for tests", "fp32"

    @classmethod
    def load(cls, model="summer-winter", *, domain, style=None, **options):
        from dsmap.errors import InputError
        if "STAND_IN_DOES_NOT_LOAD" in os.environ:
            raise InputError("the model does not load", "use another")
        print("loaded with style", style.written, flush=True)
        if os.environ.get("STAND_IN_CUTS"):
            import dsmap.runtime.jobs.resume as parts
            parts.CUT_SECONDS, parts.CUT_FRAMES = 0.0, 5
        self = cls()
        self.target, self.style, self.in_flight = domain, [0.5 if style.source is None else 0.25], 1
        self.bundle = types.SimpleNamespace(fingerprint="stand-in", folder=Path("stand-in"))
        return self

    def find_style(self, style):
        return [0.0]

    def check_size(self, height, width, batch=1):
        if "STAND_IN_LARGEST" in os.environ and height > int(os.environ["STAND_IN_LARGEST"]):
            from dsmap.errors import InputError
            raise InputError("needs about 9 GB", "--height 16")

    def submit(self, frame, style=None, at=None):
        result = self.invert(frame)
        return lambda: result

    def invert(self, frame):
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", 0)))
        if "STAND_IN_FAILS" in os.environ:
            raise RuntimeError("no more memory\\nsecond line")
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == int(os.environ.get("STAND_IN_HOLDS_AT", 0)):
            hold = Path(os.environ["STAND_IN_HOLD"])
            hold.touch()
            while hold.exists():
                time.sleep(0.005)
        if self.calls == int(os.environ.get("STAND_IN_FAILS_AT", 0)):
            from dsmap.errors import DsmapError
            raise DsmapError("the GPU fell off", "put it back")
        return 255 - frame

sys.modules["dsmap.runtime.translator"] = types.SimpleNamespace(Translator=Translator)
from dsmap.tools.video import main
main()
"""


def start(*arguments: object, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", STAND_IN, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})


@contextlib.contextmanager
def held(hold: Path, at: int, *arguments: object, **environment: str) -> Iterator[subprocess.Popen]:
    """The command, in the middle of its work: it translates frame `at` until the end of the block, if it lives."""
    process = start(*arguments, **environment, STAND_IN_HOLDS_AT=str(at), STAND_IN_HOLD=str(hold))
    try:
        end = time.monotonic() + 120
        while not hold.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "the work does not begin"
            time.sleep(0.01)
        yield process
    finally:
        hold.unlink(missing_ok=True)


def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def assert_refused(result: tuple[int, str, str], code: int, fact: str) -> None:
    """Two lines on stderr, the right code, no traceback, and the model was not loaded."""
    assert result[0] == code, result
    lines = result[2].splitlines()
    assert len(lines) == 2, result
    assert lines[0].startswith("error: ")
    assert fact in lines[0]
    assert "loaded" not in result[1]
