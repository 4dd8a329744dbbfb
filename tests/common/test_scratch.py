"""Temporary folders that go with the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsmap.common.interrupts import stop_on_signals
from dsmap.common.scratch import scratch_folder

WAITING = """
import sys, time
from dsmap.common.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "large").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(120)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", 0)])
def test_a_signal_that_ends_the_process_takes_the_folder_along(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        assert folder.parent == tmp_path
        assert (folder / "large").exists()
        run.send_signal(number)
        assert run.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_whoever_handles_signals_already_goes_on_doing_so() -> None:
    with stop_on_signals() as stop, scratch_folder("test") as folder:
        signal.raise_signal(signal.SIGTERM)
        assert stop
        assert folder.is_dir()
    assert not folder.exists()
    before = signal.getsignal(signal.SIGTERM)
    with scratch_folder("test"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
