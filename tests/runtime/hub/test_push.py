"""Pushing to the hub on loopback, and pulling the same again."""

import json
import shutil

import pytest
from commands import call

from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.card import split_card
from dsmap.runtime.hub.address import parse_address
from dsmap.runtime.hub.pull import pull
from dsmap.runtime.hub.push import plan_push, push
from dsmap.tools import models

CARD = "---\nlicense: cc0-1.0\ndatasets: [some/data]\n---\n# tiny\n\nTry it: dsmap video a.mp4 --model hf:OWNER/NAME\n"


@pytest.fixture
def bundle(model_folder, tmp_path):
    """A bundle ready to go, with things beside it that must stay."""
    folder = tmp_path / "mine"
    shutil.copytree(model_folder, folder)
    (folder / "README.md").write_text(CARD)
    (folder / "engines").mkdir()
    (folder / "engines" / "decoder.engine").write_bytes(b"code")
    (folder / "notes.txt").write_text("secret")
    return folder


def test_a_dry_run_shows_all_and_sends_nothing(hub, bundle):
    code, out, err = call(models, "push", bundle, "hf:some/pushed", "--dry-run")
    assert code == 0, err
    assert "MB  decoder.winter.onnx" in out
    assert "MB  samples/one.jpg" in out
    assert "stays here    engines/decoder.engine" in out
    assert "stays here    notes.txt" in out
    assert "dsmap video a.mp4 --model hf:some/pushed" in out
    assert hub.requests == []


def test_what_was_pushed_can_be_pulled(hub, bundle, monkeypatch):
    code, _, err = call(models, "push", bundle, "hf:some/pushed")
    assert code == 2
    assert "there is no token" in err
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    code, out, err = call(models, "push", bundle, "hf:some/pushed")
    assert code == 0, err
    commit = hub.branches["some/pushed"]["main"]
    assert f"hf:some/pushed@{commit}: {hub.endpoint}/some/pushed" in out
    there = hub.repos["some/pushed"][commit]
    assert "notes.txt" not in there
    assert not [path for path in there if "engine" in path]
    assert b"--model hf:some/pushed" in there["README.md"]
    assert hub.commit_messages[-1].startswith("mine, by dsmap ")
    pulled = pull(parse_address("hf:some/pushed"))
    assert Bundle.read(pulled.folder).fingerprint == Bundle.read(bundle).fingerprint
    # Again, with another card: one more commit, and the first stays what it was.
    (bundle / "README.md").write_text(CARD + "\nMore.\n")
    assert call(models, "push", bundle, "hf:some/pushed")[0] == 0
    assert hub.repos["some/pushed"][commit]["README.md"] == there["README.md"]


def test_a_wrong_token_is_told(hub, bundle, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = call(models, "push", bundle, "hf:some/never")
    assert code == 2
    assert "does not accept your token" in err
    assert "some/never" not in hub.repos


@pytest.mark.parametrize(
    ("card", "fact", "advice"),
    [
        (CARD.replace("license: cc0-1.0\n", ""), "states no licence", "dsmap export BUNDLE --licence NAME"),
        (CARD.replace("datasets: [some/data]\n", ""), "names no data", "dsmap export BUNDLE --dataset OWNER/NAME"),
        (CARD.replace("cc0-1.0", "mit"), "says license: mit, and bundle.json 'CC0'", "Make them agree"),
    ],
)
def test_a_card_that_says_too_little_stays_here(hub, bundle, monkeypatch, card, fact, advice):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    (bundle / "README.md").write_text(card)
    for more in ([], ["--dry-run"]):
        code, _, err = call(models, "push", bundle, "hf:some/refused", *more)
        assert code == 2
        assert fact in err
        assert advice in err
    assert hub.requests == []


def test_a_bundle_without_a_card_gets_one(hub, bundle):
    (bundle / "README.md").unlink()
    assert "names no data" in call(models, "push", bundle, "hf:some/old", "--dry-run")[2]
    tree = json.loads((bundle / "bundle.json").read_text()) | {"datasets": ["some/data"]}
    (bundle / "bundle.json").write_text(json.dumps(tree))
    code, out, err = call(models, "push", bundle, "hf:some/old", "--dry-run")
    assert code == 0, err
    head, body = split_card(out.partition("README.md:\n\n")[2])
    assert head["license"] == "cc0-1.0"
    assert "--model hf:some/old" in body


def test_a_broken_bundle_stays_here(hub, bundle):
    (bundle / "decoder.winter.onnx").write_bytes(b"\x08")
    code, _, err = call(models, "push", bundle, "hf:some/broken", "--dry-run")
    assert code == 2
    assert "has changed since it was exported" in err


@pytest.mark.parametrize("to", ["hf:some/one@main2", "some/one", "hf:one"])
def test_addresses_that_cannot_be_pushed_to(hub, bundle, to):
    assert call(models, "push", bundle, to, "--dry-run")[0] == 2


@pytest.mark.parametrize("path", ["samples/two.jpg", "LICENSE", "README.md", "bundle.json", "decoder.winter.onnx"])
def test_links_are_not_pushed(hub, bundle, tmp_path, path):
    (tmp_path / "secret").write_bytes((bundle / path).read_bytes() if (bundle / path).is_file() else b"\xff\xd8\xff")
    (bundle / path).unlink(missing_ok=True)
    (bundle / path).symlink_to(tmp_path / "secret")
    code, _, err = call(models, "push", bundle, "hf:some/link", "--dry-run")
    assert code == 2
    assert "is a link, and what it leads to is not pushed" in err or "which leaves the bundle's folder" in err


def test_only_images_are_pushed_as_images(hub, bundle):
    (bundle / "samples" / "two.jpg").write_text("root:x:0:0")
    code, _, err = call(models, "push", bundle, "hf:some/text", "--dry-run")
    assert code == 2
    assert "two.jpg is not a JPEG, PNG or WebP image" in err


def test_what_goes_up_is_what_was_checked(hub, bundle, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    plan = plan_push(bundle, parse_address("hf:some/checked"))
    (bundle / "LICENSE").unlink()
    (bundle / "LICENSE").symlink_to("/etc/passwd")
    pushed = push(plan)
    assert hub.repos["some/checked"][pushed.pinned.revision]["LICENSE"] == b"CC0\n"
    (bundle / "decoder.winter.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match=r"decoder\.winter\.onnx has changed in the meantime"):
        push(plan)


def test_offline_nothing_is_pushed(hub, bundle, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert "HF_HUB_OFFLINE forbids to push" in call(models, "push", bundle, "hf:some/offline")[2]
    assert hub.requests == []
