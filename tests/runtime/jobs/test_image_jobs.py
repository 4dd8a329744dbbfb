"""Ctrl-C while a single image is being translated, and translators in forked processes."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError
from dsmap.runtime.backends.base import Pending
from dsmap.runtime.backends.concurrency import TranslationPool
from dsmap.runtime.frame_translator import FIRST_FRAME, ClipTime, FrameTranslator
from dsmap.runtime.jobs.images import translate_folder, translate_image

FRAME = np.zeros((24, 32, 3), np.uint8)


class SlowTranslator(FrameTranslator):
    """Takes two minutes for an image, but for the first `quick` ones, unless it is cancelled."""

    def __init__(self, quick: int = 0) -> None:
        self.quick, self.begun = quick, threading.Event()
        self.cancelled = threading.Event()

    def submit(self, frame: np.ndarray, style: object = None, at: ClipTime = FIRST_FRAME) -> Pending:
        self.quick -= 1
        quick = self.quick >= 0

        def wait() -> np.ndarray:
            if not quick:
                self.begun.set()
                if self.cancelled.wait(120):
                    raise DsmapError("the translation was cancelled", "run it again")
            return 255 - frame

        return wait

    def cancel(self) -> None:
        self.cancelled.set()


def interrupt_when(translator: SlowTranslator) -> None:
    def press() -> None:
        assert translator.begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


@pytest.mark.parametrize("quick", [0, 2])
def test_ctrl_c_stops_the_network_in_a_folder(tmp_path: Path, quick: int) -> None:
    (tmp_path / "in").mkdir()
    for index in range(4):
        write_rgb(tmp_path / "in" / f"{index}.png", FRAME)
    translator = SlowTranslator(quick)
    interrupt_when(translator)
    begin = time.monotonic()
    report = translate_folder(tmp_path / "in", tmp_path / "out", translator)
    assert time.monotonic() - begin < 90
    assert translator.cancelled.is_set()
    assert (report.interrupted, report.frames, report.failed) == (True, quick, ())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{index}.png" for index in range(quick)]


def test_ctrl_c_stops_the_network_at_an_image(tmp_path: Path) -> None:
    write_rgb(tmp_path / "in.png", FRAME)
    translator = SlowTranslator()
    interrupt_when(translator)
    begin = time.monotonic()
    report = translate_image(tmp_path / "in.png", tmp_path / "out.png", translator)
    assert time.monotonic() - begin < 90
    assert (report.interrupted, report.frames, report.complete) == (True, 0, False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_an_error_of_the_translation_is_still_raised(tmp_path: Path) -> None:
    def fails(frame: np.ndarray) -> np.ndarray:
        raise DsmapError("no more memory", "buy some")

    write_rgb(tmp_path / "in.png", FRAME)
    with pytest.raises(DsmapError, match="no more memory"):
        translate_image(tmp_path / "in.png", tmp_path / "out.png", fails)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of newer Pythons: that forking with threads is a bad idea
def test_several_frames_at_once_in_a_forked_process_are_an_error_and_no_hang() -> None:
    pool = TranslationPool(2, lambda frames, codes: frames)
    batch, codes = FRAME[None], np.zeros((1, 8), np.float32)
    assert pool.submit(batch, codes)() is batch  # a thread is there now
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            pool.submit(batch, codes)()
        except DsmapError as error:
            pool.close()
            os._exit(0 if "forked" in error.fact else 3)
        os._exit(4)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    alone = TranslationPool(1, lambda frames, codes: frames)
    assert alone.submit(batch, codes)() is batch
    pool.close()
