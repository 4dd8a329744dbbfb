"""A hub on loopback and a model for it. huggingface_hub reads its settings as it is imported: they are set before."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from fake_hub import FakeHub

from dsmap.runtime.hub import client


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory):
    """The server, which huggingface_hub knows from here on."""
    with FakeHub() as server:
        os.environ |= {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(tmp_path_factory.mktemp("hf")),
            "HF_HUB_DISABLE_XET": "1",  # its protocol is binary, and no server for it can be installed
        }
        os.environ.pop("HF_TOKEN", None)
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]  # another test has imported it, with the settings of the real Hub
        yield server


@pytest.fixture
def hub(hub_server, tmp_path, monkeypatch):
    """The same, honest and with an empty cache of ours."""
    hub_server.reset()
    monkeypatch.setenv("DSMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "_PAUSE", 0.0)
    return hub_server


@pytest.fixture(scope="session")
def model_folder(tiny_bundle, made_once) -> Path:
    """The tiny bundle with a card, a licence and a picture, as it would be pushed."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True)
        shutil.rmtree(folder / "samples", ignore_errors=True)
        (folder / "README.md").write_text(
            "---\nlibrary_name: dsmap\nlicense: cc0-1.0\ndatasets:\n- some/data\n---\n# tiny\n"
        )
        (folder / "LICENSE").write_text("CC0\n")
        (folder / "samples").mkdir()
        (folder / "samples" / "one.jpg").write_bytes(b"\xff\xd8\xff\xe0 a picture")

    return made_once("hub-model", make)
