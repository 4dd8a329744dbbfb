"""Checkpoints and settings from others: whatever they say, one clear error, and neither memory nor time is taken."""

import json
import os
import resource
import struct
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_helpers import train, trainer_in

from dsmap.config import load_train_config, read_yaml
from dsmap.errors import InputError
from dsmap.model.authors_checkpoint import read_official_config, read_state_dicts
from dsmap.training.checkpoint import load_generators, load_into, load_optimizers, read_checkpoint


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    trainer = trainer_in(tmp_path_factory.mktemp("run"), data, "score_pictures=4", "tensorboard=false", steps=1)
    return trainer, trainer.train()


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy to do harm to."""
    copy = tmp_path / "00000001"
    copy.mkdir()
    for path in trained[1].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@contextmanager
def little(megabytes=400, seconds=90):
    """What is done inside takes no more memory than this, and ends in time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    timer = threading.Timer(seconds, os._exit, [3])
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 1_000_000, before[1]))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        resource.setrlimit(resource.RLIMIT_AS, before)


def changed(checkpoint, *keys_and_value):
    """training.json with another value at some key."""
    *keys, last, value = keys_and_value
    tree = json.loads((checkpoint / "training.json").read_text())
    place = tree
    for key in keys:
        place = place[key]
    place[last] = value
    return json.dumps(tree)


def deep(levels):
    return "[" * levels + "]" * levels


HOSTILE = {
    "step is text": lambda c: changed(c, "step", "1"),
    "step below 0": lambda c: changed(c, "step", -1),
    "step of many digits": lambda c: changed(c, "step", 1).replace('"step": 1', '"step": ' + "9" * 6000, 1),
    "step of 10**12": lambda c: changed(c, "step", 10**12),
    "step is true": lambda c: changed(c, "step", True),
    "version is text": lambda c: changed(c, "format_version", "1"),
    "version is 0": lambda c: changed(c, "format_version", 0),
    "no number": lambda c: changed(c, "styles", "a", "mean", 0, float("nan")),
    "an endless number": lambda c: changed(c, "score", "by_domain", "a", float("inf")),
    "a mean too long": lambda c: changed(c, "styles", "a", "mean", [0.0] * 9),
    "a deviation below 0": lambda c: changed(c, "styles", "a", "std", 0, -1.0),
    "styles of a third": lambda c: changed(c, "styles", "c", {"mean": [], "std": [], "pictures": 0}),
    "styles are a list": lambda c: changed(c, "styles", []),
    "no styles": lambda c: changed(c, "styles", {}),
    "images are numbers": lambda c: changed(c, "pictures", "a", [1]),
    "data of another domain": lambda c: changed(c, "data", {"c": {"pictures": 1, "sha256": "0"}}),
    "processes of none": lambda c: changed(c, "processes", 0),
    "a list": lambda c: "[]",
    "nothing": lambda c: "",
    "deep": lambda c: deep(100_000),
    "deep inside": lambda c: changed(c, "polished", json.loads('{"a": ' + deep(200) + "}")),
    "endless": lambda c: '"' + "x" * 20_000_000 + '"',
    "not UTF-8": lambda c: b"\xff\xfe",
    "twice": lambda c: changed(c, "step", 1).replace('"step": 1', '"step": 1, "step": 2'),
    "a wide network": lambda c: changed(c, "config", "model", "dim", 10**7),
    "many blocks": lambda c: changed(c, "config", "model", "n_res", 10**8),
    "a large crop": lambda c: changed(c, "config", "data", "crop", 2**40),
    "a name of 100 kB": lambda c: changed(c, "config", "model", "domains", ["a", "b" * 100_000]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_metadata_is_one_clear_error(checkpoint, case):
    content = HOSTILE[case](checkpoint)
    (checkpoint / "training.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with little(), pytest.raises(InputError) as caught:
        read_checkpoint(checkpoint)
    assert "training.json" in caught.value.fact or "dsmap reads up to" in caught.value.fact
    assert len(caught.value.fact) < 1000
    assert "\n" not in caught.value.fact


def header(path, tree, data=b""):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("content", [
    b"", b"\xff" * 8, struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"[]",
    {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}},
    {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    {"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
    {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    b'{"a": ' + deep(10_000).encode() + b"}", "a pipe", "a folder", "/dev/zero",
], ids=str)  # fmt: skip
def test_hostile_weights_are_one_clear_error(trained, checkpoint, content):
    path = checkpoint / "ema.safetensors"
    path.unlink()
    if content == "a pipe":
        os.mkfifo(path)
    elif content == "a folder":
        path.mkdir()
    elif content == "/dev/zero":
        path.symlink_to(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        header(path, content, b"\0" * 4)
    found = read_checkpoint(checkpoint)
    with little(), pytest.raises(InputError) as caught:
        load_generators(found)
    assert str(path) in caught.value.fact
    assert "\n" not in caught.value.fact


def test_a_network_is_not_made_before_its_file_is_known_to_hold_it(checkpoint):
    """64 blocks of 16384 channels are a terabyte; the file has 2 MB."""
    huge = changed(checkpoint, "config", "model", "dim", 4096)
    tree = json.loads(huge)
    tree["config"]["model"]["n_res"] = 64
    (checkpoint / "training.json").write_text(json.dumps(tree))
    with little(), pytest.raises(InputError, match="weights do not fit this network"):
        load_generators(read_checkpoint(checkpoint))


def test_weights_of_another_type_and_states_of_another_shape(trained, checkpoint):
    trainer, _path = trained
    weights = load_file(checkpoint / "ema.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name].double()}, checkpoint / "ema.safetensors")
    with pytest.raises(InputError, match=r"got .* of F64, expected .* of F32"):
        load_into(trainer.learner.ema, checkpoint / "ema.safetensors")
    states = load_file(checkpoint / "optimizers.safetensors")
    moment, step = (next(key for key in states if key.endswith(end)) for end in ("/exp_avg", "/step"))
    for key, value, fact in (
        (moment, torch.zeros(1, 1, 1), r"is \(1, 1, 1\) of torch.float32, expected"),
        (moment, torch.full_like(states[moment], torch.inf), "holds invalid values"),
        (step, torch.tensor(-1.0), "holds invalid values"),
        (step, torch.tensor([1.0, 2.0]), "expected"),
    ):
        save_file(states | {key: value}, checkpoint / "optimizers.safetensors")
        with pytest.raises(InputError, match=fact):
            load_optimizers(checkpoint, trainer.learner.modules, trainer.learner.optimizers)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(("content", "fact"), [
    (BOMB, "aliases are not allowed"),
    ("model: &m\n  dim: 8\nloss: *m\n", "aliases are not allowed"),
    ("steps: 1\nsteps: 2\n", "duplicate key"),
    ("steps: " + "[" * 3000, "valid YAML|nested too deeply"),
    ("steps: " + "9" * 5000, "valid YAML"),
    ("steps: " + ":".join(["1"] * 50_000), "expected at most|valid YAML|steps"),
    ("steps: 2001-99-99", "valid YAML"),
    ("x" * 200_000, "expected at most"),
    ("!!python/object/apply:os.system [touch harm]", "valid YAML"),
    ("steps: 1000000000000", "steps"),
])  # fmt: skip
def test_hostile_settings(tmp_path, content, fact):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with little(), pytest.raises(InputError, match=fact) as caught:
        load_train_config("debug", path)
    assert "\n" not in caught.value.fact
    assert len(caught.value.fact) < 1000
    with little(), pytest.raises(InputError):
        read_official_config(path)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder"])
def test_settings_and_checkpoints_that_are_no_files(data, tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    with little():
        for read in (read_official_config, read_state_dicts, lambda p: read_yaml(p, "the settings in")):
            with pytest.raises(InputError) as caught:
                read(path)
            assert str(path) in caught.value.fact
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--config", path, "--steps", 1)
    assert (code, len(err.splitlines())) == (2, 2)
    code, _, err = train("--data", path, "-o", tmp_path / "run", "--steps", 1)
    assert (code, len(err.splitlines())) == (2, 2)
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--steps", 1, "--features", path)
    assert (code, len(err.splitlines())) == (2, 2)
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--steps", 1, "--resume", path)
    assert (code, len(err.splitlines())) == (2, 2)
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--steps", 1, "--start-from", path)
    assert (code, len(err.splitlines())) == (2, 2)
