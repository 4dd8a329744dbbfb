"""Two processes against one: the same gradients, the same losses, one run folder."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from holding import holding
from torch.distributed import TCPStore
from training_helpers import assert_same_checkpoints, make_images, read_log, settings, train, trainer_in
from two_processes import gradients_of

from dsmap.common.distributed import Processes, processes_from_torchrun
from dsmap.common.torchrun import store_of_attempt, torchrun_store
from dsmap.errors import InputError
from dsmap.training.checkpoint import read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.data import UnpairedBatches
from dsmap.training.datasets import find_domains
from dsmap.training.job import TrainingJob, TrainRequest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for side, colour in (("A", (200, 90, 60)), ("B", (60, 90, 200))):
        make_images(folder / f"train{side}", colour)
    return folder


def torchrun(*arguments, processes=2, restarts=0, **more):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
               "--max-restarts", str(restarts)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), **more}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def pair(*arguments):
    """Two processes that find each other as those of torchrun do, without torchrun; (exit code, stderr) of each."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
              "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, *map(str, arguments)], stderr=subprocess.PIPE, text=True,
                         env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=200)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, err) for process, err in zip(started, said, strict=True)]


def finished(process, timeout=200):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


GAN_TYPES = ("lsgan", "nsgan", "ralsgan")


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory):
    """Gradients and losses of two processes, by the kind of adversarial loss."""
    path = tmp_path_factory.mktemp("two") / "found.pt"
    for code, err in pair(TESTS / "two_processes.py", path, *GAN_TYPES):
        assert code == 0, err
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("gan_type", GAN_TYPES)
def test_gradients_of_two_processes_are_those_of_one(gan_type, found_by_two):
    """Every term, those that couple the images of a batch too: contextual, mode seeking, KL, ralsgan."""
    expected, expected_losses = gradients_of(gan_type, lambda rows: rows)
    found, losses = found_by_two[gan_type]
    assert found.keys() == expected.keys()
    assert len(found) > 100
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10, msg=lambda text, n=name: f"{n} {text}")
    assert losses.keys() == expected_losses.keys()
    for name, loss in expected_losses.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-9, atol=1e-12)


def test_the_shares_of_a_batch_are_the_batch(data):
    config = settings("data.batch_size=4")
    domains = find_domains(data)
    whole = UnpairedBatches.of(domains, config.data, 3)
    half = config.data.model_copy(update={"batch_size": 2})
    shares = [UnpairedBatches.of(domains, half, 3, Processes(rank, 2, rank)) for rank in (0, 1)]
    for step in (0, 1, 7):
        expected, parts = whole[step], [share[step] for share in shares]
        for side in ("x_a_nchw", "x_b_nchw"):
            assert torch.equal(torch.cat([getattr(part, side) for part in parts]), getattr(expected, side))
        assert parts[0].paths_a + parts[1].paths_a == expected.paths_a


STEPS = 12


def common(data):
    """Arguments of the trainings whose results are compared."""
    return ("--data", data, "--device", "cpu", "--set", "log_every=1", "--set", "checkpoint_every=2", "--set",
            "data.workers=0", "--set", "tensorboard=false", "--set", "score_pictures=0")  # fmt: skip


def by_two(data, run, restarts=0, **environment):
    return torchrun("-m", "dsmap.tools.train", "--preset", "debug", *common(data), "-o", run, "--steps", STEPS,
                    "--set", "data.batch_size=1", restarts=restarts, **environment)  # fmt: skip


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """(run, stdout) of a training by two processes. Tests that change it copy it first."""
    run = tmp_path_factory.mktemp("two") / "run"
    code, out, err = finished(by_two(data, run))
    assert code == 0, err
    return run, out


def test_a_run_with_two_processes_is_that_of_one_with_twice_the_batch(data, two, tmp_path):
    run, out = two
    assert out.count("done: ") == 1  # one of them talks
    assert "process 1 of 2" in out
    code, _, err = train(*common(data), "-o", tmp_path / "one", "--steps", STEPS, "--set", "data.batch_size=2")
    assert code == 0, err
    assert [line["step"] for line in read_log(run)] == list(range(1, STEPS + 1))
    for ours, expected in zip(read_log(run)[:3], read_log(tmp_path / "one")[:3], strict=True):  # later ones drift apart
        assert ours.keys() == expected.keys()
        for name in set(expected) - {"seconds"}:
            assert ours[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), name
    assert read_checkpoint(run).processes == 2

    # Going on with one process is told: an iteration is half as large then.
    shutil.copytree(run, tmp_path / "two")
    code, out, err = train(*common(data), "-o", tmp_path / "two", "--steps", STEPS + 1,
                           "--set", "data.batch_size=1", "--resume", "auto")  # fmt: skip
    assert code == 0, err
    assert "changed since that checkpoint: processes 2 -> 1" in out


def test_stopping_two_processes_saves_once(data, tmp_path):
    process = torchrun("-m", "dsmap.tools.train", "--preset", "debug", "--data", data, "-o", tmp_path,
                       "--steps", 100_000, "--set", "log_every=1", "--set", "checkpoint_every=100000",
                       "--device", "cpu")  # fmt: skip
    deadline = time.monotonic() + 100
    while not (tmp_path / "log.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C: to all of them
    _, out, _ = finished(process)
    assert "stopped at step" in out
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    assert read_checkpoint(saved).step == read_log(tmp_path)[-1]["step"]


def child_of(process, rank):
    """The process number of torchrun's process with that rank, from what the kernel says."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            parent = int(re.search(r"PPid:\s+(\d+)", (environment.parent / "status").read_text())[1])
            if parent == process.pid and f"RANK={rank}" in environment.read_text().split("\0"):
                return int(environment.parent.name)
    return None


def wait_until(process, condition, seconds=100):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert condition()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds torchrun's processes in /proc")
def test_torchrun_continues_a_training_that_lost_a_process(data, two, tmp_path):
    """`--max-restarts` alone, without --resume: no iteration is lost or done twice, and the weights are the same."""
    run, whole = tmp_path / "killed", two[0]
    environment, hold = holding(tmp_path / "holding", "00000006")  # it cannot end before a process is killed
    process = by_two(data, run, restarts=2, **environment)
    wait_until(process, lambda: (run / "log.jsonl").exists())
    child = child_of(process, rank=1)
    wait_until(process, lambda: (run / "checkpoints" / "00000004").exists())
    os.kill(child, signal.SIGKILL)
    hold.unlink()
    code, out, err = finished(process)
    assert code == 0, err
    assert "torchrun has restarted this training: continuing from its latest checkpoint" in out
    resumed = int(re.search(r"resumed \S+ at step (\d+)", out)[1])
    assert 4 <= resumed < STEPS
    assert [line["step"] for line in read_log(run)] == list(range(1, STEPS + 1))
    assert_same_checkpoints(run / "checkpoints" / f"{STEPS:08d}", whole / "checkpoints" / f"{STEPS:08d}")


@pytest.fixture
def agent_store(monkeypatch):
    """A store like that of torchrun, which this process finds as one that torchrun started would."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def test_only_a_training_that_torchrun_has_started_is_continued_unasked(data, tmp_path, agent_store):
    trainer_in(tmp_path, data, steps=2).train()
    said = []
    request = TrainRequest(config=settings(steps=4), domains=find_domains(data), run=tmp_path, device="cpu")
    assert TrainingJob(request, said.append).resume is None  # and the trainer refuses: there is a training already
    with pytest.raises(InputError, match="already holds a training"), TrainingJob(request, said.append).trainer():
        pass
    assert TrainingJob(request, said.append).resume is None  # still: it was refused
    with TrainingJob(replace(request, resume="auto"), said.append).trainer():
        pass
    assert TrainingJob(request, said.append).resume == tmp_path / "checkpoints" / "00000002"
    first = replace(request, resume=str(tmp_path / "checkpoints" / "00000001"))
    assert TrainingJob(first, said.append).resume == tmp_path / "checkpoints" / "00000002"
    assert said[-1] == "torchrun has restarted this training: continuing from its latest checkpoint"


def test_attempts_do_not_find_what_earlier_ones_have_left(agent_store):
    """Else processes call addresses of dead ones, and every second restart fails."""
    for size in (3, 3, 2, 4):  # machines come and go
        with ThreadPoolExecutor(size) as pool:
            parts = list(pool.map(lambda rank, n=size: store_of_attempt(torchrun_store(), rank, n), range(size)))
        assert not any(part.check(["0"]) for part in parts)
        parts[-1].set("0", "address")
        assert all(part.get("0") == b"address" for part in parts)


def test_processes_that_see_different_checkpoints_stop(data, tmp_path):
    """Machines that do not share the run folder: told, where once all of them waited for ever."""
    trainer_in(tmp_path / "run0", data, steps=2).train()
    script = tmp_path / "each.py"
    script.write_text(
        "import os, sys\nfrom dsmap.tools.train import main\n"
        f"sys.argv = ['dsmap-train', '--preset', 'debug', '--data', {str(data)!r}, '--steps', '3', '--device', 'cpu',\n"
        f"            '--resume', 'auto', '-o', {str(tmp_path / 'run')!r} + os.environ['RANK']]\n"
        "main()\n"
    )
    ends = pair(script)
    assert all(code != 0 for code, _ in ends)
    assert "the processes found checkpoints of different steps: 2, 0" in ends[0][1] + ends[1][1]


def test_one_process_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert processes_from_torchrun() == Processes(0, 1, 0)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert processes_from_torchrun() == Processes(3, 4, 1, 2)
    rows = torch.arange(8)
    assert Processes(3, 4, 1).shard(rows).tolist() == [6, 7]
