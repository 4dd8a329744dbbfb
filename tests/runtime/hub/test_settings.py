"""Odd values of HF_ENDPOINT and HF_TOKEN, which huggingface_hub takes without a look."""

import json
import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from dsmap.runtime.hub.settings import is_web_address


def run(*arguments, **settings: str):
    """`dsmap models` in a process of its own, as the settings are read once: its exit code and all that it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "dsmap.tools.models", *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | settings,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text", ["http://[bad", "127.0.0.1:80", "http://", "http://a:99999", "http://a\x7f", "ftp://a", "http://a b", ""]
)
def test_addresses_that_are_none(text):
    assert not is_web_address(text)


def test_odd_settings_are_named(hub):
    code, told = run("pull", "hf:some/one", HF_ENDPOINT="http://u:secret@[bad")
    assert code == 2
    assert "HF_ENDPOINT is no address of a hub: 'http://[bad'" in told
    code, told = run("pull", "hf:some/one", HF_TOKEN="hf_r\u00efght")
    assert code == 2
    assert "your token has characters that no token has" in told


def test_passwords_in_the_endpoint_are_not_told(hub, model_folder, tmp_path):
    commit = hub.add("some/secret", model_folder)
    place = urlsplit(hub.endpoint).netloc
    settings = {"HF_ENDPOINT": f"http://somebody:secret-word@{place}"}
    told = run("pull", "hf:some/secret", **settings)[1]
    assert f"pulling hf:some/secret from {place}: " in told
    told += run("show", "hf:some/secret", "--report", tmp_path / "show.json", **settings)[1]
    told += run("pull", "hf:some/missing", **settings)[1]
    record = (tmp_path / "cache" / "models" / "some--secret" / f"{commit}.json").read_text()
    assert json.loads(record)["endpoint"] == hub.endpoint
    assert "secret-word" not in told + record + (tmp_path / "show.json").read_text()
