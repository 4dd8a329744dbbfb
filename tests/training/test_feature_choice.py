"""What `dsmap-train --features` comes to, with and without torchvision, and the lock that a training holds."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from dsmap.common.state_files import check_unlocked, lock_folder
from dsmap.config import load_train_config, written_keys
from dsmap.errors import InputError
from dsmap.training import run_settings
from dsmap.training.run_settings import choose_features

OFF = ("loss.contextual=0", "discriminator.features=false")


@pytest.fixture(params=[False, True], ids=["without torchvision", "with torchvision"])
def torchvision(request, monkeypatch) -> bool:
    found = importlib.util.spec_from_loader("torchvision", None) if request.param else None
    monkeypatch.setattr(run_settings, "find_spec", lambda _name: found)
    return request.param


@pytest.mark.parametrize("preset", ["paper", "lite"])
def test_auto_does_without_what_is_not_installed(preset, torchvision, tmp_path):
    settings = load_train_config(preset)
    choice = choose_features("auto", settings, run=tmp_path, resumed=False)
    if torchvision:
        assert choice == (None, (), None)
        return
    assert choice.overrides == OFF
    assert choice.note is not None
    assert "torchvision is not installed" in choice.note
    assert "dsmap[vgg]" in choice.note
    assert not load_train_config(preset, overrides=choice.overrides).uses_features


def test_what_needs_no_network_or_brings_its_own_is_left_alone(torchvision, tmp_path):
    assert choose_features("auto", load_train_config("debug"), run=tmp_path, resumed=False) == (None, (), None)
    own = load_train_config("lite", features="squeeze.npz")
    assert choose_features("squeeze.npz", own, run=tmp_path, resumed=False) == ("squeeze.npz", (), None)
    assert choose_features("none", load_train_config("lite"), run=tmp_path, resumed=False) == (None, OFF, None)


@pytest.mark.parametrize(
    ("features", "chosen", "resumed"),
    [("vgg16", (), False), ("auto", ("loss.contextual",), False), ("auto", ("discriminator.features",), False),
     ("auto", (), True)],
)  # fmt: skip
def test_what_was_asked_for_is_never_switched_off(features, chosen, resumed, torchvision, tmp_path):
    settings = load_train_config("lite")
    if torchvision:
        assert choose_features(features, settings, run=tmp_path, resumed=resumed, chosen=chosen).overrides == ()
        return
    with pytest.raises(InputError, match="vgg16 needs torchvision, which is not installed") as caught:
        choose_features(features, settings, run=tmp_path, resumed=resumed, chosen=chosen)
    assert "--features none" in caught.value.advice


def test_a_resumed_run_goes_on_as_it_began(torchvision, tmp_path):
    began = load_train_config("lite", overrides=OFF)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(began.model_dump(mode="json")))
    choice = choose_features("auto", load_train_config("lite"), run=tmp_path, resumed=True)
    assert choice == (None, OFF, None)


def test_keys_of_a_file_of_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 3\nloss:\n  cycle: 2\n  contextual: 1\n")
    assert written_keys(tmp_path / "mine.yaml") == {"steps", "loss.cycle", "loss.contextual"}
    assert written_keys(None) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="other locks")
def test_a_folder_that_is_trained_into_is_noticed_without_changing_it(tmp_path: Path):
    check_unlocked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path), pytest.raises(InputError, match="another process is working in"):
        check_unlocked(tmp_path)
    check_unlocked(tmp_path)
