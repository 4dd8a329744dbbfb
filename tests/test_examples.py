"""The scripts in examples/, run as they stand."""

import subprocess
import sys
from pathlib import Path

import clips
import numpy as np
import pytest

from dsmap.common.images import write_rgb

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two folders of small images, photos/summer and photos/winter."""
    noise = np.random.default_rng(0)
    for folder in ("summer", "winter"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(4):
            pixels = noise.integers(0, 256, (72, 72, 3), np.uint8)
            write_rgb(tmp_path / "photos" / folder / f"{number}.png", pixels)
    return tmp_path / "photos"


def test_translate_image(photos, tmp_path):
    run("translate_image.py", photos / "summer" / "0.png", "out", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0-default.png", "0-fresh-snow.png", "0-seed7.png",
    ]  # fmt: skip


def test_translate_videos(tmp_path):
    (tmp_path / "clips").mkdir()
    clips.make_clip(tmp_path / "clips" / "a.mp4")
    clips.make_clip(tmp_path / "clips" / "b.mp4")
    assert "2 translated, 0 were there" in run("translate_videos.py", "clips", "results", cwd=tmp_path)
    assert "0 translated, 2 were there" in run("translate_videos.py", "clips", "results", cwd=tmp_path)
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_translate_stream(tmp_path):
    clips.make_clip(tmp_path / "clip.mp4")
    said = run("translate_stream.py", "clip.mp4", "--frames", 3, "--height", 64, cwd=tmp_path)
    assert [line.partition(":")[0] for line in said.splitlines()] == ["frame 1", "frame 2", "frame 3"]


def test_train_and_export(photos, tmp_path):
    run("train_and_export.py", photos / "summer", photos / "winter", "out", "--steps", 2, cwd=tmp_path)
    assert (tmp_path / "out" / "translated.png").stat().st_size > 0
    assert (tmp_path / "out" / "model" / "bundle.json").is_file()


def test_every_example_is_run_here():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested
