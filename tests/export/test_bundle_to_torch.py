"""Generators read back from bundles, and trainings that start from other trainings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_model
from training_helpers import train

from dsmap.errors import InputError
from dsmap.export.bundle_to_torch import generators_of_bundle
from dsmap.export.bundle_writer import write_bundle
from dsmap.export.trained_model import TrainedModel
from dsmap.model.dsmap import DSMAP
from dsmap.runtime.bundle.bundle import MANIFEST, Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.training.checkpoint import load_generators, read_checkpoint
from dsmap.training.style_statistics import prior_statistics

pytestmark = pytest.mark.usefixtures("torch_alone", "traces")


def small(**changed) -> DSMAP:
    """Of the kind whose weights stand in the graphs."""
    network = {
        "domains": ("summer", "winter"),
        "patch": 2,
        "n_downsample": 0,
        "pad_type": "zero",
        "upsampling": "shuffle",
    }
    return make_model(**network | changed).eval()


def bundle_of(model: DSMAP, out: Path) -> Bundle:
    styles = {domain: prior_statistics(model.config.style_dim) for domain in model.domains}
    write_bundle(TrainedModel(model, 64, styles, {d: [] for d in model.domains}, {"kind": "test"}), out, licence="CC0")
    return Bundle.read(out)


def assert_same(ours: DSMAP, theirs: DSMAP, **tolerances) -> None:
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerances)


@pytest.mark.parametrize(
    "changed",
    [
        {"sharpen": 0.5, "contrast": (1.0, 1.25)},
        {"pad_type": "reflect", "output": "clip"},
        {"mapping": False, "n_downsample": 1, "patch": 4},
    ],
    ids=["lite", "clip", "munit"],
)
def test_every_weight_comes_back(changed, tmp_path):
    model = small(**changed)
    found = generators_of_bundle(bundle_of(model, tmp_path / "bundle"))
    assert found.config == model.config
    assert_same(found, model, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory) -> Path:
    """Of `small()`. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("small") / "bundle"
    bundle_of(small(), folder)
    return folder


def test_what_a_bundle_has_no_use_for_is_missed(tmp_path):
    model = small(style_kl=True)
    same = {name: value for name, value in small().state_dict().items() if "style_encoders" not in name}
    model.load_state_dict(same, strict=False)  # so that most graphs are those of other tests
    with pytest.raises(InputError, match=r"does not hold 4 of .*log_variance"):  # weights and biases of both domains
        generators_of_bundle(bundle_of(model, tmp_path / "bundle"))


def test_the_bundled_model_can_be_trained_further():
    found = generators_of_bundle(Bundle.read(find_model("summer-winter")))
    assert found.domains == ("summer", "winter")


def test_folded_weights_are_refused(tiny_bundle):
    with pytest.raises(InputError, match="weights as trained, such as decoders") as error:
        generators_of_bundle(Bundle.read(tiny_bundle))
    assert "checkpoint" in error.value.advice


def test_weights_that_translate_otherwise_are_refused(small_bundle, tmp_path):
    """As would be those of a bundle by a dsmap that rewrites graphs in another way."""
    folder = Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["architecture"]["output"] = "clip"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="give other translations"):
        generators_of_bundle(Bundle.read(folder))


NOTHING_LEARNT = "--steps", 1, "--set", "optimizer.lr=1e-12", "--set", "optimizer.weight_decay=0"


def test_a_training_starts_from_a_bundle(small_bundle, image_folder, tmp_path):
    model = small()
    run = ("--data", image_folder, "-o", tmp_path / "run", "--start-from", small_bundle, *NOTHING_LEARNT)
    code, out, err = train(*run)
    assert code == 0, err
    assert "generators initialised with the weights of --start-from" in out
    checkpoint = read_checkpoint(tmp_path / "run")
    assert checkpoint.config.model == model.config
    for weights in ("ema", "generators"):
        assert_same(load_generators(checkpoint, weights), model, rtol=1e-5, atol=1e-6)


def test_a_training_starts_from_a_run_with_other_domains(checkpoint, image_folder, tmp_path):
    run = ("--data", image_folder, "-o", tmp_path / "run", "--start-from", checkpoint, *NOTHING_LEARNT)
    code, _, err = train(*run, "--domains", "green,white")
    assert code == 0, err
    found = read_checkpoint(tmp_path / "run")
    assert found.config.model.domains == ("green", "white")
    assert_same(load_generators(found), load_generators(read_checkpoint(checkpoint)))
    assert not np.array_equal(found.styles["green"].mean, np.zeros(found.config.model.style_dim))


def test_going_on_takes_the_runs_own_weights(checkpoint, image_folder, tmp_path):
    run = ("--data", image_folder, "-o", tmp_path / "run", "--start-from", checkpoint, "--resume", "auto")
    assert train(*run, "--steps", 1)[0] == 0
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    code, out, err = train(*run, "--steps", 1)
    assert code == 0, err
    assert "generators initialised" not in out
    assert_same(load_generators(read_checkpoint(tmp_path / "run")), load_generators(read_checkpoint(tmp_path / "kept")))


def test_what_shapes_no_weight_may_be_another(checkpoint, image_folder, tmp_path):
    run = ("--data", image_folder, "-o", tmp_path / "run", "--start-from", checkpoint, *NOTHING_LEARNT)
    code, _, err = train(*run, "--set", "model.sharpen=0.5")
    assert code == 0, err
    found, given = (load_generators(read_checkpoint(path)) for path in (tmp_path / "run", checkpoint))
    assert found.config == given.config.model_copy(update={"sharpen": 0.5})
    assert_same(found, given)


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (["--set", "model.dim=8"], "model.dim=8 cannot be combined with --start-from"),
        (["--method", "munit"], "--method munit cannot be combined with --start-from"),
        (["--domains", "winter,summer"], "the domains are given as winter, summer"),
    ],
)
def test_what_does_not_go_with_another_training(more, fact, checkpoint, image_folder, tmp_path):
    code, _, err = train("--data", image_folder, "-o", tmp_path / "run", "--start-from", checkpoint, *more)
    assert code == 2
    assert fact in err
    assert not (tmp_path / "run").exists()


def test_nothing_to_start_from(image_folder, tmp_path):
    code, _, err = train("--data", image_folder, "-o", tmp_path / "run", "--start-from", tmp_path / "gone")
    assert code == 2
    assert "gone" in err
