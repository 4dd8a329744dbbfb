"""`dsmap-eval video`: several translations, and their frames compared as images."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_helpers import noisy, pan, write_clip
from tiny import squeezenet_weights
from typer.testing import CliRunner

from dsmap.common.images import read_rgb, write_rgb
from dsmap.errors import InputError
from dsmap.metrics.frames import (
    MAX_FRAMES,
    FrameReference,
    FrameSampler,
    evaluate_frames,
    frame_sampler,
    load_frame_reference,
)
from dsmap.metrics.preservation import edge_structure, ssim
from dsmap.metrics.suite import MetricSuite
from dsmap.tools.eval import app
from dsmap.tools.eval.video import check_files, measure, parse_outputs
from dsmap.tools.eval.video_report import make_report

FRAMES = 8


def snowy(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The same scenes, brighter and bluish."""
    return [(0.5 * frame + (100, 110, 127)).round().astype(np.uint8) for frame in frames]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A clip, a translation that keeps all, one that flickers and loses the edges, and images to compare with."""
    root, clip = tmp_path_factory.mktemp("videos"), pan(FRAMES)
    write_clip(root / "in.mp4", clip)
    write_clip(root / "good.mp4", snowy(clip))
    write_clip(root / "bad.mp4", noisy([cv2.blur(frame, (9, 9)) for frame in clip], 12))
    (root / "other").mkdir()
    write_clip(root / "other" / "good.mp4", clip)
    write_clip(root / "short.mp4", clip[:5])
    for name, images in (("winter", snowy(pan(30)[::3])), ("summer", pan(30)[1::3])):
        (root / name).mkdir()
        for number, image in enumerate(images):
            write_rgb(root / name / f"{number}.png", image)
    np.savez(root / "net.npz", **squeezenet_weights())
    return root


def test_one_translation_without_a_network(folder, tmp_path):
    arguments = ["video", folder / "in.mp4", folder / "good.mp4", "--report", "r.json", "--page", "p.html"]
    code = (
        f"import sys; sys.modules['torch'] = None; sys.argv = ['x', *{list(map(str, arguments))}]\n"
        "from dsmap.tools.eval import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert {"source", "output", "width", "height", "frames", "seconds", "flicker", "in", "out", "series"} <= set(found)
    quality = found["quality"]
    assert quality["frames"] == [one["frame"] for one in quality["each"]] == list(range(FRAMES))
    assert quality["in"] == {}
    assert set(quality["out"]) == {"edge_structure", "ssim"}
    assert quality["out"]["ssim"] == pytest.approx(np.mean([one["ssim"] for one in quality["each"]]), abs=1e-3)
    assert re.search(rf"edge structure +{quality['out']['edge_structure']:.3f}  of 8 frames", done.stdout)
    page = (tmp_path / "p.html").read_text()
    assert page.count("<img ") == 2 * (8 + 8)
    assert "they need --features" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.html", "r.json"]


def test_several_translations_with_a_reference(folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    options = ["--features", folder / "net.npz", "--reference", folder / "winter", "--source", folder / "summer"]
    files = ["--report", "r.json", "--page", "p.html", "--plot", "p.png"]
    monkeypatch.chdir(tmp_path)
    videos = [folder / "in.mp4", folder / "good.mp4", f"worse={folder / 'bad.mp4'}"]
    done = CliRunner().invoke(app, ["video", *map(str, [*videos, *options, *files])])
    assert done.exit_code == 0, done.output
    good, bad = json.loads((tmp_path / "r.json").read_text())["outputs"]
    assert (good["name"], bad["name"]) == ("good", "worse")
    assert bad["flicker"] > good["flicker"] + 5
    assert bad["out"]["warping_error"] > good["out"]["warping_error"]
    assert good["in"] == bad["in"]
    own, other, before = good["quality"]["out"], bad["quality"]["out"], good["quality"]["in"]
    assert own["edge_structure"] > other["edge_structure"] + 0.1
    assert 0 < own["feature_similarity"] < 1  # by a network of random weights
    assert own["kernel_distance/squeezenet"] < before["kernel_distance/squeezenet"]
    assert 0 <= before["target_score"] <= 1
    assert set(before) == {"kernel_distance/squeezenet", "frechet_distance/squeezenet", "target_score"}
    assert good["quality"]["facts"]["reference"] == f"{folder / 'winter'}, 10 images"
    assert "In brackets" not in done.stdout  # no intervals
    assert "The frames of one clip resemble each other" in done.stdout
    page = (tmp_path / "p.html").read_text()
    assert page.count("<img ") == 8 * 3 + 2 * 8 * 2
    assert "input<small>baseline" in page
    assert read_rgb(tmp_path / "p.png").shape[0] > 300


def test_frames_are_compared_as_they_are(folder):
    """Each with the input's frame of its own time."""
    with frame_sampler() as kept:
        compared = measure(folder / "in.mp4", [("bad", folder / "bad.mp4")], height=None, frames=None, keep=kept.add)
        quality = evaluate_frames(kept, ["bad"], FrameReference(suite=MetricSuite(extractors=())))
        scores = quality.evaluations[0].scores
        for i, (one, other) in enumerate(zip(kept.of(0), kept.of(1), strict=True)):
            one_rgb, other_rgb = read_rgb(one), read_rgb(other)
            assert scores["ssim"][i] == pytest.approx(ssim(one_rgb, other_rgb))
            assert scores["edge_structure"][i] == pytest.approx(edge_structure(one_rgb, other_rgb))
        found = make_report(compared, quality)
    (bad, baseline) = found.systems
    assert [measured.metric.key for measured in bad.measured[:2]] == ["flicker", "warping_error"]
    assert bad.measured[0].value == pytest.approx(compared[0].flicker.flicker)
    assert bad.measured[0].count == FRAMES - 1
    assert baseline.baseline
    assert {measured.metric.key for measured in baseline.measured} == {
        "warping_error",
        "brightness_change",
        "sharpness",
    }
    worst = found.grids[1]
    first = int(re.match(r"frame (\d+), ", worst.captions[0][0])[1])
    assert scores["edge_structure"][first] == scores["edge_structure"].min()
    assert not kept.folder.exists()


@pytest.mark.parametrize("frames", [1, MAX_FRAMES, MAX_FRAMES + 1, 5 * MAX_FRAMES + 3])
def test_kept_frames_are_evenly_spread(frames, tmp_path):
    kept, image = FrameSampler(tmp_path), np.zeros((2, 2, 3), np.uint8)
    for number in range(frames):
        kept.add(number, [image + np.uint8(number % 256), image])
    assert min(frames, MAX_FRAMES // 2) <= len(kept.numbers) <= MAX_FRAMES
    assert kept.numbers[0] == 0
    assert len(set(np.diff(kept.numbers))) <= 1
    assert frames - kept.numbers[-1] <= max(1, frames // (MAX_FRAMES // 2))  # to the end
    for place in (0, 1):
        assert sorted((tmp_path / str(place)).iterdir()) == list(kept.of(place))
    assert [read_rgb(path)[0, 0, 0] for path in kept.of(0)] == [number % 256 for number in kept.numbers]


def test_names_of_translations(tmp_path):
    assert parse_outputs(["a/x.mp4", "y=b/x.mp4"]) == [("x", Path("a/x.mp4")), ("y", Path("b/x.mp4"))]
    (tmp_path / "a=b.mp4").touch()
    assert parse_outputs([str(tmp_path / "a=b.mp4")]) == [("a=b", tmp_path / "a=b.mp4")]
    with pytest.raises(InputError, match="two translations are called x"):
        parse_outputs(["a/x.mp4", "b/x.mp4"])


def test_what_cannot_be_compared_is_told(folder, tmp_path):
    clip, outputs = folder / "in.mp4", [folder / "good.mp4", folder / "short.mp4"]
    with pytest.raises(InputError, match=r"short\.mp4 has 5 frames and .*in\.mp4 has more"):
        measure(clip, [("good", outputs[0]), ("short", outputs[1])], height=None, frames=None)
    with pytest.raises(InputError, match=r"short\.mp4 is OUT itself"):
        check_files(clip, outputs, page=outputs[1], overwrite=True)
    (tmp_path / "p.html").touch()
    with pytest.raises(InputError, match=r"p\.html exists already"):
        check_files(clip, outputs, page=tmp_path / "p.html", overwrite=False)
    with pytest.raises(InputError, match="--report and --page both name"):
        check_files(clip, outputs, report=tmp_path / "p.html", page=tmp_path / "p.html", overwrite=True)
    with pytest.raises(InputError, match="--reference needs a feature network"):
        load_frame_reference([], folder / "winter", None, print)
    with pytest.raises(InputError, match="--source needs --reference"):
        load_frame_reference([folder / "net.npz"], None, folder / "summer", print)
    (tmp_path / "one").mkdir()
    write_rgb(tmp_path / "one" / "0.png", pan(1)[0])
    with pytest.raises(InputError, match=r"needs two or more, .*one has one"):
        load_frame_reference([folder / "net.npz"], tmp_path / "one", None, print)
    (tmp_path / "one" / "0.png").unlink()
    with pytest.raises(InputError, match="no images in the reference folder"):
        load_frame_reference([folder / "net.npz"], tmp_path, None, print)
