"""Closed terminals and killed processes: recordings stay playable."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import clips
import numpy as np
import pytest

from dsmap.runtime.live.recorder import Recorder
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.writer import VideoWriter

KILLED = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from dsmap.runtime.live.recorder import Recorder
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.reader import VideoReader
from dsmap.runtime.video.writer import VideoWriter

recorder = Recorder(Path(sys.argv[1]), rate=30, overwrite=False)
noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
for index in range(200):
    while recorder._queue.full():
        time.sleep(0.001)
    recorder.put(np.roll(noise, index, axis=1), index / 30)
while recorder.frames < 200:
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_recording_survives_a_kill(tmp_path: Path, suffix: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / f"r{suffix}"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = tmp_path.iterdir()
    times = [float(at) for at in clips.read(left).times]
    assert len(times) > 80  # of 200: the encoder looks ahead, and the last second was not written yet
    assert times == pytest.approx([times[0] + index / 30 for index in range(len(times))], abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_finished_recording_is_an_ordinary_file(tmp_path: Path, suffix: str) -> None:
    recorder = Recorder(tmp_path / f"r{suffix}", rate=30, overwrite=False)
    for index in range(90):
        while recorder._queue.full():
            time.sleep(0.001)
        recorder.put(np.full((48, 64, 3), clips.grey(index), np.uint8), 7 + index / 30)
    recorder.finish()
    recorder.wait()
    assert recorder.error is None
    video = clips.read(tmp_path / f"r{suffix}")
    assert [float(at) for at in video.times] == pytest.approx([index / 30 for index in range(90)], abs=0.001)
    if suffix != ".mkv":
        assert sorted(set(boxes(tmp_path / f"r{suffix}")) - {"free", "wide"}) == ["ftyp", "mdat", "moov"]
    assert [path.name for path in tmp_path.iterdir()] == [f"r{suffix}"]


def boxes(path: Path) -> list[str]:
    """The top-level boxes of an mp4: no fragments (moof) in an ordinary one."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
    return names


# --- signals


@contextmanager
def handler_of(number: int, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def run_on_a_terminal(command: list[object], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command on a new terminal; closing the returned file closes it."""
    master, terminal = os.openpty()
    words = [str(word) for word in command]
    code = (
        "import fcntl, os, sys, termios\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        f"os.execv({words[0]!r}, {words!r})"
    )
    ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env={**os.environ, "TERM": "xterm"}, **ends)
    os.close(terminal)
    return process, master


@pytest.mark.parametrize("command", ["live", "video"])
def test_a_closed_terminal_finishes_result_and_report(tiny_bundle: Path, tmp_path: Path, command: str) -> None:
    """The kernel sends SIGHUP, and all later output fails, that of the bar too."""
    clip = clips.make_clip(tmp_path / "in.mp4", frames=30 if command == "live" else 6000)
    words = [sys.executable, "-m", f"dsmap.tools.{command}", "-d", "winter", "--model", tiny_bundle]
    if command == "live":
        words += ["--camera", clip, "--no-window", "--loop", "--record", "out.mp4", "--seconds", "60"]
    else:
        words += [clip, "-o", "out.mp4"]
    process, master = run_on_a_terminal([*words, "--report", "r.json"], tmp_path)
    drain = threading.Thread(target=read_until_closed, args=(master,), daemon=True)
    drain.start()
    end = time.monotonic() + 120
    while not [path for path in tmp_path.rglob("*.part.mp4") if clips.has_frames(path)]:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGSTOP)  # so that the reader is not in the middle when the terminal goes
    os.close(master)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(timeout=120) == 130
    report = json.loads((tmp_path / "r.json").read_text())
    frames = len(clips.read(tmp_path / "out.mp4").times)
    assert frames == (report["recordings"][0]["frames"] if command == "live" else report["frames"])
    assert 0 < frames < 6000


def read_until_closed(master: int) -> None:
    with contextlib.suppress(OSError):
        while select.select([master], [], [], 0.1)[0] is not None:
            if select.select([master], [], [], 0)[0]:
                os.read(master, 65536)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_what_survives_a_kill_holds_the_same_packets_as_what_does_not(tmp_path: Path, suffix: str) -> None:
    clip = clips.make_clip(tmp_path / "in.mp4", frames=60, audio=["aac"], audio_seconds=2)
    written = []
    for recoverable in (False, True):
        path = tmp_path / f"{recoverable}{suffix}"
        with VideoReader(clip) as reader:
            size = {"width": reader.width, "height": reader.height}
            clock = {"time_base": reader.time_base, "rate": reader.rate}
            writer = VideoWriter(path, **size, **clock, audio=reader.audio, recoverable=recoverable)
            for item in reader:
                if isinstance(item, Frame):
                    writer.write(item.rgb, item.pts, item.duration)
                else:
                    writer.copy(item)
            writer.close()
        written.append(clips.read(path))
    assert written[0].times == written[1].times
    assert written[0].audio == written[1].audio
    assert len(written[0].audio[0]) > 50
