"""`dsmap models`, and other commands with a model of the Hub."""

import json
import shutil

import numpy as np
import pytest
from commands import call

from dsmap.common.images import write_rgb
from dsmap.runtime.hub.cache import list_pulled, models_folder
from dsmap.tools import export, models, video


def test_list_show_pull_verify_remove(hub, model_folder, tmp_path):
    commit = hub.add("some/tiny", model_folder)
    code, out, err = call(models, "show", "hf:some/tiny", "--report", tmp_path / "show.json")
    assert code == 0, err
    assert "domains   summer <-> winter" in out
    assert "place     not pulled" in out
    assert f"source    hf:some/tiny@{commit} on {hub.endpoint}" in out
    assert "speed     light: live on a laptop's CPU" in out
    assert "refiner   none\n" in out
    assert "licence   CC0" in out
    assert "picture   samples/one.jpg" in out
    assert out.endswith("# tiny\n")  # the card, without its head
    told = json.loads((tmp_path / "show.json").read_text())
    assert told["source"] == f"hf:some/tiny@{commit}"
    assert not hub.asked(".onnx")
    assert list_pulled() == []

    code, out, err = call(models, "pull", "hf:some/tiny")
    assert code == 0, err
    first, last = out.splitlines()[0], out.splitlines()[-1]
    assert first.startswith(f"pulling hf:some/tiny from 127.0.0.1:{hub.port}: ")
    assert last == "next: dsmap-video INPUT --model hf:some/tiny --domain winter"
    assert call(models, "pull", "hf:some/tiny")[1].startswith(f"hf:some/tiny@{commit} is in the cache\n")

    code, out, err = call(models, "list", "--report", tmp_path / "list.json")
    assert "summer-winter" in out.splitlines()[0]
    assert "refiner   to winter\n" in call(models, "show", "summer-winter")[1]
    assert [line.split()[:2] for line in out.splitlines()[2:]] == [["hf:some/tiny", "cache"], ["commit", commit]]
    assert [row["place"] for row in json.loads((tmp_path / "list.json").read_text())["models"]] == ["package", "cache"]
    assert f"place     pulled, {list_pulled()[0].folder}" in call(models, "show", "hf:some/tiny")[1]
    assert call(models, "verify", "hf:some/tiny")[0] == 0

    graph = list_pulled()[0].folder / "decoder.winter.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    code, out, err = call(models, "verify", "hf:some/tiny")
    assert code == 2
    assert "decoder.winter.onnx has changed since it was exported" in err

    assert call(models, "remove", "hf:some/tiny")[1].startswith(f"removed hf:some/tiny@{commit}, ")
    assert list_pulled() == []
    assert list(models_folder().iterdir()) == []
    assert "is not in the cache" in call(models, "remove", "hf:some/tiny")[2]
    assert "is not in the cache" in call(models, "verify", "hf:some/tiny")[2]


def test_one_commit_of_two_is_removed(hub, model_folder):
    first = hub.add("some/two", model_folder)
    call(models, "pull", "hf:some/two")
    second = hub.add("some/two", model_folder, **{"LICENSE": b"another\n"})
    call(models, "pull", "hf:some/two")
    names = [line.split()[0] for line in call(models, "list")[1].splitlines()]
    assert {"hf:some/two", f"hf:some/two@{first}"} <= set(names)  # what has to be typed
    assert call(models, "remove", f"hf:some/two@{first}")[0] == 0
    assert [one.commit for one in list_pulled()] == [second]
    assert call(models, "verify", "hf:some/two")[0] == 0


def test_what_the_user_made_stays(hub, model_folder, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(model_folder, own)
    for name in (own, "summer-winter"):
        code, _, err = call(models, "remove", name)
        assert code == 2
        assert "stays" in err or "Remove folders of your own yourself" in err
    assert (own / "bundle.json").is_file()

    # In the place of a pulled model, or beside its files.
    place = models_folder() / "some--mine" / ("a" * 40)
    shutil.copytree(model_folder, place)
    assert call(models, "remove", "hf:some/mine")[0] == 2
    assert (place / "bundle.json").is_file()
    hub.add("some/noted", model_folder)
    call(models, "pull", "hf:some/noted")
    note = list_pulled()[0].folder / "my-notes.txt"
    note.write_text("mine")
    code, _, err = call(models, "remove", "hf:some/noted")
    assert code == 2
    assert "my-notes.txt was not pulled, and would be lost" in err
    assert note.is_file()
    assert call(models, "verify", "hf:some/noted")[0] == 0  # nothing is gone


def test_a_link_in_place_of_a_pulled_model_is_not_followed(hub, model_folder, tmp_path):
    hub.add("some/link", model_folder)
    call(models, "pull", "hf:some/link")
    pulled = list_pulled()[0].folder
    pulled.rename(tmp_path / "elsewhere")
    pulled.symlink_to(tmp_path / "elsewhere")
    assert call(models, "remove", "hf:some/link")[0] == 2
    assert (tmp_path / "elsewhere" / "bundle.json").is_file()


def test_the_limit_is_an_option(hub, model_folder):
    tree = json.loads((model_folder / "bundle.json").read_text())
    tree["components"]["decoder"]["winter"]["bytes"] = 2_000_000_000
    hub.add("some/large", model_folder, **{"bundle.json": json.dumps(tree).encode()})
    assert "expected at most 1.00 GB" in call(models, "pull", "hf:some/large")[2]
    assert "expected 2000000000" in call(models, "pull", "hf:some/large", "--limit", "3")[2]  # past the limit


def test_a_video_job_reports_the_commit(hub, model_folder, tmp_path):
    commit = hub.add("some/job", model_folder)
    write_rgb(tmp_path / "photo.png", np.zeros((16, 16, 3), np.uint8))
    arguments = [
        tmp_path / "photo.png",
        "--model",
        "hf:some/job",
        "--domain",
        "winter",
        "--report",
        tmp_path / "r.json",
    ]
    code, _, err = call(video, *arguments, "-o", tmp_path / "out.png", "--backend", "cpu")
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["model_source"] == f"hf:some/job@{commit}"
    assert report["model_hub"] == hub.endpoint


def test_a_pulled_model_is_not_extended(hub):
    code, _, err = call(export, "hf:some/tiny", "--engine", "rtx")
    assert code == 2
    assert "is a pulled model, and stays as it is" in err


@pytest.mark.parametrize("name", ["hf:some", "nothing-like-it"])
def test_what_is_no_model(hub, name):
    assert call(models, "show", name)[0] == 2
    assert call(models, "pull", name)[0] == 2
