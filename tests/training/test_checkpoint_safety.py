"""Safety of checkpoints: kills, the best checkpoint, other images, full disks, memory."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from holding import holding
from tiny import squeezenet_weights
from training_helpers import assert_same_checkpoints, batch_of, copy_of, read_log, settings, start, train, trainer_in

from dsmap.common.distributed import Processes
from dsmap.config import ModelConfig, load_train_config
from dsmap.errors import InputError
from dsmap.model.layers import UpsampleConv
from dsmap.model.networks import DomainMapping
from dsmap.training.checkpoint import best_checkpoint, load_optimizers, read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.checkpoint_score import CheckpointScorer, RandomFeatures, Score, kernel_distance, pooled
from dsmap.training.datasets import find_domains, fingerprint
from dsmap.training.device import choose_hardware, compile_networks
from dsmap.training.memory_estimate import estimate_memory, out_of_memory_error, what_fits
from dsmap.training.preflight import CHECKS, preflight
from dsmap.training.samples import load_samples

STEPS = 10


def without_seconds(log):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in log]


def test_a_killed_training_goes_on_as_if_it_had_not_been(data, tmp_path):
    """SIGKILL at random moments, also while a checkpoint is being written; one loader process.

    What is to be killed does not get beyond its fourth checkpoint, however fast the machine.
    """
    arguments = ("--data", data, "--steps", STEPS, "--set", "log_every=1", "--set", "checkpoint_every=2",
                 "--set", "data.workers=1", "--set", "data.batch_size=2", "--set", "sample_every=5",
                 "--set", "tensorboard=false", "--device", "cpu")  # fmt: skip
    code, _, err = train(*arguments, "-o", tmp_path / "whole", "--set", "data.workers=0")
    assert code == 0, err

    moments = random.Random(7)
    kills = 0
    environment, hold = holding(tmp_path / "holding", f"{STEPS - 2:08d}")
    for _ in range(12):
        process = start(*arguments, "-o", tmp_path / "parts", "--resume", "auto", **environment)
        log = tmp_path / "parts" / "log.jsonl"
        before = log.stat().st_mtime_ns if log.exists() else 0
        try:
            if kills < 2:
                while process.poll() is None and (not log.exists() or log.stat().st_mtime_ns == before):
                    time.sleep(0.01)
                time.sleep(moments.uniform(0, 0.8))
            else:
                hold.unlink(missing_ok=True)
                process.wait(timeout=200)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            _, err = process.communicate(timeout=180)
        finally:
            process.kill()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    assert process.returncode == 0
    assert kills == 2
    logs = [without_seconds(read_log(tmp_path / run)) for run in ("whole", "parts")]
    assert [line["step"] for line in logs[1]] == list(range(1, STEPS + 1))
    assert logs[0] == logs[1]
    names = [[path.name for path in sorted((tmp_path / run / "checkpoints").iterdir())] for run in ("whole", "parts")]
    assert names[0] == names[1]
    assert_same_checkpoints(*(tmp_path / run / "checkpoints" / f"{STEPS:08d}" for run in ("whole", "parts")))
    scores = [(tmp_path / run / "scores.jsonl").read_text() for run in ("whole", "parts")]
    assert scores[0] == scores[1]


def test_a_cut_off_log_is_mended(data, tmp_path):
    trainer_in(tmp_path, data, "log_every=1", steps=2).train()
    log = tmp_path / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 3, "generators": 1.0}\n{"step": 4, "gen')
    trainer_in(tmp_path, data, "log_every=1", steps=3, resume=tmp_path).train()
    assert log.read_text().startswith(whole)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]


# The best checkpoint.


def test_the_best_checkpoint_is_kept(data, tmp_path, monkeypatch):
    distances = iter([5.0, 1.0, 4.0, 3.0, 2.0, 9.0, 7.0, 8.0])

    def scored(judge, _model):
        return Score(judge.name, judge.basis, {"a": next(distances), "b": 0.5})

    monkeypatch.setattr("dsmap.training.checkpoint_score.CheckpointScorer.score", scored)
    trainer_in(tmp_path, data, "checkpoint_every=1", "keep_checkpoints=2", steps=5).train()
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["00000002", "00000004", "00000005"]
    assert best_checkpoint(tmp_path).step == 2
    found = read_checkpoint(tmp_path).score
    assert (found.features, found.by_domain) == ("random", {"a": 2.0, "b": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["kernel_distance/a"] for line in lines] == [5.0, 1.0, 4.0, 3.0, 2.0]

    # Scores of other images cannot be compared with those: the best of each kind is kept.
    overrides = ["checkpoint_every=1", "keep_checkpoints=1", "score_pictures=4"]
    trainer_in(tmp_path, data, *overrides, steps=8, resume=tmp_path).train()
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["00000002", "00000007", "00000008"]
    assert best_checkpoint(tmp_path).step == 7


def test_scores_are_measured_and_can_be_left_out(data, tmp_path):
    trainer = trainer_in(tmp_path / "on", data, steps=1)
    found = read_checkpoint(trainer.train()).score
    assert found.features == "random"
    x = trainer.writer.scorer.x
    assert len(x["a"]) == 5  # one test image is too few: those of the training are used
    train = {d.name: load_samples(d.train, 72, 200) for d in trainer.domains}
    reference = {domain: pooled([real], RandomFeatures(), torch.device("cpu")) for domain, real in train.items()}
    again = CheckpointScorer(x, reference, RandomFeatures(), "random").score(trainer.learner.ema)
    assert again.basis == found.basis
    assert again.by_domain == pytest.approx(found.by_domain, rel=1e-5)
    other = {domain: images.flip(3) for domain, images in x.items()}
    assert CheckpointScorer(other, reference, RandomFeatures(), "random").basis != found.basis
    assert (
        CheckpointScorer(x, {d: r + 1 for d, r in reference.items()}, RandomFeatures(), "random").basis != found.basis
    )
    assert read_checkpoint(trainer_in(tmp_path / "off", data, "score_pictures=0", steps=1).train()).score is None
    with pytest.raises(InputError, match=r"no checkpoint in .* has a score"):
        best_checkpoint(tmp_path / "off")


def test_the_kernel_distance():
    generator = torch.Generator().manual_seed(0)
    x, same = (torch.randn(400, 6, generator=generator) * 3 + 1 for _ in range(2))
    near, far = x + 0.5, x + 2
    assert abs(kernel_distance(x, same)) < 0.03
    assert kernel_distance(x, same) < kernel_distance(near, same) < kernel_distance(far, same)
    # By hand, with loops.
    small, reference = x[:3, :2].double(), same[:4, :2].double()
    mean, spread = reference.mean(0), reference.std(0)
    u, v = (small - mean) / spread, (reference - mean) / spread

    def kernel(p, q):
        return (float(p @ q) / 2 + 1) ** 3

    within_u = np.mean([kernel(u[i], u[j]) for i in range(3) for j in range(3) if i != j])
    within_v = np.mean([kernel(v[i], v[j]) for i in range(4) for j in range(4) if i != j])
    across = np.mean([kernel(p, q) for p in u for q in v])
    assert kernel_distance(small, reference) == pytest.approx(within_u + within_v - 2 * across)
    constant = torch.cat([same, torch.ones(400, 1)], 1)  # a feature without a spread is left out
    assert kernel_distance(torch.cat([near, torch.zeros(400, 1)], 1), constant) == pytest.approx(
        kernel_distance(near, same)
    )


def test_random_features_are_always_the_same():
    torch.manual_seed(1)
    x = torch.rand(1, 3, 32, 32)
    first = RandomFeatures()(x)
    torch.manual_seed(2)
    assert torch.equal(RandomFeatures()(x), first)
    assert first.shape == (1, 256, 2, 2)


# Other images.


def test_resuming_with_other_images(data, tmp_path):
    own, run = copy_of(data, tmp_path / "data"), tmp_path / "run"
    trainer_in(run, own, steps=1).train()
    moved = tmp_path / "moved"
    shutil.copytree(own, moved)
    arguments = ("-o", run, "--resume", "auto", "--steps")
    code, _, err = train("--data", moved, *arguments, 2)  # the same images elsewhere are the same
    assert code == 0, err
    (moved / "trainB" / "04.png").unlink()
    code, _, err = train("--data", moved, *arguments, 3)
    assert code == 2
    fact, advice = err.splitlines()
    assert "of other images: b got 4, expected 5" in fact
    assert str(own / "trainB") in advice or str(moved / "trainB") in advice
    assert "--allow-new-data" in advice
    (moved / "trainB" / "other.png").write_bytes((moved / "trainB" / "00.png").read_bytes())
    code, _, err = train("--data", moved, *arguments, 3)
    assert code == 2
    assert "b got as many, but their names or sizes differ, expected 5" in err
    code, _, err = train("--data", moved, *arguments, 3, "--allow-new-data")
    assert code == 0, err
    assert fingerprint(find_domains(moved).b) == read_checkpoint(run).data["b"]


# Before the first step.


def checks_of(data, tmp_path, *overrides):
    config = settings(*overrides)
    found = find_domains(data, names=config.model.domains)
    return list(preflight(config, found, tmp_path / "run", choose_hardware(config, "cpu"), Processes()))


def test_the_preflight(data, tmp_path):
    checks = dict(checks_of(data, tmp_path, "data.shorter_side=80", "data.crop=64"))
    assert tuple(checks) == CHECKS
    assert checks["run"] == f"{tmp_path / 'run'}, from the start to step 20"
    assert checks["images"] == "a: 5 images to train on, 1 to test on; b: 5 images to train on, 1 to test on"
    assert "crop 64x64 (a multiple of 8), content 8x8" in checks["sizes"]
    assert "smaller than 80 and enlarged: 5 of 5 images of a, 5 of 5 images of b" in checks["sizes"]
    assert "DSMAP, 0.10 M parameters in the generators, 0.07 M in the discriminators" in checks["network"]
    assert f"cpu (as requested); fp32 ({choose_hardware(settings(), 'cpu').reasons['precision']})" in checks["hardware"]
    assert "MUNIT" in dict(checks_of(data, tmp_path, "model.mapping=false"))["network"]
    assert not (tmp_path / "run").exists()


def test_the_preflight_is_numbered_in_the_output(data, tmp_path):
    code, out, _ = train("--data", data, "-o", tmp_path, "--steps", 1)
    assert code == 0
    numbers = [line.split()[:2] for line in out.splitlines() if line.startswith("[")]
    assert numbers == [[f"[{i}/8]", name] for i, name in enumerate(CHECKS, 1)]


def test_fewer_images_than_a_batch(data, tmp_path):
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--set", "data.batch_size=6")
    assert code == 2
    assert err.splitlines() == [
        "error: domain 'a' has 5 images, fewer than a batch of 6",
        "Add images, or use a smaller batch: --set data.batch_size=5",
    ]


def test_a_disk_that_is_too_small_is_told_first(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("dsmap.training.preflight.shutil.disk_usage", lambda _path: usage._replace(free=1_000_000))
    code, _, err = train("--data", data, "-o", tmp_path / "run")
    assert code == 2
    assert "5 checkpoints of 2.3 MB do not fit on the disk" in err
    assert "1.0 MB are free" in err
    assert not (tmp_path / "run").exists()


def test_the_size_of_a_checkpoint_is_known_before(data, tmp_path):
    config = settings()
    path = trainer_in(tmp_path, data, steps=1).train()
    size = sum(file.stat().st_size for file in path.iterdir())
    assert estimate_memory(config).checkpoint == pytest.approx(size, rel=0.1)


def test_a_dry_run_trains_nothing(data, tmp_path):
    code, out, err = train("--data", data, "-o", tmp_path / "run", "--dry-run", "--set", "loss.cycle=7")
    assert (code, err) == (0, "")
    assert "  cycle: 7.0" in out.splitlines()  # as YAML, a setting a line
    assert "[8/8] run" in out
    assert "0.10 M parameters in the generators" in out
    assert out.splitlines()[-1] == "dry run: nothing was trained"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry-run.png"]
    trainer_in(tmp_path / "real", data, steps=1).train()
    assert (tmp_path / "run" / "dry-run.png").read_bytes() == (tmp_path / "real" / "first-batch.png").read_bytes()
    code, _, err = train("--data", data, "-o", tmp_path / "real", "--dry-run")  # as the training would be
    assert code == 2
    assert "already holds a training" in err
    code, out, _ = train("--data", data, "-o", tmp_path / "real", "--dry-run", "--resume", "auto")
    assert code == 0
    assert "continuing from" in out


# Memory.


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("features", [False, True])
def test_the_memory_of_an_iteration_is_about_what_was_said(features, tmp_path):
    """Against the peak of a process that runs iterations of networks wide enough to outweigh Python and torch."""
    overrides = ["model.dim=32", "model.n_res=2", "model.mlp_dim=64", "discriminator.dim=32", "data.crop=96",
                 "data.shorter_side=96", "data.batch_size=2"]  # fmt: skip
    if features:
        np.savez(tmp_path / "net.npz", **squeezenet_weights(times=16))
        overrides += ["discriminator.features=true", f"features={tmp_path / 'net.npz'}"]
    code = f"""
import torch
from dsmap.config import load_train_config
from dsmap.training.data import Batch
from dsmap.training.device import choose_hardware
from dsmap.common.distributed import Processes
from dsmap.training.learner import Learner
config = load_train_config("debug", None, {overrides!r})
x = torch.rand(2, 3, 96, 96)
torch.nn.functional.conv2d(x, torch.rand(8, 3, 3, 3))
def peak():  # not getrusage's: that begins with the size of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
learner = Learner(config, choose_hardware(config, "cpu"), Processes())
for step in range(2):  # the moments of Adam are there from the second on
    learner.iterate(Batch(step, x, x, (), (), ()))
print((peak() - before) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed = estimate_memory(load_train_config("debug", None, overrides)).total
    assert 0.6 < needed / int(done.stdout) < 1.6
    if features:
        overrides.remove("discriminator.features=true")
        assert estimate_memory(load_train_config("debug", None, overrides)).total < 0.95 * needed


def test_what_fits():
    config = settings("data.batch_size=8", "data.crop=128", "data.shorter_side=128")
    needed = estimate_memory(config)
    assert estimate_memory(
        settings("data.batch_size=4", "data.crop=128", "data.shorter_side=128")
    ).activations < 0.6 * (needed.activations)
    batch, crop = what_fits(config, needed.total // 2, needed.total)
    assert (1 <= batch < 8, crop) == (True, 128)
    batch, crop = what_fits(config, needed.total // 12, needed.total)
    assert (batch, crop % 8) == (1, 0)
    assert 64 <= crop < 128
    assert what_fits(config, 1000, needed.total) is None
    # More was needed than was thought: the advice is smaller.
    assert what_fits(config, needed.total // 2, 2 * needed.total) < what_fits(config, needed.total // 2, needed.total)
    error = out_of_memory_error(config, choose_hardware(config, "cpu"))
    assert "out of memory on cpu with batch 8 and crop 128" in error.fact
    assert "--set data.batch_size=" in error.advice


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_running_out_of_memory_says_what_fits(data, tmp_path):
    """Really: a limit on the address space, under which the allocator fails."""
    arguments = ["--preset", "debug", "--data", str(data), "-o", str(tmp_path), "--steps", "2", "--device", "cpu",
                 "--set", "model.dim=32", "--set", "data.batch_size=5", "--set", "data.crop=256",
                 "--set", "data.shorter_side=256", "--set", "data.workers=0", "--set", "tensorboard=false"]  # fmt: skip
    code = f"import sys; sys.argv = ['dsmap-train', *{arguments!r}]\nfrom dsmap.tools.train import main\nmain()"

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (3_500_000_000, 3_500_000_000))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    fact, advice = done.stderr.splitlines()[-2:]
    assert "out of memory on cpu with batch 5 and crop 256: about " in fact
    assert "This should fit: --set data.batch_size=" in advice


def test_the_smallest_crop_that_is_tried_is_one_that_discriminators_of_features_take(tmp_path):
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    judged = "discriminator.features=true", "discriminator.n_scales=1", f"features={tmp_path / 'net.npz'}"
    for pad in ("zero", "reflect"):
        config = settings(*judged, f"discriminator.pad_type={pad}", "data.crop=64", "data.shorter_side=64")
        smallest = config.discriminator.minimum_size
        estimate_memory(config.model_copy(update={"data": config.data.model_copy(update={"crop": smallest})}))
        assert what_fits(config, 1000, estimate_memory(config).total) is None


# TensorBoard.


def events_of(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    return events.Reload()


def test_tensorboard_has_numbers_images_and_histograms(data, tmp_path):
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    run = tmp_path / "run"
    overrides = ["log_every=1", "sample_every=2", "checkpoint_every=2", "loss.contextual=1"]
    features = f"features={tmp_path / 'net.npz'}"
    trainer_in(run, data, *overrides, features, steps=2).train()
    trainer_in(run, data, *overrides, features, steps=4, resume=run).train()
    events = events_of(run)
    tags = events.Tags()
    assert [event.step for event in events.Scalars("generators")] == [1, 2, 3, 4]
    assert {"image/a", "cycle/b", "contextual/a", "kernel_distance/b", "discriminators"} <= set(tags["scalars"])
    log = read_log(run)
    assert [event.value for event in events.Scalars("cycle/b")] == pytest.approx([line["cycle/b"] for line in log])
    assert set(tags["images"]) == {"samples/a-b", "samples/b-a"}
    assert [event.step for event in events.Images("samples/a-b")] == [2, 4]
    grid = (run / "samples" / "00000004-a-b.png").read_bytes()
    assert events.Images("samples/a-b")[-1].width == int.from_bytes(grid[16:20], "big")
    for name in ("weights/generators.decoders", "gradients/generators.content_encoders", "weights/discriminators.b"):
        assert name in tags["histograms"]
    assert read_checkpoint(run).score.features == "net.npz"


def test_tensorboard_can_be_left_out(data, tmp_path):
    trainer_in(tmp_path, data, "tensorboard=false", steps=1).train()
    assert not (tmp_path / "tensorboard").exists()


def test_without_tensorboard_the_way_out_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = train("--data", data, "-o", tmp_path, "--steps", 1)
    assert code == 1
    assert "tensorboard is not installed" in err
    assert "--set tensorboard=false" in err


def test_a_restart_before_the_first_checkpoint_shows_every_step_once(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "log_every=1", "checkpoint_every=9", steps=9)

    def kill(progress):
        if progress.step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.train(kill)
    trainer_in(tmp_path, data, "log_every=1", steps=4).train()
    assert [event.step for event in events_of(tmp_path).Scalars("generators")] == [1, 2, 3, 4]
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4]


# One training in a folder, signals, and a GPU's memory layout.


def test_a_run_folder_has_one_training_at_a_time(data, tmp_path):
    first = trainer_in(tmp_path, data, steps=2)
    seen = []

    def another(_progress):
        with pytest.raises(InputError, match="another process is working in") as caught:
            trainer_in(tmp_path, data, steps=2).train()
        seen.append(caught.value.exit_code)

    first.train(another)
    assert seen[0] == 2


def test_sigterm_to_the_whole_group_saves(data, tmp_path):
    """As timeout, service managers and schedulers send it: to the processes that load images, too."""
    process = start("--data", data, "-o", tmp_path, "--steps", 100_000, "--set", "log_every=1",
                    "--set", "data.workers=2", "--set", "checkpoint_every=100000", "--device", "cpu")  # fmt: skip
    try:
        while not (tmp_path / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130, err
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    assert f"saved {saved}" in out


def test_going_on_with_channels_last(data, tmp_path):
    """As on a GPU: Adam's moments must lie in memory as their weights do."""
    wide = ("model.dim=8", "data.batch_size=2")
    trainer_in(tmp_path, data, *wide, steps=2).train()
    expected, trainer = (trainer_in(tmp_path, data, *wide, resume=tmp_path) for _ in range(2))
    for module in trainer.learner.modules.values():
        module.to(memory_format=torch.channels_last)
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    load_optimizers(path, trainer.learner.modules, trainer.learner.optimizers)
    for optimizer in trainer.learner.optimizers.values():
        for parameter, state in optimizer.state.items():
            assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    losses, reference = (one.iterate(batch_of(one, 2)) for one in (trainer, expected))
    assert losses == pytest.approx(reference, rel=1e-3)
    moved, wanted = (one.learner.model.state_dict() for one in (trainer, expected))
    for key, value in wanted.items():
        if value.ndim == 4:  # the gradients of biases before a norm are rounding alone
            assert (moved[key] - value).abs().mean() < 1e-6, key  # a step is 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_the_live_line_fits_a_terminal(data, tmp_path):
    """Rate, losses and the time left, in 80 columns and with the longest numbers."""
    command = [sys.executable, "-m", "dsmap.tools.train", "--preset", "debug", "--data", str(data), "-o", str(tmp_path),
               "--steps", "100000", "--device", "cpu", "--set", "checkpoint_every=100000"]  # fmt: skip
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        deadline = time.monotonic() + 100
        rate = rb"\d/100000 +[\d.]+ it/s, \d+ (s|min|h|h \d+ min) left"
        while not re.search(rate + rb" +G [\d.]+ +D [\d.]+ +data \d+%", shown):
            assert time.monotonic() < deadline, shown[-2000:]
            shown += re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", os.read(ours, 4096))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


# Precision and compilation.


@pytest.mark.parametrize(
    ("has", "asked", "unasked"),
    [(True, "as requested", "--precision bf16 is faster"), (False, "as requested; slow", "this CPU has no bfloat16")],
)
def test_what_is_said_of_bfloat16_on_a_cpu(monkeypatch, has, asked, unasked):
    monkeypatch.setattr("dsmap.training.device._cpu_has_bf16", lambda: has)
    wanted, usual = (choose_hardware(settings(f"precision={name}"), "cpu") for name in ("bf16", "auto"))
    assert (wanted.precision, wanted.channels_last) == ("bf16", True)
    assert (usual.precision, usual.channels_last) == ("fp32", False)
    assert wanted.reasons["precision"].startswith(asked)
    assert ";" in wanted.reasons["precision"] or has
    assert unasked in usual.reasons["precision"]


def test_bfloat16_leaves_losses_and_weights_in_float32(data, tmp_path):
    trainer = trainer_in(tmp_path / "bf16", data, "precision=bf16", "log_every=1", steps=2)
    assert next(trainer.learner.model.parameters()).is_contiguous(memory_format=torch.channels_last)
    seen = []
    trainer.learner.model.decoders["a"].tail.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    trainer.train()
    assert torch.bfloat16 in seen
    assert {p.dtype for p in trainer.learner.model.parameters()} == {torch.float32}
    plain = trainer_in(tmp_path / "fp32", data, "precision=fp32", "log_every=1", steps=2)
    plain.train()
    first, expected = read_log(tmp_path / "bf16")[0], read_log(tmp_path / "fp32")[0]
    for name in ("image/a", "cycle/b", "shared_content/a", "adversarial/b", "style_random/a"):
        assert first[name] == pytest.approx(expected[name], rel=0.03), name
        assert first[name] != expected[name]


def test_a_compiled_network_computes_the_same():
    network = DomainMapping(ModelConfig(dim=4))
    names = list(network.state_dict())
    shared, skip = torch.rand(1, 16, 4, 4), torch.rand(1, 16, 8, 8)
    expected = network(shared, skip)
    compile_networks([network])
    torch.testing.assert_close(network(shared, skip), expected, rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == names
    # Without gradients, the reflected border once failed to compile.
    upsampling = UpsampleConv(4, 4, "reflect")
    x_nchw = torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        expected = upsampling(x_nchw)
        compile_networks([upsampling])
        torch.testing.assert_close(upsampling(x_nchw), expected, rtol=1e-4, atol=1e-5)


def test_compiling_is_chosen_with_a_reason(data, tmp_path):
    off = choose_hardware(settings("compile=false"), "cpu")
    assert (off.compiled, off.reasons["compile"]) == (False, "as requested")
    on = choose_hardware(settings("compile=true"), "cpu")
    assert (on.compiled, on.reasons["compile"]) == (True, "as requested")
    assert not choose_hardware(settings(), "cpu").compiled
    code, _, err = train("--data", data, "-o", tmp_path, "--compile", "--set", "model.pad_type=replicate")
    assert code == 2
    assert "pad_type replicate" in err
    code, _, err = train("--data", data, "-o", tmp_path, "--precision", "fp8")
    assert code == 2
    assert "precision" in err


def test_one_draw_of_styles_for_both_steps(data, tmp_path):
    for shared in (False, True):
        trainer = trainer_in(tmp_path / str(shared), data, f"shared_style_draw={shared}")
        decodings = []
        trainer.learner.model.decoders["b"].register_forward_hook(lambda _m, _i, _o, d=decodings: d.append(1))
        trainer.iterate(batch_of(trainer))
        assert len(decodings) == 2 + (not shared)  # all translations, the cycle, and the other draw
