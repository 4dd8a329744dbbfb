"""No command replaces what the user has: an input never, something else only with --overwrite."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.runtime.bundle.bundled import DEFAULT_MODEL, find_model

WEIGHTS = "run/checkpoints/00000020/ema.safetensors"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a file of every kind that commands read."""
    for name in ("in.mp4", "out.mp4", "out/1.png", "net.npz", WEIGHTS, "run/config.yaml", "ref/1.png",
                 "style.png", "card.md", "photos/a/1.png", "photos/b/2.png", "earlier.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"precious {name}")
    write_rgb(tmp_path / "style.png", np.zeros((256, 256, 3), np.uint8))
    (tmp_path / "results").mkdir()
    (tmp_path / "linked.png").write_text("precious linked.png")
    (tmp_path / "out" / "2.png").symlink_to(tmp_path / "linked.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(module: str, *arguments: object) -> int:
    """Runs a command here; its exit code."""
    main = __import__(f"dsmap.tools.{module}", fromlist=["main"]).main
    argv = sys.argv
    sys.argv = [module, *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = argv


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EVAL_IMAGES = ("eval", "images", "x=out", "--reference", "ref", "--features", "net.npz")
EVAL_VIDEO = ("eval", "video", "in.mp4", "out.mp4", "--reference", "ref", "--features", "net.npz")
EVAL_MODEL = ("eval", "model", "run", "--data", "photos", "--features", "net.npz")
EXPORT = ("export", "run", "-o", "bundle", "--card", "card.md", "--named-style", "a:snow=style.png")
LIVE = ("live", "--domain", "winter", "--camera", "in.mp4", "--style", "style.png", "--no-window")
GATES = {
    "bench video": (("bench", "video", "in.mp4"), "--report", ["in.mp4"]),
    "bench live": (("bench", "live", "in.mp4"), "--report", ["in.mp4"]),
    "bench model": (("bench", "model", "--checkpoint", "run"), "--report", ["run/config.yaml"]),
    "bench train": (("bench", "train", "--features", "net.npz"), "--report", ["net.npz"]),
    "doctor": (("doctor",), "--report", []),
    "export": (EXPORT, "--report", [WEIGHTS, "run/config.yaml", "card.md", "style.png"]),
    "export of a checkpoint": (("export", "run/checkpoints/00000020", "-o", "bundle"), "--report", ["run/config.yaml"]),
    "eval images, report": (EVAL_IMAGES, "--report", ["ref/1.png", "net.npz", "out/1.png", "linked.png"]),
    "eval images, page": (EVAL_IMAGES, "--page", ["ref/1.png", "net.npz"]),
    "eval model": (EVAL_MODEL, "--page", ["photos/a/1.png", "net.npz", WEIGHTS]),
    "eval video, report": (EVAL_VIDEO, "--report", ["in.mp4", "out.mp4", "ref/1.png", "net.npz"]),
    "eval video, plot": (EVAL_VIDEO, "--plot", ["in.mp4", "out.mp4", "ref/1.png"]),
    "eval video, page": (EVAL_VIDEO, "--page", ["in.mp4", "out.mp4", "net.npz"]),
    "live, report": (LIVE, "--report", ["in.mp4", "style.png"]),
    "live, record": (LIVE, "--record", ["in.mp4", "style.png"]),
    "video": (("video", "in.mp4", "--domain", "winter"), "--report", ["in.mp4"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_nothing_of_the_users_is_replaced(name, place, capsys):
    (module, *arguments), option, inputs = GATES[name]
    before = contents(place)
    for path in inputs:
        (place / "link").symlink_to(place / path)
        os.link(place / path, place / "hard")
        for written in (path, "link", "hard", f"ref/../{path}"):
            for overwrite in ([], ["--overwrite"]):
                assert command(module, *arguments, option, written, *overwrite) == 2, (written, overwrite)
                told = capsys.readouterr().err.splitlines()
                assert len(told) == 2, told
                assert option in told[0]
                assert "exists already" not in told[0] or not overwrite, told
        for link in ("link", "hard"):
            (place / link).unlink()
    for path, fact in (("earlier.json", "exists already"), ("results", "is a folder"), ("no/r.json", "does not exist")):
        assert command(module, *arguments, option, path) == 2
        assert fact in capsys.readouterr().err
    assert contents(place) == before


@pytest.mark.parametrize(
    "module", ["bench video", "bench live", "bench model", "doctor", "eval model", "live", "export"]
)
def test_nothing_is_written_into_a_model(module, place, tiny_bundle, capsys):
    arguments = {
        "bench video": ["in.mp4", "-m", tiny_bundle],
        "bench live": ["in.mp4", "-m", tiny_bundle],
        "bench model": [tiny_bundle],
        "doctor": ["--model", tiny_bundle],
        "eval model": [tiny_bundle, "--data", "photos"],
        "live": ["--domain", "winter", "--model", tiny_bundle, "--camera", "in.mp4", "--no-window"],
        "export": [tiny_bundle, "--engine", "rtx"],
    }[module]
    before = contents(tiny_bundle)
    for name in ("bundle.json", "new.json"):
        code = command(*module.split(), *arguments, "--report", tiny_bundle / name, "--overwrite")
        assert (code, "lies in the" in capsys.readouterr().err) == (2, True)
    assert contents(tiny_bundle) == before


def test_an_earlier_report_of_gpu_check_stays(place, capsys):
    (place / "report").mkdir()
    (place / "report" / "gpu-check.md").write_text("precious")
    assert command("gpu_check", "--out", "report") == 2
    assert "exists already" in capsys.readouterr().err
    (place / "mine").mkdir()
    (place / "mine" / "gpu-check.json").symlink_to(find_model(DEFAULT_MODEL) / "bundle.json")
    before = (find_model(DEFAULT_MODEL) / "bundle.json").read_bytes()
    assert command("gpu_check", "--out", "mine", "--overwrite") == 2
    assert (find_model(DEFAULT_MODEL) / "bundle.json").read_bytes() == before


def test_a_run_takes_no_place_of_images_or_settings(place, image_folder, capsys):
    for name in ("trainA", "trainB"):
        assert command("train", "--data", image_folder, "-o", image_folder / name, "--preset", "debug") == 2
        assert "is a folder of the images" in capsys.readouterr().err
    (place / "new").mkdir()
    (place / "new" / "config.yaml").write_text("steps: 2  # mine\n")
    assert command("train", "--data", image_folder, "-o", "new", "--config", "new/config.yaml") == 2
    assert "where the run writes its own settings" in capsys.readouterr().err
    assert (place / "new" / "config.yaml").read_text() == "steps: 2  # mine\n"
