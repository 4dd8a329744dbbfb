"""Caches that were damaged, closed or filled by hand: told in two lines, and mended by another pull."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import call

from dsmap.common import state_files
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.hub import registry
from dsmap.runtime.hub.address import parse_address
from dsmap.runtime.hub.cache import find_pulled, list_pulled, lock_repo, models_folder, repo_folder
from dsmap.runtime.hub.pull import pull
from dsmap.tools import models

GRAPH = "decoder.winter.onnx"
ADDRESS = parse_address("hf:some/good")
NAME = str(ADDRESS)


@pytest.fixture
def pulled(hub, model_folder):
    """A model in the cache; the hub has forgotten who asked for it."""
    hub.add("some/good", model_folder)
    pulled = pull(ADDRESS)
    hub.reset()
    return pulled


def graphs_asked(hub) -> set[str]:
    return {path.rpartition("/")[2] for _, path, _ in hub.requests if path.endswith(".onnx")}


@pytest.mark.parametrize("path", [GRAPH, "bundle.json"])
def test_a_pull_mends_what_was_damaged(hub, pulled, path):
    (pulled.folder / path).write_bytes(b"damaged")
    with pytest.raises(InputError) as caught:
        Bundle.read(find_model(NAME))
    assert caught.value.advice == f"Run: dsmap models pull {pulled.pinned}"  # and not: export it again
    mended = pull(ADDRESS)
    assert mended.folder == pulled.folder
    assert Bundle.read(mended.folder)
    assert graphs_asked(hub) == {path} - {"bundle.json"}
    assert [one.name for one in repo_folder("some/good").glob("*.part")] == []


def test_a_pull_leaves_what_is_not_its_own(hub, pulled):
    (pulled.folder / GRAPH).unlink()
    (pulled.folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt was not pulled"):
        pull(ADDRESS)
    assert (pulled.folder / "notes.txt").is_file()


def test_a_damaged_record_is_listed_and_mended(hub, pulled):
    record = pulled.folder.with_name(f"{pulled.commit}.json")
    record.write_text("{")
    out = call(models, "list")[1]
    assert f"{pulled.pinned}  damaged" in out
    assert pull(ADDRESS).files == pulled.files
    assert json.loads(record.read_text())["commit"] == pulled.commit
    assert not graphs_asked(hub)
    record.write_text("{")
    code, out, err = call(models, "remove", NAME)
    assert code == 0, err
    assert list(models_folder().iterdir()) == []


def test_a_whole_folder_without_a_record_is_taken_and_another_is_refused(hub, pulled):
    record = pulled.folder.with_name(f"{pulled.commit}.json")
    record.unlink()
    assert pull(ADDRESS).files == pulled.files
    record.unlink()
    (pulled.folder / GRAPH).write_bytes(b"another")
    with pytest.raises(InputError, match="is there, and was not pulled"):
        pull(ADDRESS)
    assert not graphs_asked(hub)  # refused before
    assert (pulled.folder / GRAPH).read_bytes() == b"another"


def test_one_damaged_model_leaves_the_list(hub, pulled, tmp_path, monkeypatch):
    file = tmp_path / "models.toml"
    file.write_text(f'[known]\nsource = "{pulled.pinned}"\nbundle_sha256 = "{"0" * 64}"\nabout = "Good."\n')
    monkeypatch.setattr(registry, "FILE", file)
    code, out, err = call(models, "list")
    assert code == 0, err
    assert "known          damaged" in out


@pytest.mark.parametrize("name", ["some--good", "some--good/.lock", "some--good/revisions.json"])
def test_what_stands_in_the_way_is_named(hub, model_folder, name):
    hub.add("some/good", model_folder)
    place = models_folder() / name
    models_folder().mkdir(mode=0o700, parents=True)
    if "/" in name:
        place.mkdir(parents=True)
    else:
        place.write_text("")
    with pytest.raises(DsmapError) as caught:
        pull(ADDRESS)
    assert str(place) in caught.value.fact
    assert "-o" not in caught.value.advice
    assert not graphs_asked(hub)


def test_a_full_disk_is_told_in_two_lines(hub, model_folder, monkeypatch):
    hub.add("some/good", model_folder)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("finish_file", "_check_regular"):  # of the records, and of what comes first
        with monkeypatch.context() as patch:
            patch.setattr(state_files, place, full)
            with pytest.raises(DsmapError, match=r"cannot write to .*: No space left on device"):
                pull(ADDRESS)
    assert pull(ADDRESS)


def test_a_cache_that_is_closed_still_answers(hub, pulled, monkeypatch):
    def closed(*_arguments: object, **_settings: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", closed)
    monkeypatch.setattr(os, "replace", closed)
    assert pull(ADDRESS) == pulled
    with pytest.raises(DsmapError, match="cannot make the cache folder"), lock_repo("some/good"):
        pass


def test_a_door_that_closes_keeps_what_has_come(hub, model_folder):
    hub.add("some/good", model_folder)

    def close(have: int, total: int) -> None:
        if have > total // 2:
            hub.gated.add("some/good")

    with pytest.raises(InputError, match="is gated"):
        pull(ADDRESS, progress=close)
    hub.reset()
    pull(ADDRESS)
    assert len(graphs_asked(hub)) < len(list(model_folder.glob("*.onnx")))


def test_refused_models_leave_nothing(hub, model_folder):
    hub.add("some/good", model_folder, **{"bundle.json": b"{}"})
    with pytest.raises(InputError, match=r"bundle\.json of hf:some/good@.* has no format_version") as caught:
        pull(ADDRESS)
    assert "ask its owner" in caught.value.advice
    assert list(models_folder().iterdir()) == []


def test_a_removal_forgets_nothing_that_others_need(hub, pulled):
    shutil.rmtree(pulled.folder)
    assert find_pulled(ADDRESS) is None
    assert list_pulled() == []
    assert pull(ADDRESS).folder.is_dir()


def test_who_waits_for_a_folder_that_goes_away_gets_another(hub):
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def wait_for_it() -> bool:
            with lock_repo("some/good", lambda _line: waiting.set()) as folder:
                return (folder / ".lock").is_file()

        with lock_repo("some/good"):
            result = pool.submit(wait_for_it)
            assert waiting.wait(90)
        assert result.result(90)
    assert list(models_folder().iterdir()) == []
