"""A run folder that others have been in: nothing of a user's is deleted, truncated or written through a link."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import read_log, train, trainer_in

from dsmap.errors import InputError
from dsmap.training import run_writer
from dsmap.training.checkpoint import prune_checkpoints, read_checkpoint
from dsmap.training.checkpoint_folders import list_checkpoints
from dsmap.training.run_log import RunLog

QUICK = ("checkpoint_every=1", "keep_checkpoints=1", "score_pictures=0", "tensorboard=false")


def tree(folder):
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A training of three steps, of which the last checkpoint was kept."""
    run = tmp_path_factory.mktemp("runs") / "run"
    trainer_in(run, data, *QUICK, steps=3).train()
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["00000003"]
    return run


def copy_checkpoint(source, target):
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


@pytest.fixture
def checkpoints(run, tmp_path):
    """A checkpoints folder of one's own with two checkpoints."""
    folder = tmp_path / "run" / "checkpoints"
    for name in ("00000002", "00000003"):
        copy_checkpoint(run / "checkpoints" / "00000003", folder / name)
    return folder


def test_only_what_a_training_made_is_pruned(checkpoints):
    whole = checkpoints / "00000003"
    for name in ("00000010.old", "best.part", ".mine.part", "kept"):
        copy_checkpoint(whole, checkpoints / name)
    (checkpoints / "2024").mkdir()
    (checkpoints / "2024" / "notes.txt").write_text("notes")
    (checkpoints / "20241128").mkdir()
    (checkpoints / "00000099").mkdir()
    (checkpoints / "00000099" / "generators.safetensors").mkdir()
    (checkpoints / "00000001.part").write_text("a file")
    copy_checkpoint(whole, checkpoints / "00000001")
    (checkpoints / "00000001" / "why-this-one.txt").write_text("it was the best")
    (checkpoints / ".00000007.part").mkdir()
    (checkpoints / ".00000007.part" / "diary.txt").write_text("dear diary")
    elsewhere = checkpoints.parent / "elsewhere"
    copy_checkpoint(whole, elsewhere)
    (checkpoints / "00000000").symlink_to(elsewhere)
    (checkpoints / ".00000008.12345678.part").symlink_to(elsewhere)
    before = tree(checkpoints.parent)
    ours = ("00000002", ".00000004.part", ".00000005.0123abcd.old", "00000006")
    for name in ours[1:]:
        copy_checkpoint(whole, checkpoints / name)
    (checkpoints / "00000006" / "training.json").unlink()  # half of one
    (checkpoints / ".00000009.part").mkdir()
    prune_checkpoints(checkpoints, 1)
    expected = {name: what for name, what in before.items() if not name.startswith(f"checkpoints/{ours[0]}")}
    assert tree(checkpoints.parent) == expected


def test_what_others_keep_under_a_checkpoints_name_is_in_the_way(data, run, tmp_path):
    (tmp_path / "run" / "checkpoints" / "00000004").mkdir(parents=True)
    notes = tmp_path / "run" / "checkpoints" / "00000004" / "notes.txt"
    notes.write_text("notes")
    copy_checkpoint(run / "checkpoints" / "00000003", tmp_path / "run" / "checkpoints" / "00000003")
    code, _, err = train("--data", data, "-o", tmp_path / "run", "--steps", 5, "--resume", "auto")
    assert code == 2
    assert err.startswith(f"error: {notes.parent} has the name of a checkpoint, but holds other files\n")
    assert notes.read_text() == "notes"
    going_on = trainer_in(tmp_path / "run", data, *QUICK, steps=3, resume=run / "checkpoints" / "00000003")
    going_on.step = 4  # it came in during the training
    with pytest.raises(InputError, match="holds other files"):
        going_on.writer.save(going_on.step)
    assert notes.read_text() == "notes"


@pytest.mark.parametrize("name", [
    ".lock", "log.jsonl", "config.yaml", "scores.jsonl", "first-batch.png", "samples/00000001-a-b.png", "tensorboard",
    "checkpoints/00000001",
])  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_nothing_is_written_through_links_and_pipes(data, tmp_path, name, kind):
    if kind == "pipe" and name in ("tensorboard", "checkpoints/00000001"):
        pytest.skip("what is to be a folder")
    run, precious = tmp_path / "run", tmp_path / "precious"
    (run / name).parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(run / name)
    else:
        if kind == "link" and name in ("tensorboard", "checkpoints/00000001"):
            precious.mkdir()
            (precious / "a.txt").write_text("a")
        elif kind == "link":
            precious.write_text('{"step": 7}\n')
        (run / name).symlink_to(precious)
    before = tree(tmp_path)
    code, _, err = train("--data", data, "-o", run, "--steps", 1, "--set", "log_every=1")
    assert code == 2, err
    assert str(run / name) in err
    assert len(err.splitlines()) == 2
    after = tree(tmp_path)
    assert {path: after[path] for path in before if path in after and path.startswith("precious")} == {
        path: what for path, what in before.items() if path.startswith("precious")
    }
    assert ("precious" in after) == ("precious" in before)


def test_a_score_is_logged_before_its_checkpoint_is_there(data, tmp_path, monkeypatch):
    """Or the last line is missing for ever where a training is killed in between: there is nothing to go on with."""
    trainer = trainer_in(tmp_path, data, "score_pictures=4", "tensorboard=false", steps=1)
    trainer.writer.scorer = trainer.writer.scorer or pytest.skip("too few images are scored")
    seen = []
    real = run_writer.save_checkpoint

    def save(*arguments):
        seen.append((tmp_path / "scores.jsonl").read_text())
        real(*arguments)

    monkeypatch.setattr(run_writer, "save_checkpoint", save)
    trainer.train()
    assert seen == [(tmp_path / "scores.jsonl").read_text()]
    assert '"step": 1' in seen[0]


def test_what_was_learnt_is_kept_when_nobody_listens_any_more(data, tmp_path):
    """As with `dsmap-train ... | head`."""

    def gone(progress):
        if progress.step == 2:
            raise BrokenPipeError

    trainer = trainer_in(tmp_path, data, "checkpoint_every=100", "score_pictures=0", "tensorboard=false", steps=5)
    with pytest.raises(BrokenPipeError):
        trainer.train(gone)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["00000002"]


def test_hostile_lines_of_a_log_are_dropped(tmp_path):
    lines = ['{"step": 1}', "[" * 100_000, '{"step": ' + "9" * 5000 + "}", '{"step": 1e999}', '{"step": null}', "\x00"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    with RunLog(tmp_path, 3, tensorboard=False):
        pass
    assert read_log(tmp_path) == [{"step": 1}]


def test_a_training_that_is_stopped_before_its_first_step_goes_on(data, tmp_path):
    """Its checkpoint has no state of Adam, who has seen nothing yet."""
    trainer = trainer_in(tmp_path / "stopped", data, *QUICK, steps=2)
    load = trainer._load

    def stopped(stop_asked):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from load(stop_asked)

    trainer._load = stopped
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    (path,) = list_checkpoints(tmp_path / "stopped" / "checkpoints")
    assert read_checkpoint(path).step == 0
    ends = [trainer_in(tmp_path / "stopped", data, *QUICK, steps=2, resume=path).train(),
            trainer_in(tmp_path / "whole", data, *QUICK, steps=2).train()]  # fmt: skip
    one, other = (load_file(end / "ema.safetensors") for end in ends)
    assert all(torch.equal(one[name], other[name]) for name in one)
