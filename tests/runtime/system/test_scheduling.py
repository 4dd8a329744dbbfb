"""Priorities of threads: no encoder may starve the other programs of a machine."""

import os
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dsmap.runtime.system.scheduling import usual_priority
from dsmap.runtime.video.encoders import EncoderSettings, working_codecs
from dsmap.runtime.video.writer import VideoWriter

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for the threads' priorities")


def priorities() -> dict[int, int]:
    return {int(name): os.sched_getscheduler(int(name)) for name in os.listdir("/proc/self/task")}


@pytest.mark.parametrize("codec", ["av1", "h264", "hevc", "vp9"])
def test_no_encoder_takes_a_real_time_priority(tmp_path: Path, codec: str) -> None:
    """SVT-AV1 does, as root: its threads and the one that opens it run before everything else then."""
    assert codec in working_codecs(".mkv")
    assert set(priorities().values()) == {os.SCHED_OTHER}
    clock = {"time_base": Fraction(1, 25), "rate": Fraction(25)}
    out = VideoWriter(tmp_path / "a.mkv", encoding=EncoderSettings(codec=codec), width=64, height=48, **clock)
    for index in range(3):
        out.write(np.full((48, 64, 3), index, np.uint8), index)
    assert set(priorities().values()) == {os.SCHED_OTHER}
    out.close()
    assert set(priorities().values()) == {os.SCHED_OTHER}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may raise a priority")
def test_what_was_raised_before_stays() -> None:
    done, raised = threading.Event(), threading.Event()

    def elsewhere() -> None:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        raised.set()
        done.wait(90)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        raised.wait(90)
        with usual_priority():
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        found = priorities()
        assert found[threading.get_native_id()] == os.SCHED_OTHER
        assert found[thread.native_id] == os.SCHED_RR
    finally:
        done.set()
        thread.join()
