"""Signs of work after a line that announces a long step."""

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, io, time
from dsmap.tools.shared.progress import Steps, progress
from dsmap.tools.shared.terminal import say

with Steps(silent=0.2):
    say("loading torch ...")
    with contextlib.redirect_stderr(io.StringIO()):  # as the export silences torch's exporter
        time.sleep(1)
    say("loaded")
    time.sleep(0.4)
    say("measuring ...")
    with progress(3) as update:
        update(3)
        time.sleep(0.4)
say("after ...")
"""


def test_where_there_is_no_terminal_a_line_says_that_it_goes_on():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["loading torch ...", "loaded", "measuring ...", "after ..."]
    first, _, second = done.stderr.partition("\n")
    assert first == "  ... 0 s"
    assert second in ("", "  ... 1 s\n")  # which comes much later, and on a busy machine only; none beside the bar


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_on_a_terminal_a_sign_turns_until_the_next_line():
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    try:
        while chunk := os.read(ours, 4096):
            told += chunk
    except OSError:  # it has ended
        pass
    assert process.wait() == 0
    text = told.decode()
    before, _, rest = text.partition("loaded")
    assert "0:00:00" in before
    assert "0:00:0" not in rest.partition("measuring ...")[0]  # what is no long step has no sign
    assert "3/3" in rest
    assert "0:00:0" not in rest.partition("after ...")[2]
