"""dsmap-bench model: what it measures is what it says, on networks that take a moment."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.backends.registry import BACKENDS
from dsmap.tools import bench
from dsmap.tools.bench import model as bench_model

TINY = ("model.dim=4", "model.n_res=1", "model.mlp_dim=8", "model.style_dim=3", "model.pad_type=zero",
        "model.mapping=false")  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls `dsmap-bench model` with arguments; gives exit code, stdout and stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dsmap-bench", "model", *arguments])
        with pytest.raises(SystemExit) as stop:
            bench.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return command


@pytest.mark.usefixtures("traces")
def test_a_network_in_its_forms(run, tmp_path):
    """Torch, one export and OpenVINO; the rest is left out, and named."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    left_out = ["compile", "folded", "all rewrites", "int8"]
    skipped = [word for skip in left_out for word in ("--skip", skip)]
    report = tmp_path / "report.json"
    code, out, err = run(*settings, *skipped, "--size", "64x48", "--rounds", "1", "--report", str(report), "--debug")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100
    measured = json.loads(report.read_text())
    rows = {row["name"]: row for row in measured["variants"]}
    first = rows["torch, the authors' shape"]
    assert (first["ratio"], first["psnr_db"], len(first["seconds"])) == (1.0, None, 1)
    exported = rows["ONNX Runtime, plain export"]
    assert exported["ratio"] == pytest.approx(first["seconds"][0] / exported["seconds"][0])
    assert exported["largest_difference"] <= 1
    assert {row["reason"] for row in measured["left_out"]} <= {
        "--skip",
        "openvino cannot be imported (No module named 'openvino')",
    }
    assert len(rows) + len(measured["left_out"]) == 15
    assert "torch.compile of it" in out
    assert measured["config"]["dim"] == 4
    assert measured["versions"]["onnxruntime"]


def test_a_bundle_with_every_backend(run, tiny_bundle, tmp_path):
    for i in range(2):
        image = np.random.default_rng(i).integers(0, 256, (100, 70, 3), np.uint8)
        write_rgb(tmp_path / f"{i}.png", image)
    report = tmp_path / "report.json"
    options = ["--size", "48x64", "--rounds", "2", "--threads", "1", "--domain", "summer"]
    code, out, err = run(str(tiny_bundle), *options, "--pictures", str(tmp_path), "--report", str(report))
    assert code == 0, err
    measured = json.loads(report.read_text())
    assert measured["variants"][0]["name"] == "cpu, fp32"
    assert measured["pictures"] == {"count": 2, "origin": "real"}
    assert (measured["target"], measured["threads"], measured["size"]) == ("summer", 1, "48x64")
    assert all(row["largest_difference"] <= 1 for row in measured["variants"])
    told = {row["name"] for row in measured["variants"]} | {row["name"] for row in measured["left_out"]}
    assert {"cpu, fp32", "openvino, fp32", "openvino-gpu, fp32", "torch, fp32"} <= told
    silent = {row["name"].partition(",")[0] for row in measured["left_out"]}
    for name in told:  # a backend that cannot run takes one line for all precisions
        assert name in out or name.partition(",")[0] in silent
    assert all(out.count(f"\n  {name} ") == 1 for name in silent)
    best = max(measured["variants"], key=lambda row: row["ratio"])["name"].split(", ")
    assert f"(--backend {best[0]} --precision {best[1]})" in out.splitlines()[-2]


def test_one_form_alone_is_not_the_fastest(run, tiny_bundle):
    skipped = [word for name in (*BACKENDS, "fp16", "int8") for word in ("--skip", name)]
    code, out, err = run(str(tiny_bundle), "--size", "48x64", "--rounds", "1", *skipped)
    assert code == 0, err
    assert "\nmeasuring 1 form, 1 round in turns\n" in out
    assert "fastest" not in out


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--size", "256"], "--size is '256'"),
        (["--size", "250x256", "summer-winter"], "does not fit"),
        (["summer-winter", "--set", "model.dim=8"], "BUNDLE was passed together"),
        (["--domain", "winter"], "--domain has no effect without BUNDLE"),
        (["summer-winter", "--pictures", "."], "no images in"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(run, arguments, fact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert fact in err
    assert "preparing" not in out


def test_what_cannot_be_made_is_named_and_the_first_must_be():
    def broken():
        raise DsmapError("no such thing here", "Buy one.")

    def inverts():
        return lambda frames: 255 - frames

    def copies():
        return lambda frames: 254 - np.minimum(frames, 254)

    image = np.full((4, 4, 3), 10, np.uint8)
    lines: list[str] = []
    makers = {"first": inverts, "broken": broken, "second": copies}
    measured = bench_model.measure_in_turns(makers, [image], 3, ["first"], lines.append)
    assert [row["name"] for row in measured["variants"]] == ["first", "second"]
    second = measured["variants"][1]
    assert second["psnr_db"] == pytest.approx(20 * np.log10(255), abs=0.01)
    assert second["largest_difference"] == 1
    assert measured["left_out"] == [{"name": "broken", "reason": "no such thing here"}]
    assert any("left out: no such thing here" in line for line in lines)
    with pytest.raises(DsmapError, match="no such thing"):
        bench_model.measure_in_turns({"broken": broken}, [image], 1, [], lines.append)


def test_images_are_cut_from_the_middle(tmp_path: Path):
    image = np.zeros((40, 160, 3), np.uint8)
    image[:, 70:90] = 200
    write_rgb(tmp_path / "a.png", image)
    (cut,), origin = bench_model.find_images(tmp_path, bench_model.FrameSize(32, 32), 8, 16)
    assert origin == "real"
    assert cut.shape == (32, 32, 3)
    assert cut[:, 15:17].min() > 150
    assert cut[:, :4].max() < 60


def test_sizes_are_width_then_height():
    assert bench_model.FrameSize.parse("640X360") == (640, 360)
    for text in ("x", "8x", "-8x8", "8x8x8", "٣x8"):
        with pytest.raises(InputError, match="--size is"):
            bench_model.FrameSize.parse(text)
