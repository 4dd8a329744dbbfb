"""The threads of a job: order, errors in every stage, stopping within a second, little in memory."""

import gc
import os
import signal
import threading
import time
from pathlib import Path

import clips
import numpy as np
import pytest

from dsmap.common.interrupts import StopRequest
from dsmap.errors import DsmapError
from dsmap.runtime import Translator
from dsmap.runtime.frame_translator import FIRST_FRAME, FrameTranslator
from dsmap.runtime.jobs.frame_pool import FramePool
from dsmap.runtime.jobs.pipeline import Done, Pipeline
from dsmap.runtime.jobs.video import translate_video
from dsmap.runtime.video.frame import Frame

SHORT = 60  # seconds: stopping takes at most one, and the machine may be busy


def frames(count: int):
    """Frames that hold their number, each after a packet."""
    for index in range(count):
        yield f"packet {index}"
        yield Frame(np.full((4, 4, 3), index, np.uint8), index, 1)


def run(items, begin, finish=lambda frame, result: result, stop=None, **options) -> list:
    with Pipeline(items, begin, finish, **options) as pipeline:
        return list(pipeline.results(stop or StopRequest()))


def none_is_left(of: set[threading.Thread]) -> bool:
    """Whether the threads that are not among `of` have ended, now or within some seconds."""
    deadline = time.monotonic() + 180
    while left := set(threading.enumerate()) - of:
        if time.monotonic() > deadline:
            return False
        for thread in left:
            thread.join(0.1)
    return True


def test_order_is_kept_with_several_at_once():
    rng = np.random.default_rng(0)
    at_once, most, all_are = set(), 0, threading.Event()

    def begin(frame, index):
        nonlocal most
        at_once.add(index)
        most = max(most, len(at_once))
        if most == 3:
            all_are.set()

        def wait():
            assert all_are.wait(60)
            time.sleep(rng.uniform(0, 0.004))
            at_once.remove(index)
            return frame.rgb + 100

        return wait

    results = run(frames(40), begin, in_flight=3)
    assert [r if isinstance(r, str) else r.frame.pts for r in results] == [
        thing for index in range(40) for thing in (f"packet {index}", index)
    ]
    assert all(r.rgb[0, 0, 0] == 100 + r.frame.pts for r in results if isinstance(r, Done))
    assert most == 3


def test_little_is_read_ahead():
    read = 0

    def items():
        nonlocal read
        for item in frames(100):
            read += isinstance(item, Frame)
            yield item

    stop = StopRequest()
    with Pipeline(items(), lambda frame, index: lambda: frame.rgb, lambda frame, rgb: rgb) as pipeline:
        results = pipeline.results(stop)
        while not isinstance(next(results), Done):
            pass
        time.sleep(0.3)
        assert read <= 10


@pytest.mark.parametrize("stage", ["decode", "begin", "wait", "finish"])
def test_an_error_in_any_stage_is_raised_and_ends_all(stage):
    def fail(here: str) -> None:
        if here == stage:
            raise DsmapError(f"broken in {here}", "mend it")

    def items():
        yield from frames(5)
        fail("decode")
        yield from frames(500)

    def begin(frame, index):
        if index == 5:
            fail("begin")

        def wait():
            if index == 5:
                fail("wait")
            return frame.rgb

        return wait

    def finish(frame, rgb):
        if frame.pts == 4:
            fail("finish")
        return rgb

    before = set(threading.enumerate())
    started = time.monotonic()
    with pytest.raises(DsmapError, match=f"broken in {stage}"):
        run(items(), begin, finish)
    assert time.monotonic() - started < SHORT
    assert none_is_left(before)


def test_a_consumer_that_fails_ends_the_threads():
    before = set(threading.enumerate())

    def consume() -> None:
        with Pipeline(frames(500), lambda frame, index: lambda: frame.rgb, lambda frame, rgb: rgb) as pipeline:
            for _ in pipeline.results(StopRequest()):
                raise OSError("full")

    with pytest.raises(OSError, match="full"):
        consume()
    assert none_is_left(before)


@pytest.mark.parametrize("stuck", ["decode", "translate"])
def test_a_stage_that_hangs_does_not_hold_the_end_up(stuck):
    free = threading.Event()
    cancelled = threading.Event()

    def items():
        yield from frames(3)
        if stuck == "decode":
            free.wait(120)

    def begin(frame, index):
        if stuck == "translate" and index == 2:
            free.wait(120)
        return lambda: frame.rgb

    stop, done, whole = StopRequest(), [], 3 if stuck == "decode" else 2
    started = time.monotonic()
    with Pipeline(items(), begin, lambda frame, rgb: rgb, cancel=cancelled.set) as pipeline:
        for item in pipeline.results(stop):
            done += [item] if isinstance(item, Done) else []
            if len(done) == whole and isinstance(item, Done):
                threading.Timer(0.2, stop.handle, (signal.SIGINT, None)).start()
        stopped = time.monotonic() - started
    assert stopped < SHORT
    assert len(done) == whole
    assert cancelled.is_set()
    free.set()


def test_every_frame_that_was_begun_is_waited_for_after_an_error_too() -> None:
    """A backend with a place for each frame under way has no other sign that one is free again."""
    before, under_way = set(threading.enumerate()), []

    def begin(frame, index):
        under_way.append(index)
        return lambda: under_way.remove(index) or frame.rgb

    def write() -> None:
        with Pipeline(frames(50), begin, lambda frame, rgb: rgb, in_flight=3) as pipeline:
            for item in pipeline.results(StopRequest()):
                if isinstance(item, Done) and item.frame.pts == 2:
                    while len(under_way) < 3:
                        time.sleep(0.001)
                    raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert none_is_left(before)
    assert under_way == []


def test_ctrl_c_in_the_middle_of_a_slow_frame_leaves_a_playable_file_within_a_second(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=20, audio=["aac"])
    seen, free = 0, threading.Event()

    def translate(frame):
        nonlocal seen
        seen += 1
        if seen == 6:
            os.kill(os.getpid(), signal.SIGINT)
            free.wait(120)
        return frame

    started = time.monotonic()
    report = translate_video(source, tmp_path / "out.mp4", translate)
    assert time.monotonic() - started < SHORT
    free.set()
    assert (report.interrupted, report.frames) == (True, 5)
    assert len(clips.read(tmp_path / "out.mp4").times) == 5


@pytest.mark.parametrize("frames_at_once", [1, 2])
def test_onnxruntime_is_cut_off_in_the_middle_of_a_frame(frames_at_once, tiny_bundle):
    translator = Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1, frames_at_once=frames_at_once)
    frame = np.zeros((1024, 1024, 3), np.uint8)
    ended = threading.Event()

    def cancel() -> None:
        while not ended.wait(0.05):
            translator.cancel()

    def translate_on() -> None:
        for _ in range(100):
            translator.submit(frame)()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        with pytest.raises(DsmapError, match="ONNX Runtime stopped"):
            translate_on()
    finally:
        ended.set()
        canceller.join()
    assert translator(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)
    translator.close()


def test_a_frame_is_cancelled_before_its_thread_gets_to_it(tiny_bundle, monkeypatch):
    translator = Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1, frames_at_once=2)
    pool = translator._backend._pool
    translate, begun, go = pool._translate, threading.Event(), threading.Event()

    def late(*inputs):
        begun.set()
        go.wait(60)
        return translate(*inputs)

    monkeypatch.setattr(pool, "_translate", late)
    wait = translator.submit(np.zeros((16, 16, 3), np.uint8))
    assert begun.wait(60)
    translator.cancel()
    go.set()
    with pytest.raises(DsmapError, match="ONNX Runtime stopped"):
        wait()
    assert translator(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)
    translator.close()


def test_several_frames_at_once_give_the_frames_of_one_at_a_time(tiny_bundle, tmp_path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=12, size=(96, 64))
    written = []
    for at_once in (1, 2):
        translator = Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=2, frames_at_once=at_once)
        assert translator.in_flight == (1 if at_once == 1 else at_once + 1)
        translate_video(source, tmp_path / f"{at_once}.mkv", translator, codec="lossless")
        translator.close()
        written.append(np.stack(clips.read(tmp_path / f"{at_once}.mkv").frames).astype(int))
    assert np.abs(written[0] - written[1]).max() <= 1  # sums of another number of threads are rounded differently
    assert written[0].std() > 5


def test_arrays_are_used_again():
    pool = FramePool()
    first = pool.take((4, 6, 3))
    pool.give(first)
    pool.give(first)
    assert pool.take((4, 8, 3)) is not first
    assert pool.take((4, 6, 3)) is first
    assert pool.take((4, 6, 3)) is not first


def test_a_translators_frames_come_from_few_arrays(tmp_path: Path):
    source = clips.make_clip(tmp_path / "in.mp4", frames=60)
    arrays = set()

    class Submitter(FrameTranslator):
        in_flight = 2

        def submit(self, frame, style=None, at=FIRST_FRAME):
            arrays.add(frame.ctypes.data)
            result = 255 - frame
            return lambda: result

    translate_video(source, tmp_path / "out.mkv", Submitter(), codec="lossless")
    translate_video(source, tmp_path / "plain.mkv", lambda frame: 255 - frame, codec="lossless")
    assert len(arrays) < 20
    pooled, plain = clips.read(tmp_path / "out.mkv").frames, clips.read(tmp_path / "plain.mkv").frames
    assert all(np.array_equal(a, b) for a, b in zip(pooled, plain, strict=True))


def test_nothing_of_a_job_stays_behind(tmp_path: Path):
    """Frames are not held by a thread or a closure that lives on."""
    source = clips.make_clip(tmp_path / "in.mp4", frames=10)
    before = set(threading.enumerate())
    gc.collect()
    held = [thing for thing in gc.get_objects() if type(thing) is Frame]
    translate_video(source, tmp_path / "out.mp4", lambda frame: frame)
    gc.collect()
    assert set(threading.enumerate()) <= before
    assert len([thing for thing in gc.get_objects() if type(thing) is Frame]) <= len(held)
