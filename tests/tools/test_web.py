"""The command `dsmap-web`."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from browsers import need_web_runtime
from commands import call

from dsmap.tools import web


@pytest.fixture(autouse=True)
def _web_runtime():
    need_web_runtime()


def test_it_says_what_was_written(tiny_bundle, tmp_path):
    code, said, errors = call(web, tiny_bundle, "-o", tmp_path / "site", "--domain", "winter")
    assert (code, errors) == (0, "")
    assert re.search(r"site: \d\d\.\d MB, of which a visitor loads", said)
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["nowhere", "-o", "site"], "no model or bundle named 'nowhere'"),
        (["summer-winter", "-o", "site", "--port", "80"], "--port is for --serve"),
        (["summer-winter", "-o", "site", "--domain", "autumn"], "no domain 'autumn'"),
        (["summer-winter", "-o", "site", "--runtime", "."], "--runtime . has no onnxruntime-web/dist/"),
        (["summer-winter"], "Missing option '--output'"),
    ],
)
def test_mistakes_are_two_lines(arguments, fact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-m", "dsmap", "web", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert fact in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent in another way there")
def test_it_serves_until_ctrl_c(tiny_bundle, tmp_path):
    command = [sys.executable, "-u", "-m", "dsmap", "web", tiny_bundle, "-o", tmp_path / "site", "--serve", "--port", 0]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = next(line for line in process.stdout if line.startswith("http")).split()[0]
        assert address.startswith("http://127.0.0.1:")
        assert b"<!doctype html>" in urllib.request.urlopen(address).read().lower()
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
