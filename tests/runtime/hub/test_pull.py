"""Pulling from a hub that is honest, slow, breaks off, or lies."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.hub import client, registry
from dsmap.runtime.hub.address import parse_address
from dsmap.runtime.hub.cache import find_pulled, list_pulled, pulled_from
from dsmap.runtime.hub.pull import pull

GRAPH = "decoder.winter.onnx"


def at(text: str):
    return parse_address(text)


def read_tree(folder):
    return json.loads((folder / "bundle.json").read_text())


def with_tree(folder, change) -> bytes:
    """The folder's bundle.json after `change`."""
    tree = read_tree(folder)
    change(tree)
    return json.dumps(tree).encode()


def nothing_is_here() -> bool:
    return list_pulled() == []


def test_a_model_is_pulled_whole_and_pinned(hub, model_folder):
    commit = hub.add("some/tiny", model_folder, **{"evil.py": b"print('never fetched')", "weights.bin": bytes(9)})
    said, seen = [], []
    pulled = pull(at("hf:some/tiny"), say=said.append, progress=lambda have, total: seen.append((have, total)))
    assert pulled.commit == commit
    assert pulled.folder.name == commit
    assert len(said) == 1
    total = sum(path.stat().st_size for path in model_folder.rglob("*") if path.is_file())
    assert f"{total / 1e6:.1f} MB" in said[0]  # before anything large came
    assert commit in said[0]
    assert seen[-1][0] + len((model_folder / "bundle.json").read_bytes()) == seen[-1][1] == total
    here = {path.relative_to(pulled.folder).as_posix() for path in pulled.folder.rglob("*") if path.is_file()}
    assert here == {path.relative_to(model_folder).as_posix() for path in model_folder.rglob("*") if path.is_file()}
    assert not hub.asked("evil.py")
    assert not hub.asked("weights.bin")
    assert Bundle.read(pulled.folder).manifest.name == "tiny"
    assert pulled_from(pulled.folder) == pulled
    for _method, _path, headers in hub.requests:
        assert "torch/" not in headers.get("user-agent", "")  # what telemetry would add


def test_the_token_never_leaves_the_hub(hub, model_folder, monkeypatch):
    hub.add("some/private", model_folder)
    hub.private.add("some/private")
    with pytest.raises(InputError, match="has no model some/private, or does not show it to you") as caught:
        pull(at("hf:some/private"))
    assert "hf auth login" in caught.value.advice
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    pull(at("hf:some/private"))
    sent = {("cdn" in path, "authorization" in headers) for _, path, headers in hub.requests[1:]}
    assert sent == {(True, False), (False, True)}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="does not accept your token"):
        pull(at("hf:some/private"))


def test_a_name_means_the_same_until_it_is_pulled_again(hub, model_folder):
    first = hub.add("some/moving", model_folder)
    assert find_model("hf:some/moving").name == first
    second = hub.add("some/moving", model_folder, **{"LICENSE": b"other\n"})
    before = len(hub.requests)
    assert find_model("hf:some/moving").name == first
    assert len(hub.requests) == before  # not even a look
    assert pull(at("hf:some/moving")).commit == second
    assert find_model("hf:some/moving").name == second
    assert find_model(f"hf:some/moving@{first}").name == first
    assert {one.commit for one in list_pulled()} == {first, second}


def test_what_was_pulled_works_offline(hub, model_folder):
    commit = hub.add("some/offline", model_folder)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    code = (
        "import sys, numpy as np\nfrom dsmap.runtime import Translator\nfrom dsmap.errors import DsmapError\n"
        "try:\n"
        "    with Translator.load('hf:some/offline', domain='winter', backend='cpu', threads=1) as translator:\n"
        "        print(translator(np.zeros((16, 16, 3), np.uint8)).shape, 'huggingface_hub' in sys.modules)\n"
        "except DsmapError as error: print(error)"
    )
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.stdout == (
        "hf:some/offline is not in the cache, and HF_HUB_OFFLINE forbids to fetch it\n"
        "With a network, and without HF_HUB_OFFLINE: dsmap models pull hf:some/offline\n"
    ), done.stderr
    assert pull(at("hf:some/offline")).commit == commit
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.stdout == "(16, 16, 3) False\n", done.stderr


def test_a_translator_pulls_by_itself_and_says_so(hub, model_folder, caplog):
    commit = hub.add("some/auto", model_folder)
    with Translator.load("hf:some/auto", domain="winter", backend="cpu", threads=1) as translator:
        assert translator(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)
    assert f"commit {commit}" in caplog.text


def test_a_broken_connection_is_taken_up_where_it_broke(hub, model_folder):
    hub.add("some/cut", model_folder)
    hub.lies[GRAPH] = "cut"
    pulled = pull(at("hf:some/cut"))
    ranges = [headers.get("range") for _, _, headers in hub.asked(GRAPH)]
    size = pulled.files[GRAPH]
    assert f"bytes={size // 2}-" in ranges


def test_an_interrupted_pull_goes_on_in_the_next(hub, model_folder):
    hub.add("some/slow", model_folder)
    hub.lies[GRAPH] = "cut"
    with pytest.raises(DsmapError, match="as expected"):
        pull_with_stop(hub)
    assert nothing_is_here()
    hub.reset()
    pulled = pull(at("hf:some/slow"))
    assert hub.asked(GRAPH)[0][2]["range"] > "bytes=1"
    assert not hub.asked("content_encoder.summer.onnx")  # whole since the first time
    assert Bundle.read(pulled.folder)


def pull_with_stop(hub):
    """A pull that is killed in the middle of GRAPH, as by Ctrl-C."""

    def stop(have: int, total: int) -> None:
        if any(path.endswith(GRAPH) and "/cdn/" in path for _, path, _ in hub.requests):
            raise DsmapError("stopped, as expected", "")

    pull(at("hf:some/slow"), progress=stop)


@pytest.mark.parametrize(
    ("lie", "path", "expected"),
    [
        ("wrong", GRAPH, "with the SHA-256"),
        ("truncated", GRAPH, "expected"),
        ("huge", GRAPH, "more than the"),
        ("elsewhere", GRAPH, "sent 13 bytes of"),
        ("elsewhere", "bundle.json", "a redirection to another server"),
        ("huge", "bundle.json", "more than 8388608 bytes"),
        ("huge", "README.md", "more than"),
        ("truncated", "bundle.json", r"cannot read the manifest bundle\.json of hf:some/liar@"),
        ("gzip", "bundle.json", r"a compressed answer \(gzip\)"),
        ("to:http://[bad/x", GRAPH, "a redirection to http"),
        ("to:http://127.0.0.1:99999999/x", GRAPH, "a redirection to http"),
        ("to:http://\x7f exa mple/\xff", GRAPH, "a redirection to http"),
        (f"to:http://{'a' * 70}.org/", GRAPH, "a redirection to http"),
        ("endless error", "*", "answered 500"),
        ("endless headers", "*", "headers without end"),
    ],
)
def test_lies_are_found(hub, model_folder, lie, path, expected, monkeypatch):
    monkeypatch.setattr(client, "_HEAD_SECONDS", 0.3 if lie == "endless headers" else 60)
    hub.add("some/liar", model_folder)
    hub.lies[path] = lie
    with pytest.raises(DsmapError, match=expected):
        pull(at("hf:some/liar"))
    assert nothing_is_here()
    hub.reset()
    assert Bundle.read(pull(at("hf:some/liar")).folder)  # and leave nothing behind that stands in the way


@pytest.mark.parametrize(
    "path", ["../outside.onnx", "/etc/passwd", "a/../../b.onnx", "..\\b.onnx", "C:/b.onnx", ".hidden", "nul", "x/",
             "bundle.json", "BUNDLE.json", "README.md", "engines/x.onnx", "Engines/x.onnx", "x.engine", "nul.onnx",
             "\u20ac" * 90 + ".onnx"],
)  # fmt: skip
def test_paths_out_of_the_folder_are_refused_before_anything_is_written(hub, model_folder, path, tmp_path):
    def change(tree):
        tree["components"]["decoder"]["winter"]["path"] = path

    hub.add("some/paths", model_folder, **{"bundle.json": with_tree(model_folder, change), "../outside.onnx": b"x"})
    with pytest.raises(InputError, match=r"names|leaves"):
        pull(at("hf:some/paths"))
    assert nothing_is_here()
    assert not [one for one in hub.requests if "onnx" in one[1]]
    assert not list(tmp_path.rglob("*outside*"))


def test_graphs_are_checked_as_those_of_every_bundle(hub, model_folder):
    """The hash is right: whoever made the bundle made it so."""
    evil = b'\x08\x08:\x10\n\x0e"\x06Python:\x04evil' + bytes(4)

    def change(tree):
        tree["components"]["decoder"]["winter"] |= {"sha256": hashlib.sha256(evil).hexdigest(), "bytes": len(evil)}

    hub.add("some/evil", model_folder, **{"bundle.json": with_tree(model_folder, change), GRAPH: evil})
    with pytest.raises(InputError, match=r"decoder\.winter\.onnx"):
        pull(at("hf:some/evil"))
    assert nothing_is_here()


def test_more_than_the_limit_is_not_fetched(hub, model_folder):
    def change(tree):
        tree["components"]["decoder"]["winter"]["bytes"] = 2_000_000_000

    hub.add("some/large", model_folder, **{"bundle.json": with_tree(model_folder, change)})
    with pytest.raises(InputError, match=r"GB, expected at most 1\.07 GB") as caught:
        pull(at("hf:some/large"))
    assert "--limit 3" in caught.value.advice
    assert not hub.asked(".onnx")


def test_pictures_are_pictures(hub, model_folder):
    hub.add(
        "some/pictures",
        model_folder,
        **{
            "samples/two.jpg": b"<html>",
            "samples/script.html": b"x",
            "a.jpg": b"x",
            "samples/ONE.jpg": b"\xff\xd8\xff",
        },
    )
    pulled = pull(at("hf:some/pictures"))
    assert [path for path in pulled.files if path.endswith(("jpg", "html"))] == [
        "samples/ONE.jpg"
    ]  # one file, on some systems


def test_gates_and_unknown_names_are_told_apart(hub, model_folder):
    hub.add("some/gated", model_folder)
    hub.gated.add("some/gated")
    with pytest.raises(InputError, match="is gated") as caught:
        pull(at("hf:some/gated"))
    assert f"{hub.endpoint}/some/gated" in caught.value.advice
    with pytest.raises(InputError, match="has no model some/missing"):
        pull(at("hf:some/missing"))
    hub.gated.clear()
    with pytest.raises(InputError, match="has no revision v9"):
        pull(at("hf:some/gated@v9"))
    hub.commit("some/other", {"README.md": b"# another kind of model"})
    with pytest.raises(InputError, match=r"has no bundle\.json") as caught:
        pull(at("hf:some/other"))
    assert "no model for dsmap" in caught.value.advice
    assert nothing_is_here()


def test_a_hub_that_is_down_is_named(hub, model_folder):
    hub.add("some/down", model_folder)
    hub.failing = 1
    assert pull(at("hf:some/down"))  # busy for a moment
    hub.failing = 99
    with pytest.raises(DsmapError, match=f"127.0.0.1:{hub.port} answered 503"):
        pull(at("hf:some/down"))
    code = (
        "from dsmap.runtime.bundle.bundled import find_model\nfrom dsmap.errors import DsmapError\n"
        "try: find_model('hf:some/unknown')\nexcept DsmapError as error: print(error.fact)"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("cannot reach 127.0.0.1:9"), done.stderr


@pytest.mark.parametrize("text", ["", "one", "a/b/c", "a/..", "../b", "a/b@", "a/b@../x", "a--b/c", "a/b@-x", "a\\b/c"])
def test_addresses_that_are_none(text):
    with pytest.raises(InputError, match="is not the address of a model"):
        find_model(f"hf:{text}")


def test_a_known_name_is_pinned_by_commit_and_hash(hub, model_folder, tmp_path, monkeypatch):
    commit = hub.add("some/known", model_folder)
    sha256 = hashlib.sha256((model_folder / "bundle.json").read_bytes()).hexdigest()
    file = tmp_path / "models.toml"
    monkeypatch.setattr(registry, "FILE", file)

    def write(source: str, digest: str) -> None:
        file.write_text(f'[tiny-known]\nsource = "{source}"\nbundle_sha256 = "{digest}"\nabout = "Tiny."\n')

    write(f"hf:some/known@{commit}", "0" * 64)
    with pytest.raises(InputError, match=r"bundle\.json of .* has the SHA-256"):
        find_model("tiny-known")
    assert nothing_is_here()
    write(f"hf:some/known@{commit}", sha256)
    assert find_model("tiny-known").name == commit
    with pytest.raises(InputError, match="Known models: summer-winter, tiny-known"):
        find_model("tiny-unknown")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-known").mkdir()
    assert find_model("tiny-known") == Path("tiny-known")  # whatever names later versions know
    (tmp_path / "tiny-known").rmdir()
    write("hf:some/known@main", sha256)
    with pytest.raises(DsmapError, match="is not pinned"):
        find_model("tiny-known")


def test_the_registry_of_the_project_is_in_order():
    from dsmap.runtime.bundle.bundled import bundled_models

    known = registry.known_models()
    assert [name for name, model in known.items() if model.address is None] == bundled_models()


def test_a_changed_manifest_is_noticed(hub, model_folder):
    hub.add("some/changed", model_folder)
    pulled = pull(at("hf:some/changed"))
    (pulled.folder / "bundle.json").write_bytes((pulled.folder / "bundle.json").read_bytes() + b" ")
    with pytest.raises(InputError, match="is not the one that was pulled"):
        find_pulled(at("hf:some/changed"))


def test_two_pulls_at_once_fetch_it_once(hub, model_folder):
    hub.add("some/both", model_folder)
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: pull(at("hf:some/both"), say=said.append), range(2)))
    assert found[0] == found[1]
    assert len([one for one in hub.asked(GRAPH) if "/cdn/" in one[1]]) == 1
    assert sum(line.startswith("pulling ") for line in said) == 1


def test_a_small_file_has_a_deadline(hub, model_folder, monkeypatch):
    hub.add("some/trickle", model_folder)
    monkeypatch.setattr(client, "_MAX_SECONDS", -1.0)
    with pytest.raises(DsmapError, match="for more than"):
        pull(at("hf:some/trickle"))
