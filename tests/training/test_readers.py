"""Readers: the processes that read training images. Whatever happens to one of them, nothing waits for ever."""

import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from processes import is_alive
from training_helpers import read_log, start, train

from dsmap.config import DataConfig
from dsmap.errors import DsmapError, InputError
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.readers import MAX_AHEAD, Readers, plan_readers

BIG = 1_000_000  # bytes, which no pipe holds at once


def read(step, opening):
    opening(Path(f"{step}.png"))
    return np.full(BIG, step % 251, np.uint8)


def readers_of(work, stop=12, count=2, **options):
    return Readers(work, 0, stop, count=count, prepare=options.pop("prepare", lambda found: found), **options)


def children():
    return [child.pid for child in multiprocessing.active_children() if child.name == "dsmap-reader"]


def test_results_come_in_order_and_the_processes_end():
    readers = readers_of(read, stop=20, count=3, ahead=2, prepare=lambda found: int(found[0]))
    assert len(children()) == 3
    assert list(readers) == list(range(20))
    readers.close()
    assert children() == []


@pytest.mark.parametrize("moment", [0.0, 0.003, 0.02])
def test_a_reader_that_is_killed_is_told_at_once(moment):
    """As the system does when memory runs out: also in the middle of a message."""
    readers = readers_of(read, stop=100_000)
    found = iter(readers)
    next(found)
    time.sleep(moment)
    os.kill(children()[0], signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(DsmapError, match=r"a process that reads images has died.*SIGKILL") as caught:
        for _ in found:
            pass
    assert time.monotonic() - began < 30
    assert "memory runs out" in caught.value.advice
    readers.close()


def crash_on_the_seventh(step, opening):
    opening(Path(f"/images/{step}.png"))
    if step == 7:
        faulthandler.disable()  # whose words would be taken for those of a failing test
        os.abort()  # as a decoder does that runs over its memory
    return step


def test_an_image_that_crashes_its_reader_is_named():
    readers = readers_of(crash_on_the_seventh)
    seen = []
    with pytest.raises(DsmapError, match=r"while it read /images/7\.png \(SIGABRT\)") as caught:
        seen.extend(readers)
    assert seen == list(range(len(seen)))
    assert "Remove that image" in caught.value.advice
    readers.close()


FAILURE = Exception()


def fail_on_the_third(step, opening):
    opening(Path(f"{step}.png"))
    if step == 3:
        raise FAILURE
    return step


@pytest.mark.parametrize(("failure", "fact", "code"), [
    (ValueError("no number\nof any kind"), "the images of step 4 cannot be read: ValueError: no number (at 3.png)", 1),
    (MemoryError(), "the images of step 4 cannot be read: MemoryError (at 3.png)", 1),
    (InputError("not an image", "Remove it."), "not an image", 2),
])  # fmt: skip
def test_an_error_of_a_reader_comes_out_as_one(failure, fact, code, monkeypatch):
    monkeypatch.setitem(globals(), "FAILURE", failure)
    readers = readers_of(fail_on_the_third)
    with pytest.raises(DsmapError) as caught:
        list(readers)
    assert (caught.value.fact, caught.value.exit_code) == (fact, code)
    readers.close()


def test_what_cannot_be_prepared_ends_the_iteration():
    def prepare(found):
        raise MemoryError

    readers = readers_of(read, prepare=prepare)
    with pytest.raises(DsmapError, match="cannot be taken from their readers: MemoryError"):
        list(readers)
    readers.close()


def test_a_stop_is_heard_while_a_reader_does_not_answer():
    asked = []
    readers = readers_of(read, stop=100_000, stop_asked=lambda: bool(asked))
    found = iter(readers)
    next(found)
    stopped = children()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    asked.append(True)
    began = time.monotonic()
    assert len(list(found)) < 50  # what was there already
    readers.close()
    assert time.monotonic() - began < 30
    assert children() == []


def test_readers_heed_no_signal_of_the_group():
    readers = readers_of(read, stop=40)
    found = iter(readers)
    next(found)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for pid in children():
            os.kill(pid, number)
    assert len(list(found)) == 39
    readers.close()


def test_readers_go_when_their_training_is_killed():
    program = """
        import multiprocessing, time
        from test_readers import read, readers_of

        found = iter(readers_of(read, stop=100000, count=3))
        next(found)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(60)
    """
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 180
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if is_alive(pid)] == []
    process.stdout.close()


@pytest.mark.parametrize(("changed", "cpus", "available", "expected", "why"), [
    ({}, 4, None, (2, MAX_AHEAD), ""),
    ({"workers": 0}, 4, 10**6, (0, MAX_AHEAD), ""),
    ({"workers": 8}, 2, 10**12, (2, MAX_AHEAD), "this process may use 2 CPUs"),
    ({"workers": 8}, 1, 10**12, (1, MAX_AHEAD), "this process may use 1 CPU"),
    # 2 * 16 images of 224 x 224: 24 MB a batch.
    ({"batch_size": 16, "crop": 224}, 4, 10**9, (2, 2), "1.0 GB of memory are available"),
    ({"batch_size": 16, "crop": 224}, 4, 500_000_000, (1, 2), "0.5 GB of memory are available"),
    ({"batch_size": 16, "crop": 224}, 1, 10**8, (0, MAX_AHEAD), "this process may use 1 CPU and 0.1 GB"),
])  # fmt: skip
def test_what_a_machine_has_room_for(changed, cpus, available, expected, why):
    plan = plan_readers(DataConfig(**{"shorter_side": 256, **changed}), cpus=cpus, available=available)
    assert (plan.readers, plan.ahead) == expected
    assert plan.reason.startswith(why)
    assert bool(plan.reason) == bool(why)
    if available is not None:
        assert plan.bytes <= available / 4


# As people run it.


def readers_below(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def started_training(data, run):
    """A training with readers that has done an iteration."""
    process = start("--data", data, "-o", run, "--steps", 100_000, "--set", "log_every=1", "--device", "cpu",
                    "--set", "data.workers=2", "--set", "checkpoint_every=100000", "--set", "score_pictures=0",
                    "--set", "tensorboard=false")  # fmt: skip
    deadline = time.monotonic() + 100
    while not (run / "log.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    return process


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc on this system")


@needs_proc
def test_a_training_whose_reader_dies_saves_and_says_why(data, tmp_path):
    process = started_training(data, tmp_path)
    try:
        os.kill(readers_below(process.pid)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 1, err
    assert err.startswith("error: a process that reads images has died")
    assert len(err.splitlines()) == 2
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    assert f"saved {saved}" in out
    assert int(saved.name) == read_log(tmp_path)[-1]["step"]
    code, out, _ = train("--data", data, "-o", tmp_path, "--steps", int(saved.name) + 1, "--resume", "auto")
    assert code == 0
    assert f"resumed {saved}" in out


@needs_proc
def test_a_signal_is_heard_while_the_images_do_not_come(data, tmp_path):
    process = started_training(data, tmp_path)
    try:
        for pid in readers_below(process.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1)  # what was ahead is used up
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130, err
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    assert f"saved {saved}" in out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_no_shared_memory_is_needed(data, tmp_path):
    """Docker gives 64 MB; here there is less than a batch, and that cannot be written to."""
    mount = "mount -t tmpfs -o size=64k,ro tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    command = f'{mount} && exec "$0" -m dsmap.tools.train "$@"'
    arguments = ("--preset", "debug", "--data", data, "-o", tmp_path, "--steps", 3, "--set", "data.workers=2",
                 "--set", "score_pictures=0", "--set", "tensorboard=false", "--device", "cpu")  # fmt: skip
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout or "1 process" in done.stdout
