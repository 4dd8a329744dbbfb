"""Training as people run it: the run folder, stopping and going on, and everything that can go wrong on the way."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import squeezenet_weights
from training_helpers import (
    WEIGHT_FILES,
    assert_same_checkpoints,
    batch_of,
    copy_of,
    read_log,
    settings,
    start,
    train,
    trainer_in,
)

from dsmap.common.images import read_rgb
from dsmap.config import OptimizerConfig, TrainConfig, load_train_config
from dsmap.errors import DsmapError, InputError
from dsmap.training.checkpoint import load_generators, read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.cuda_graph import CudaGraphRunner, NotCapturedError
from dsmap.training.datasets import find_domains
from dsmap.training.device import choose_hardware
from dsmap.training.objective import term_weight
from dsmap.training.optim import learning_rate
from dsmap.training.step_inputs import Stream
from dsmap.training.style_statistics import style_statistics
from dsmap.training.trainer import Trainer

# The run folder.


def test_a_run_from_start_to_end(data, tmp_path):
    run = tmp_path / "runs" / "first"
    code, out, err = train("--data", data, "--domains", "red,blue", "-o", run, "--steps", 4,
                           "--set", "log_every=2", "--set", "checkpoint_every=2", "--set", "sample_every=3",
                           "--device", "cpu")  # fmt: skip
    assert (code, err) == (0, "")
    assert "red: 5 images to train on, 1 to test on" in out
    assert "steps 0 to 4" in out
    assert f"done: {run / 'checkpoints' / '00000004'}" in out
    assert f"next: dsmap-export {run}" in out

    config = load_train_config("paper", run / "config.yaml")
    assert config == settings(
        "log_every=2", "checkpoint_every=2", "sample_every=3", steps=4, model={"domains": ["red", "blue"]}
    )
    log = read_log(run)
    assert [line["step"] for line in log] == [2, 4]
    for line in log:
        assert all(math.isfinite(value) for value in line.values())
        assert {"generators", "discriminators", "image/red", "domain_content/blue", "discriminator/red"} <= set(line)
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        "00000003-blue-red.png", "00000003-red-blue.png", "00000004-blue-red.png", "00000004-red-blue.png"
    ]  # fmt: skip
    grid = read_rgb(run / "samples" / "00000004-red-blue.png")
    assert grid.shape == (22 + 72 + 4, 7 * (72 + 4) - 4, 3)
    assert [path.name for path in (run / "checkpoints").iterdir() if not path.name.isdigit()] == []
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["00000002", "00000004"]


def test_a_checkpoint_says_what_it_is(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "model.domains=[red, blue]", steps=3)
    path = trainer.train()
    checkpoint = read_checkpoint(tmp_path)  # of a run folder the latest
    assert (checkpoint.path, checkpoint.step, checkpoint.config) == (path, 3, trainer.config)
    assert checkpoint.images == {"red": [str(data / "trainA")], "blue": [str(data / "trainB")]}
    x = {"red": torch.rand(1, 3, 64, 64), "blue": torch.rand(1, 3, 64, 64)}
    for weights, module in (("ema", trainer.learner.ema), ("generators", trainer.learner.model)):
        loaded = load_generators(checkpoint, weights)
        style = torch.ones(1, 8)
        assert torch.equal(
            loaded.translate(x["red"], "red", "blue", style), module.translate(x["red"], "red", "blue", style)
        )
        assert not loaded.training
    images = sorted((data / "trainB").iterdir())
    assert checkpoint.styles["blue"] == style_statistics(trainer.learner.ema, "blue", images, 72)
    assert checkpoint.styles["blue"].pictures == 5


def test_only_the_latest_checkpoints_are_kept(data, tmp_path):
    trainer_in(tmp_path, data, "checkpoint_every=1", "keep_checkpoints=2", steps=4).train()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000003", "00000004"]


def test_learning_lowers_the_reconstruction_loss(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "optimizer.lr=4e-3", "log_every=1", steps=24)
    trainer.train()
    losses = [line["image/a"] + line["image/b"] for line in read_log(tmp_path)]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


# Stopping and going on.


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.workers=0"],
        ["data.workers=1"],
        ["model.style_kl=true", "loss.kl=0.01", "optimizer.schedule=cosine", "optimizer.content_lr_factor=2"],
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path, overrides):
    overrides = [*overrides, "log_every=1"]
    whole = trainer_in(tmp_path / "whole", data, *overrides, steps=5).train()

    def stop(progress):
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = trainer_in(tmp_path / "parts", data, *overrides, steps=5)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(stop)
    saved = tmp_path / "parts" / "checkpoints" / "00000003"
    assert stopped.said[-2:] == ["stopping: saving a checkpoint of step 3 ...", f"stopped at step 3, saved {saved}"]
    assert list_checkpoints(saved.parent) == [saved]
    resumed = trainer_in(tmp_path / "parts", data, *overrides, resume=saved, steps=5)
    assert resumed.step == 3
    end = resumed.train()
    assert_same_checkpoints(whole, end)
    logs = [read_log(tmp_path / name) for name in ("whole", "parts")]
    for log in logs:
        for line in log:
            del line["seconds"]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4, 5]
    assert read_checkpoint(whole).styles == read_checkpoint(end).styles


def test_another_seed_is_another_run(data, tmp_path):
    ends = [trainer_in(tmp_path / str(seed), data, f"seed={seed}", steps=1).train() for seed in (0, 1)]
    first, second = (load_file(path / "generators.safetensors") for path in ends)
    assert not torch.equal(first["decoders.a.tail.weight"], second["decoders.a.tail.weight"])


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_a_signal_saves_and_exits(data, tmp_path, number, workers):
    process = start("--data", data, "-o", tmp_path, "--steps", 100_000, "--set", "log_every=1",
                    "--set", f"data.workers={workers}", "--set", "checkpoint_every=100000")  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "log.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal sends Ctrl-C: to the workers as well
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130, err
    step = read_log(tmp_path)[-1]["step"]
    assert step < 100_000
    saved = tmp_path / "checkpoints" / f"{step:08d}"
    assert f"stopped at step {step}, saved {saved}" in out
    assert read_checkpoint(saved).step == step
    by = "you" if number == signal.SIGINT else "SIGTERM"
    assert err == f"stopped by {by} before the end\nContinue with --resume auto.\n"


def test_a_run_folder_is_not_trained_into_twice(data, tmp_path):
    run = tmp_path / "run"
    arguments = ("--data", data, "-o", run)
    code, out, _ = train(*arguments, "--steps", 2, "--resume", "auto")
    assert code == 0
    assert f"--resume auto: no checkpoint in {run} yet, starting at step 0" in out
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, out, err = train(*arguments, "--steps", 3)
    assert (code, out) == (2, "")  # before torch is loaded
    assert err.startswith(f"error: {run} already holds a training\n")
    assert "--resume auto" in err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    code, out, _ = train(*arguments, "--steps", 3, "--resume", "auto")
    assert code == 0
    assert f"resumed {run / 'checkpoints' / '00000002'} at step 2" in out
    assert "steps 2 to 3" in out
    code, out, _ = train("--data", data, "-o", tmp_path / "another", "--steps", 4, "--resume", run)
    assert code == 0
    assert "resumed" in out
    code, _, err = train(*arguments, "--resume", tmp_path / "gone")
    assert code == 2
    assert f"{tmp_path / 'gone'} does not exist" in err


def test_going_on_with_another_network(data, tmp_path):
    trainer_in(tmp_path, data, steps=1).train()
    arguments = ("--data", data, "-o", tmp_path, "--resume", "auto", "--set")
    for change, expected in (
        ("model.dim=8", "model.dim got 8, expected 4"),
        ("model.mapping=false", "model.mapping got False, expected True"),
        ("discriminator.n_scales=2", "discriminator.n_scales got 2, expected 3"),
        ("model.pad_type=zero", "model.pad_type got zero, expected reflect"),
        ("model.domains=[b,a]", "model.domains got ('b', 'a'), expected ('a', 'b')"),
        ("discriminator.gan_type=nsgan", "discriminator.gan_type got nsgan, expected lsgan"),
    ):
        code, _, err = train(*arguments, change)
        assert code == 2, err
        assert expected in err
        assert "another architecture" in err


def test_going_on_with_what_shapes_no_weight(data, tmp_path):
    trainer_in(tmp_path, data, steps=1).train()
    change = ("--steps", "2", "--set", "model.output=clip")
    code, out, err = train("--data", data, "-o", tmp_path, "--resume", "auto", *change)
    assert code == 0, err
    assert "model.output tanh -> clip" in out
    assert read_checkpoint(tmp_path / "checkpoints" / "00000002").config.model.output == "clip"


@pytest.mark.parametrize("name", [*(f"{name}.safetensors" for name in WEIGHT_FILES), "training.json"])
def test_a_damaged_checkpoint(data, tmp_path, name):
    path = trainer_in(tmp_path, data, steps=1).train() / name
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"[]", None):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        code, _, err = train("--data", data, "-o", tmp_path, "--resume", path.parent)
        assert code == 2, err
        assert err.startswith("error: ")
        assert str(path if damaged is not None or name != "training.json" else path.parent) in err
        assert len(err.splitlines()) == 2


def test_half_a_checkpoint_is_none(data, tmp_path):
    trainer_in(tmp_path, data, "checkpoint_every=1", steps=2).train()
    (tmp_path / "checkpoints" / "00000002" / "training.json").unlink()
    (tmp_path / "checkpoints" / ".00000003.part").mkdir()
    assert read_checkpoint(tmp_path).step == 1


# What goes wrong.


def test_a_loss_that_is_not_finite_stops_the_training(data, tmp_path):
    assert train("--data", data, "-o", tmp_path, "--steps", 2)[0] == 0
    saved = tmp_path / "checkpoints" / "00000002"
    before = {path: path.read_bytes() for path in saved.iterdir()}
    code, _, err = train("--data", data, "-o", tmp_path, "--resume", "auto", "--set", "optimizer.lr=1e30")
    assert code == 1
    fact, advice = err.splitlines()
    assert fact.startswith("error: the loss adversarial/a is not finite at step 3 (images: ")
    assert str(data / "trainA") in fact
    assert str(data / "trainB") in fact
    assert str(saved) in advice
    assert "--set optimizer.lr=5e+29" in advice
    assert list_checkpoints(tmp_path / "checkpoints") == [saved]
    assert {path: path.read_bytes() for path in saved.iterdir()} == before


def test_a_poisoned_weight_never_gets_into_a_checkpoint(data, tmp_path):
    trainer = trainer_in(tmp_path, data, steps=3)
    with torch.no_grad():
        trainer.learner.model.decoders["b"].tail.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(DsmapError, match=r"the loss discriminator/b is not finite at step 1") as caught:
        trainer.train()
    assert caught.value.exit_code == 1
    assert "Start again" in caught.value.advice
    assert list_checkpoints(tmp_path / "checkpoints") == []
    with pytest.raises(DsmapError, match="the weights are not finite"):
        trainer.writer.save(trainer.step)
    assert list_checkpoints(tmp_path / "checkpoints") == []


def test_a_generator_loss_that_is_not_finite_is_named(data, tmp_path):
    trainer = trainer_in(tmp_path, data, steps=3)
    with torch.no_grad():
        trainer.learner.model.mappings["a"].down_norm.bias[0] = float("inf")
        trainer.learner.model.style_encoders["a"].head.bias[0] = 0
    with pytest.raises(DsmapError, match=r"the loss .*/a is not finite at step 1"):
        trainer.iterate(batch_of(trainer))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images(data, tmp_path, workers):
    broken = copy_of(data, tmp_path / "data")
    first = broken / "trainA" / "00.png"  # also the first of the samples
    first.write_bytes(first.read_bytes()[:200])
    arguments = ("--data", broken, "--set", f"data.workers={workers}")
    code, out, err = train(*arguments, "-o", tmp_path / "one", "--steps", 8)
    assert (code, err) == (0, "")
    assert out.count("skipped a broken image") == 1
    assert f"{first}: the PNG is cut short" in out
    assert read_checkpoint(tmp_path / "one").styles["a"].pictures == 4
    second = broken / "trainA" / "02.png"
    second.write_bytes(b"hello")
    code, out, err = train(*arguments, "-o", tmp_path / "two", "--steps", 8)
    assert code == 2
    assert "Too many broken images in domain 'a': 2 of 5 so far" in err
    assert str(broken / "trainA") in err.splitlines()[1]


def test_images_that_are_too_few(data, tmp_path):
    few = copy_of(data, tmp_path / "data")
    for path in sorted((few / "trainB").iterdir())[1:]:
        path.unlink()
    code, _, err = train("--data", few, "-o", tmp_path / "run")
    assert code == 2
    assert err.startswith("error: domain 'b' has one image, expected two or more\n")
    assert not (tmp_path / "run").exists()
    for path in (few / "trainA").iterdir():
        path.write_bytes(b"")
    (few / "trainB" / "more.png").write_bytes((few / "trainB" / "00.png").read_bytes())
    code, _, err = train("--data", few, "-o", tmp_path / "run")
    assert code == 2
    assert f"none of the images in {few / 'trainA'} can be read" in err


@contextmanager
def files_no_larger_than(size):
    """A disk that is full, as far as this process can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_at_a_checkpoint(data, tmp_path):
    assert train("--data", data, "-o", tmp_path, "--steps", 1)[0] == 0
    with files_no_larger_than(700_000):  # the samples and the log still fit
        code, _, err = train("--data", data, "-o", tmp_path, "--steps", 2, "--resume", "auto")
    assert code == 1
    fact, advice = err.splitlines()
    assert fact.startswith(f"error: cannot write the checkpoint {tmp_path / 'checkpoints' / '00000002'}: ")
    assert "--resume auto" in advice
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001"]
    assert train("--data", data, "-o", tmp_path, "--steps", 2, "--resume", "auto")[0] == 0


def test_a_full_disk_at_the_samples(data, tmp_path):
    with files_no_larger_than(30_000):  # the first batch still fits
        code, _, err = train("--data", data, "-o", tmp_path, "--steps", 2, "--set", "sample_every=1")
    assert code == 1
    assert err.startswith(f"error: Cannot write {tmp_path / 'samples' / '00000001-a-b.png'}: ")
    assert len(err.splitlines()) == 2


def test_a_full_disk_at_the_log(data, tmp_path):
    line = json.dumps({"step": 0, "of": "x" * 1_000_000}) + "\n"
    (tmp_path / "log.jsonl").write_text(line)
    with files_no_larger_than(len(line)):
        code, _, err = train("--data", data, "-o", tmp_path, "--steps", 2, "--set", "log_every=1")
    assert code == 1
    assert err.startswith(f"error: cannot write {tmp_path / 'log.jsonl'}: File too large\n")
    assert len(err.splitlines()) == 2


def test_a_run_folder_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("x")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        code, _, err = train("--data", data, "-o", run, "--steps", 1)
        assert code == 2
        assert err.startswith(f"error: cannot write to the run folder {run}: ")
        assert len(err.splitlines()) == 2


def test_wrong_options_cost_no_time(data, tmp_path):
    """They are told before torch is loaded, so this also runs them where there is none."""
    for arguments, expected in (
        (("--data", tmp_path / "gone"), "does not exist"),
        ((), "Two domains are needed, got 0"),
        (("--domain", f"a={data / 'trainA'}"), "Two domains are needed, got 1"),
        (("--domain", "summer"), "--domain 'summer' is not NAME=PATH"),
        (("--data", data, "--domains", "one"), "--domains 'one' is not two names"),
        (("--data", data, "--set", "loss.cylce=3"), "Did you mean loss.cycle?"),
        (("--data", data, "--preset", "big"), "no preset named 'big'"),
        (("--data", data, "--config", tmp_path / "gone.yaml"), "gone.yaml"),
        (("--data", data, "--domains", "a,b", "--domain", f"a={data}"), "both given"),
    ):
        code, out, err = train(*arguments, "-o", tmp_path / "run")
        assert code == 2
        assert expected in err
        assert "loading torch" not in out
    assert not (tmp_path / "run").exists()


def test_help_imports_no_torch():
    code = (
        "import sys\nsys.argv = ['dsmap-train', '--help']\nfrom dsmap.tools.train import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'cv2', 'onnxruntime', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=180)
    assert (result.returncode, result.stderr) == (0, "")
    for option in ("--data", "--domain", "--preset", "--config", "--set", "--steps", "--features", "--resume"):
        assert option in result.stdout


def test_a_device_that_is_not_there():
    hardware = choose_hardware(settings(), "cpu")
    assert (hardware.device.type, hardware.precision, hardware.compiled) == ("cpu", "fp32", False)
    assert hardware.reasons["device"] == "as requested"
    assert (hardware.cuda_graph, hardware.reasons["cuda_graph"]) == (False, "it trains on the CPU")
    with pytest.raises(InputError, match="cuda_graph is true, but it trains on the CPU"):
        choose_hardware(settings("cuda_graph=true"), "cpu")
    for name, fact in (("tpu9", "no device named 'tpu9'"), ("meta", "no device named"), ("cuda:99", "99|no CUDA")):
        with pytest.raises(InputError, match=fact):
            choose_hardware(settings(), name)


# Inside an iteration.


def test_the_generators_step_leaves_the_discriminators_alone(data, tmp_path):
    trainer = trainer_in(tmp_path, data)
    calls = {name: 0 for name, _ in trainer.learner.discriminators.named_parameters()}

    def count(name):
        def hook(_gradient):
            calls[name] += 1

        return hook

    for name, parameter in trainer.learner.discriminators.named_parameters():
        parameter.register_hook(count(name))
    trainer.iterate(batch_of(trainer))
    assert set(calls.values()) == {1}  # one gradient each: that of their own loss
    assert all(parameter.requires_grad for parameter in trainer.learner.discriminators.parameters())


def test_the_average_of_the_generators(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "ema_decay=0.2", "optimizer.lr=0.01")
    name = "decoders.a.tail.weight"
    average = trainer.learner.model.state_dict()[name].clone()
    assert torch.equal(trainer.learner.ema.state_dict()[name], average)
    for step, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):  # from 0.25 on the setting is the smaller one
        trainer.iterate(batch_of(trainer, step))
        live = trainer.learner.model.state_dict()[name]
        average = decay * average + (1 - decay) * live
        torch.testing.assert_close(trainer.learner.ema.state_dict()[name], average)
        assert not torch.equal(average, live)
    assert not any(parameter.requires_grad for parameter in trainer.learner.ema.parameters())


def test_the_discriminators_have_a_rate_of_their_own(data, tmp_path):
    for factor in (1.0, 4.0):
        trainer = trainer_in(tmp_path, data, f"optimizer.discriminator_lr_factor={factor}")
        modules = trainer.learner.discriminators, trainer.learner.model
        before = [[p.detach().clone() for p in module.parameters()] for module in modules]
        trainer.iterate(batch_of(trainer))
        moved = [
            max((p.detach() - old).abs().max().item() for p, old in zip(module.parameters(), olds, strict=True))
            for module, olds in zip(modules, before, strict=True)
        ]
        assert moved == pytest.approx([1e-4 * factor, 1e-4], rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_content_encoders_have_a_rate_of_their_own(data, tmp_path, factor):
    moved = []
    for value in (1.0, factor):
        trainer = trainer_in(tmp_path, data, f"optimizer.content_lr_factor={value}")
        before = {key: p.detach().clone() for key, p in trainer.learner.model.named_parameters()}
        trainer.iterate(batch_of(trainer))
        moved.append({key: p.detach() - before[key] for key, p in trainer.learner.model.named_parameters()})
    for key, step in moved[0].items():
        expected = factor if key.startswith(("content_encoders.", "shared_encoder.")) else 1.0
        if key.endswith("weight"):
            torch.testing.assert_close(moved[1][key], step * expected, rtol=1e-3, atol=1e-6)
            # Adam's first step is the rate itself, whatever the gradient.
            assert moved[1][key].abs().max().item() == pytest.approx(1e-4 * expected, rel=0.02)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.mapping=false"],
        ["model.style_kl=true", "loss.kl=0.01"],
        ["model.n_downsample=3", "model.dim=2", "discriminator.n_scales=2", "discriminator.gan_type=nsgan"],
        ["discriminator.gan_type=ralsgan", "model.pad_type=replicate"],
        ["loss.contextual=1", "model.pad_type=zero", "optimizer.schedule=constant"],
        ["discriminator.features=true", "model.patch=2", "model.n_downsample=0", "model.upsampling=shuffle"],
        ["discriminator.features=true", "discriminator.pad_type=zero", "model.patch=4", "model.n_downsample=1"],
        ["discriminator.features=true", "loss.feature_matching=1", "loss.appearance=1"],
    ],
)
def test_every_weight_learns(data, tmp_path, overrides):
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    trainer = trainer_in(tmp_path, data, "optimizer.weight_decay=0", f"features={tmp_path / 'net.npz'}", *overrides)
    modules = (trainer.learner.model, trainer.learner.discriminators)
    before = [{key: p.detach().clone() for key, p in module.named_parameters()} for module in modules]
    losses = trainer.iterate(batch_of(trainer))
    assert all(math.isfinite(value) for value in losses.values())
    assert any(name.startswith("contextual_random/") for name in losses) == ("loss.contextual=1" in overrides)
    for term, setting in (("kl", "loss.kl=0.01"), ("appearance", "loss.appearance=1")):
        assert any(name.startswith(f"{term}/") for name in losses) == (setting in overrides)
    assert any(name.startswith("feature_matching/") for name in losses) == ("loss.feature_matching=1" in overrides)
    for module, old in zip(modules, before, strict=True):
        for key, parameter in module.named_parameters():
            if key.endswith("weight"):
                assert not torch.equal(parameter, old[key]), key


def test_feature_matching_and_appearance_go_on_where_they_were(data, tmp_path):
    """What is followed over the iterations is in the checkpoint; what is known of the domains is found again."""
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    wanted = "discriminator.features=true", "loss.feature_matching=1", "loss.appearance=1"
    overrides = [*wanted, f"features={tmp_path / 'net.npz'}"]
    whole = trainer_in(tmp_path / "whole", data, *overrides, steps=4)
    halves = trainer_in(tmp_path / "halves", data, *overrides, steps=4)
    for step in range(2):
        assert whole.iterate(batch_of(whole, step)) == halves.iterate(batch_of(halves, step))
    saved = halves.writer.save(halves.step).path
    again = trainer_in(tmp_path / "halves", data, *overrides, steps=4, resume=saved)
    for step in range(2, 4):
        assert whole.iterate(batch_of(whole, step)) == again.iterate(batch_of(again, step))
    assert whole.learner.discriminators["a"].whole.running.abs().sum() > 0


def test_the_discriminators_shift_is_drawn_anew_and_can_be_repeated(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "discriminator.shift=5", "discriminator.n_scales=2")
    drawn = [trainer.learner._draws.shift(step) for step in range(40)]
    again = [trainer.learner._draws.shift(step) for step in range(40)]
    assert all(torch.equal(*pair) for shifts in zip(drawn, again, strict=True) for pair in zip(*shifts, strict=True))
    size = trainer.config.data.crop - 5
    for indices in zip(*drawn, strict=True):
        assert {int(seen[0]) for seen in indices} == set(range(6))
        assert all(torch.equal(seen, seen[0] + torch.arange(size)) for seen in indices)
    losses = trainer.iterate(batch_of(trainer))
    plain = trainer_in(tmp_path, data, "discriminator.n_scales=2").iterate(batch_of(trainer))
    assert losses["image/a"] == plain["image/a"]
    assert losses["discriminator/a"] != plain["discriminator/a"]
    with pytest.raises(InputError, match=r"data\.crop must be at least 69"):
        trainer_in(tmp_path, data, "discriminator.shift=5")


def with_cuda_graph(trainer, say, capture):
    """The trainer, whose iterations are repeated as on a GPU; nothing in them may be drawn anew."""
    learner = trainer.learner

    def strict(work, _stream):
        def again():
            draws, learner._draws = learner._draws, None
            try:
                return work()
            finally:
                learner._draws = draws

        return capture(again)

    learner._graph_runner = CudaGraphRunner(learner._descend, learner._forget_gradients, say, capture=strict)
    return trainer


@pytest.mark.parametrize("capture", [lambda again: again, None], ids=["repeats", "fails"])
def test_a_repeated_iteration_learns_the_same(data, tmp_path, capture):
    """The inputs lie in memory that each iteration writes to, as a CUDA graph wants it."""
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    wanted = "discriminator.features=true", "loss.feature_matching=1", "discriminator.shift=5", "model.style_kl=true"
    overrides = [*wanted, f"features={tmp_path / 'net.npz'}", "discriminator.n_scales=2", "shared_style_draw=false"]
    told = []

    def no_graph(_again):
        raise NotCapturedError("operation not permitted when stream is capturing")

    plain = trainer_in(tmp_path / "plain", data, *overrides, steps=6)
    ours = with_cuda_graph(trainer_in(tmp_path / "ours", data, *overrides, steps=6), told.append, capture or no_graph)
    for step in range(6):
        assert plain.iterate(batch_of(plain, step)) == ours.iterate(batch_of(ours, step))
    assert told == ([] if capture else [
        "the iteration cannot be captured as a CUDA graph (operation not permitted when stream is capturing): "
        "training without it, which is slower"
    ])  # fmt: skip
    replay = ours.learner._graph_runner
    assert replay.is_captured == (capture is not None)
    for ours_p, plain_p in zip(ours.learner.ema.parameters(), plain.learner.ema.parameters(), strict=True):
        assert torch.equal(ours_p, plain_p)
    if capture:
        with pytest.raises(ValueError, match="a batch of"):
            replay(replay._kept._replace(x={domain: x[:, :, 1:] for domain, x in replay._kept.x.items()}))
    else:
        insisting = CudaGraphRunner(lambda _given: {}, lambda: None, told.append, insist=True, capture=no_graph_at_all)
        for _ in range(3):
            insisting(replay._kept)
        with pytest.raises(DsmapError, match="cannot be captured as a CUDA graph") as caught:
            insisting(replay._kept)
        assert "cuda_graph=false" in caught.value.advice


def no_graph_at_all(_work, _stream):
    raise NotCapturedError("no")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cuda_graph_learns_the_same(data, tmp_path, compiled):
    losses = []
    for graph in (False, True):
        wanted = "discriminator.shift=5", "discriminator.n_scales=2", f"cuda_graph={graph}", f"compile={compiled}"
        config = settings(*wanted, "precision=fp32", "data.batch_size=2", steps=8)
        domains = find_domains(data, names=config.model.domains)
        trainer = Trainer(config, domains, tmp_path / f"{graph}", hardware=choose_hardware(config, "cuda"))
        if compiled:
            trainer.learner.compile(print)
        losses.append([trainer.iterate(batch_of(trainer, step)) for step in range(8)])
        assert trainer.hardware.cuda_graph == (trainer.learner._graph_runner is not None) == graph
        assert trainer.learner._graph_runner is None or trainer.learner._graph_runner.is_captured
    for plain, ours in zip(*losses, strict=True):
        assert ours == pytest.approx(plain, rel=0.02)


def test_domains_that_start_as_twins(data, tmp_path):
    for twins, mapping in ((True, True), (True, False), (False, True)):
        trainer = trainer_in(tmp_path, data, f"twin_init={twins}", f"model.mapping={mapping}")
        x, style = torch.rand(1, 3, 64, 64), torch.ones(1, 8)
        for model in (trainer.learner.model, trainer.learner.ema):
            there, back = model.translate(x, "a", "b", style), model.translate(x, "b", "a", style)
            assert torch.equal(there, back) == twins
        trainer.iterate(batch_of(trainer))  # only the start is the same
        assert not torch.equal(*(trainer.learner.model.decoders[slot].tail.weight for slot in ("a", "b")))


def test_every_parameter_is_trained_once(data, tmp_path):
    trainer = trainer_in(tmp_path, data)
    for name, module in (("generators", trainer.learner.model), ("discriminators", trainer.learner.discriminators)):
        of_optimizer = [id(p) for group in trainer.learner.optimizers[name].param_groups for p in group["params"]]
        assert sorted(of_optimizer) == sorted(id(p) for p in module.parameters())
    group = trainer.learner.optimizers["generators"].param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 1e-4)


def test_learning_rate_schedules():
    step = OptimizerConfig(lr=1.0, schedule="step", step_size=100, gamma=0.5)
    assert [learning_rate(step, t, 1000) for t in (0, 99, 100, 250, 999)] == [1, 1, 0.5, 0.25, 0.5**9]
    cosine = OptimizerConfig(lr=2.0, schedule="cosine")
    assert learning_rate(cosine, 0, 100) == 2
    assert learning_rate(cosine, 50, 100) == pytest.approx(1)
    assert learning_rate(cosine, 75, 100) == pytest.approx(1 - math.cos(math.pi / 4))
    assert 0 < learning_rate(cosine, 99, 100) < 1e-3
    constant = OptimizerConfig(lr=3.0, schedule="constant")
    assert {learning_rate(constant, t, 10) for t in range(10)} == {3.0}
    paper = TrainConfig()
    assert [learning_rate(paper.optimizer, t, paper.steps) for t in (99_999, 100_000, 199_999)] == [1e-4, 5e-5, 5e-5]


def test_the_rate_of_the_schedule_is_the_one_used(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "optimizer.step_size=1", "optimizer.gamma=0.1")
    for step in (0, 2):
        trainer.iterate(batch_of(trainer, step))
        rates = {group["lr"] for optimizer in trainer.learner.optimizers.values() for group in optimizer.param_groups}
        assert rates == {1e-4 * 0.1**step}


def test_checkpoints_hold_no_code(data, tmp_path):
    path = trainer_in(tmp_path, data, steps=1).train()
    assert sorted(p.suffix for p in path.iterdir()) == [".json"] + [".safetensors"] * 4
    tensors = load_file(path / "ema.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, path / "ema.safetensors")
    with pytest.raises(InputError, match=r"more: got .*, expected nothing"):
        load_generators(read_checkpoint(path))


def test_gradients_are_clipped(data, tmp_path):
    trainer = trainer_in(tmp_path, data, "optimizer.clip_norm=0.001")
    trainer.iterate(batch_of(trainer))
    norm = torch.stack([p.grad.norm() for p in trainer.learner.model.parameters() if p.grad is not None]).norm().item()
    assert norm == pytest.approx(0.001, rel=1e-3)


def test_mode_seeking_is_off_until_it_is_weighed(data, tmp_path):
    trainer = trainer_in(tmp_path / "off", data)
    assert not any(name.startswith("mode_seeking") for name in trainer.iterate(batch_of(trainer)))
    trainer = trainer_in(tmp_path / "on", data, "loss.mode_seeking=2")
    losses = trainer.iterate(batch_of(trainer))
    weights = trainer.config.loss
    terms = {name: value for name, value in losses.items() if "/" in name and not name.startswith("discriminator")}
    total = sum(term_weight(name, weights) * value for name, value in terms.items())
    assert losses["mode_seeking/a"] > 0
    assert losses["generators"] == pytest.approx(total, rel=1e-4)


def test_methods(data, tmp_path):
    code, _, err = train(
        "--data", data, "-o", tmp_path / "m", "--method", "munit", "--set", "steps=1", "--set", "log_every=1"
    )
    assert code == 0, err
    checkpoint = read_checkpoint(tmp_path / "m")
    assert checkpoint.config.model.mapping is False
    assert "domain_content/a" not in read_log(tmp_path / "m")[0]
    code, _, err = train("--data", data, "-o", tmp_path / "n", "--method", "cyclegan")
    assert code == 2
    assert "dsmap, munit" in err


def test_random_styles_can_be_scaled(data, tmp_path):
    plain, scaled = trainer_in(tmp_path / "1", data), trainer_in(tmp_path / "2", data, "style_scale=[0,0.5]")
    factors = scaled.learner._draws.styles(Stream.G_STYLES, 7, 400)["a"]
    factors /= plain.learner._draws.styles(Stream.G_STYLES, 7, 400)["a"]
    assert factors.std(1).max() < 1e-6  # one factor for a whole style code
    assert 0 <= factors.min() < 0.05
    assert 0.45 < factors.max() <= 0.5
    with pytest.raises(InputError, match=r"style_scale must be 0 <= min <= max, got 1\.0, 0\.5"):
        settings("style_scale=[1,0.5]")


def test_going_back_or_beyond(data, tmp_path):
    trainer_in(tmp_path, data, steps=4, checkpoint_every=2).train()
    run = ("--data", data, "-o", tmp_path)
    code, _, err = train(*run, "--resume", "auto", "--steps", 3)
    assert code == 2
    assert "at step 4, beyond the 3 requested" in err
    code, _, err = train(*run, "--resume", tmp_path / "checkpoints" / "00000002")
    assert code == 2
    assert "holds 1 checkpoints after step 2" in err
    code, out, err = train(*run, "--resume", "auto", "--steps", 4)
    assert code == 0, err
    assert "already at step 4 of 4: nothing to do" in out
    code, out, err = train(*run, "--resume", "auto", "--steps", 5, "--set", "optimizer.lr=0.001")
    assert code == 0, err
    assert "changed since that checkpoint: optimizer.lr 0.0001 -> 0.001" in out


def test_training_without_a_feature_network(data, tmp_path):
    """Also with a preset that wants one."""
    with_notes = shutil.copytree(data, tmp_path / "data")
    (with_notes / "trainB" / "notes.txt").touch()
    run = ("--data", with_notes, "-o", tmp_path / "run", "--preset", "lite", "--features", "none", "--dry-run")
    code, out, err = train(*run, "--set", "data.crop=64")
    assert code == 0, err
    assert f"1 file left out of {with_notes / 'trainB'}: 1 .txt" in out
    assert "features: false" in out
    assert "contextual: 0" in out
    assert " on vgg16" not in out


def test_features_without_a_weight(data, tmp_path):
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--features", "gone.npz")
    assert code == 2
    assert "loss.contextual is 0" in err


def test_seeds_of_any_size(data, tmp_path):
    trainer = trainer_in(tmp_path, data, seed=20261122)
    assert all(math.isfinite(value) for value in trainer.iterate(batch_of(trainer)).values())


def test_a_finished_checkpoint_in_a_new_run_folder(data, tmp_path):
    finished = trainer_in(tmp_path / "old", data, steps=1).train()
    code, _, err = train("--data", data, "-o", tmp_path / "new", "--steps", 1, "--resume", finished)
    assert code == 0, err
    assert read_checkpoint(tmp_path / "new").step == 1


def test_the_first_grids_come_early(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dsmap.training.run_writer.FIRST_SAMPLES", 1)
    trainer_in(tmp_path / "run", image_folder, "steps=3", "sample_every=1000").train()
    steps = {int(path.name.partition("-")[0]) for path in (tmp_path / "run" / "samples").iterdir()}
    assert steps == {1, 3}
