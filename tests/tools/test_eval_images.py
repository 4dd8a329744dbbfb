"""`dsmap-eval images`: folders of results from anywhere, of one system or several."""

import json
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_helpers import KERNEL, TinyInception, landscape, saved, snowy, write_images
from tiny import squeezenet_weights
from typer.testing import CliRunner

from dsmap.errors import InputError
from dsmap.metrics.comparison import FolderComparison, SystemFolder, compare_folders
from dsmap.metrics.report.grids import shorten
from dsmap.metrics.suite import load_metric_suite
from dsmap.tools.eval import app
from dsmap.tools.eval.images import parse_system

pytestmark = [
    pytest.mark.usefixtures("torch_alone"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]
FRECHET = "frechet_distance/squeezenet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A network, contents (summer), a reference (winter), and more images of both."""
    root = tmp_path_factory.mktemp("evaluated")
    classifier = {
        "conv10.weight": np.random.default_rng(5).standard_normal((20, 9, 1, 1)).astype(np.float32),
        "conv10.bias": np.zeros(20, np.float32),
    }
    np.savez(root / "net.npz", **squeezenet_weights() | classifier)
    write_images(root / "contents", {f"lake {i}.png": landscape(i) for i in range(12)})
    write_images(root / "summer", {f"{i}.png": landscape(i + 200) for i in range(20)})
    write_images(root / "winter", {f"{i}.png": snowy(landscape(i + 300), 1) for i in range(40)})
    return root


def run(*arguments: object):
    return CliRunner().invoke(app, ["images", *map(str, arguments)])


def measure(folder: Path, *systems: SystemFolder, content: Path | None = None, reference: Path | None = None, **other):
    """The report, of the tiny network."""
    request = FolderComparison(systems=systems, reference=reference or folder / "winter", content=content)
    suite = load_metric_suite([folder / "net.npz"], None, **{"pairs": 2, "seed": 0} | other)
    return compare_folders(request, suite, say=lambda _: None)


def value(report, name: str, key: str) -> float:
    system = next(system for system in report.systems if system.name == name)
    return next(measured.value for measured in system.measured if measured.metric.key == key)


def test_four_systems_from_anywhere_come_out_in_their_order(folder, tmp_path):
    """Another size than the reference's, other names and suffixes, subfolders, and numbers of results."""
    contents = [landscape(i, (80, 96)) for i in range(30)]
    write_images(tmp_path / "good", {f"sub/{i}_out.jpg": snowy(x, 1) for i, x in enumerate(contents)})
    write_images(tmp_path / "fair", {f"fake {i}.png": snowy(x, 0.7) for i, x in enumerate(contents)})
    write_images(tmp_path / "poor", {f"{i}/a.webp": snowy(x, 0.35) for i, x in enumerate(contents[:24])})
    write_images(tmp_path / "none", {f"x{i:03d}.png": x for i, x in enumerate(contents)})
    names = ["poor", "good", "none", "fair"]
    report = measure(folder, *(SystemFolder(name, tmp_path / name) for name in names))
    assert [system.name for system in report.systems] == names
    for key in (KERNEL, FRECHET):
        values = {name: value(report, name, key) for name in names}
        assert sorted(names, key=values.get) == ["good", "fair", "poor", "none"], values
        assert {m.count for system in report.systems for m in system.measured} == {24}
    assert "good: 24 of 30 results are compared, as many as of the other systems." in report.notes
    assert any("they need --content" in note for note in report.notes)
    assert [grid.title for grid in report.grids] == ["Results"]


def test_identical_halved_and_tinted_folders(folder, tmp_path):
    images = [snowy(landscape(i + 300), 1) for i in range(40)]
    tint = [(p * np.array((1, 0.6, 0.6)) + (60, 0, 0)).clip(0, 255).astype(np.uint8) for p in images[::2]]
    same, half, other, tinted = (
        write_images(tmp_path / name, {f"{i}.png": p for i, p in enumerate(found)})
        for name, found in (("same", images), ("half", images[::2]), ("other", images[1::2]), ("tinted", tint))
    )
    for key in (KERNEL, FRECHET):
        assert value(measure(folder, SystemFolder("same", same)), "same", key) == pytest.approx(0, abs=1e-3)
    report = measure(folder, SystemFolder("half", half), SystemFolder("tinted", tinted), reference=other)
    kernel = next(m for m in report.systems[0].measured if m.metric.key == KERNEL)
    assert kernel.interval.low < 0 < kernel.interval.high
    for key in (KERNEL, FRECHET):
        assert value(report, "tinted", key) > 20 * abs(value(report, "half", key))


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    """What the command says and writes of three systems, one of which does not tell its contents."""
    out = tmp_path_factory.mktemp("out")
    contents = {i: landscape(i) for i in range(12)}
    write_images(
        folder / "ours", {f"lake {i}_s{k}.png": snowy(x, 1 - 0.3 * k) for i, x in contents.items() for k in (0, 1, 2)}
    )
    theirs = {f"lake {i}/{k}.jpg": snowy(x, 0.4) for i, x in contents.items() if i for k in (0, 1)}
    write_images(folder / "theirs", theirs | {"grid.png": landscape(1)})
    write_images(folder / "unnamed", {f"{i:x}.png": snowy(x, 0.2) for i, x in contents.items()})
    done = run(
        folder / "ours", f"theirs={folder / 'theirs'}", folder / "unnamed", "--reference", folder / "winter",
        "--content", folder / "contents", "--source", folder / "summer", "--features", folder / "net.npz",
        "--pairs", "3", "--report", out / "r.json", "--page", out / "p.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return done.output, json.loads((out / "r.json").read_text()), (out / "p.html").read_text()


def test_the_same_contents_and_styles_of_every_system(told):
    said, report, _ = told
    assert [system["name"] for system in report["systems"]] == ["ours", "theirs", "unnamed", "untranslated"]
    ours, theirs, unnamed, untranslated = (system["metrics"] for system in report["systems"])
    # The 12 results of the third system allow 6 contents with two results each.
    assert ours[KERNEL]["count"] == theirs[KERNEL]["count"] == unnamed[KERNEL]["count"] == 12
    assert untranslated[KERNEL]["count"] == 6
    assert ours["edge_structure"]["count"] == 12
    assert "edge_structure" not in unnamed
    assert "edge_structure" not in untranslated
    # Pairs of all results of these contents, also of those that are not compared: 3 of ours, 1 of theirs.
    assert (ours["diversity/perceptual_distance"]["count"], theirs["diversity/perceptual_distance"]["count"]) == (18, 6)
    assert ours["target_score"]["value"] >= untranslated["target_score"]["value"]
    for metrics in (ours, theirs, unnamed):
        for measured in metrics.values():
            assert measured["low"] <= measured["value"] <= measured["high"]
    assert 0 <= ours["target_score"]["low"] <= ours["target_score"]["high"] <= 1
    notes = " ".join(report["notes"])
    assert "theirs: 1 of 23 results belong to no content" in notes
    assert "11 of 12 contents are compared" in notes
    assert "unnamed: no result has the name of a content (the first is 0.png)" in notes
    assert "Images: ours 12, theirs 12, unnamed 12, untranslated 6." in notes
    assert "edge structure" in said
    assert "NOT comparable" in said


def test_single_results_are_in_the_json(told):
    results = told[1]["raw"]["results"]
    assert {len(found) for found in results.values()} == {12}
    first = results["ours"][0]
    assert (first["content"], first["style"]) == ("lake 1", "s0")
    assert Path(first["path"]).name == "lake 1_s0.png"
    assert set(first) == {"path", "content", "style", "edge_structure", "ssim", "feature_similarity", "target_score"}
    mean = np.mean([one["ssim"] for one in results["ours"]])
    assert mean == pytest.approx(told[1]["systems"][0]["metrics"]["ssim"]["value"], abs=1e-3)
    assert results["unnamed"][0]["content"] is None


def test_the_page_shows_the_systems_side_by_side(told):
    page = told[2]
    sections = re.findall(r"<h2>([^<]+)</h2>", page)
    assert sections == [
        "Numbers", "Definitions", "Side by side", "Results", "ours: the worst 10", "theirs: the worst 10",
        "unnamed: the worst 10",
    ]  # fmt: skip
    # 6 contents beside 2 systems, 6 images of the third, and the worst with their contents where they are known.
    assert page.count("<img ") == 6 * 3 + 6 + 20 + 20 + 10
    assert "probability of the target" in page


def test_a_single_system_is_shown_in_its_styles(folder, told):
    ours = SystemFolder("ours", folder / "ours", "lake 1*")
    report, again, other = (measure(folder, ours, content=folder / "contents", seed=seed) for seed in (3, 3, 4))
    assert report.title == "Results of ours"
    assert report.grids[0].rows == ("lake 1", "lake 10", "lake 11")
    assert report.grids[0].columns == ("content", "s0", "s1", "s2")
    worst = report.grids[1]
    assert (worst.rows, len(worst.columns)) == (("content", "result", "content", "result"), 5)
    assert worst.captions[0][0].startswith("lake 1")
    assert worst.captions[1][0].startswith("style s")
    assert again.systems == report.systems
    assert other.systems != report.systems  # other pairs of results, other resamplings


def test_two_networks_beside_each_other(folder, told, tmp_path):
    """Inception is known by its file alone: another network under its interface gives no FID."""
    network = saved(TinyInception(), tmp_path / "inception.pt")
    request = FolderComparison(
        systems=(SystemFolder("ours", folder / "ours", "lake 1*"),),
        reference=folder / "winter",
        content=folder / "contents",
    )
    suite = load_metric_suite([network, folder / "net.npz"], None, pairs=1, seed=0, run_code=True)
    both = compare_folders(request, suite, say=lambda _: None)
    titles = {m.metric.key: m.metric.title for m in both.systems[0].measured}
    assert titles["kernel_distance/inception"] == "kernel distance x1000 (inception)"
    assert titles["frechet_distance/squeezenet"] == "Frechet distance"
    assert "feature_similarity" in titles
    suite = load_metric_suite([network], None, pairs=1, seed=0, run_code=True)
    alone = compare_folders(request, suite, say=lambda _: None)
    keys = [m.metric.key for m in alone.systems[0].measured]
    assert keys == ["kernel_distance/inception", "frechet_distance/inception", "edge_structure", "ssim"]
    assert any("need a SqueezeNet .npz" in note for note in alone.notes)
    assert value(alone, "ours", "kernel_distance/inception") == value(both, "ours", "kernel_distance/inception")


def test_what_looks_wrong_is_told(folder, tmp_path):
    contents = {i: landscape(i) for i in range(12)}
    real = {f"lake {i}_real_A.jpg": x for i, x in contents.items()}
    fake = {f"lake {i}_fake_B.png": cv2.resize(snowy(x, 1), (40, 40)) for i, x in contents.items()}
    write_images(tmp_path / "cyclegan", real | fake)
    report = measure(folder, SystemFolder("cyclegan", tmp_path / "cyclegan"), content=folder / "contents")
    assert any("cyclegan: 12 of 24 results are their contents unchanged, the first lake 0" in n for n in report.notes)
    report = measure(folder, parse_system(f"{tmp_path}/cyclegan/*_fake_B.png"), content=folder / "contents")
    told = " ".join(report.notes)
    assert "unchanged" not in told
    assert "cyclegan: its results are smaller than the reference" in told
    assert "Distances are of few images (12 results, 40 of the reference)" in told
    assert "Diversity is not measured: no content has two results." in told
    write_images(
        tmp_path / "odd", {f"{i}.png": x for i, x in contents.items()} | {"grid.png": np.zeros((64, 300, 3), np.uint8)}
    )
    assert any(
        "1 of 13 images have another shape than the rest" in n
        for n in measure(folder, SystemFolder("odd", tmp_path / "odd")).notes
    )


def test_results_of_one_content_in_several_sizes(folder, tmp_path):
    """Distances between images need one size; none of these is a reason to stop."""
    for i in range(4):
        x = snowy(landscape(i), 1)
        write_images(
            tmp_path,
            {f"lake {i}_a.png": x, f"lake {i}_b.jpg": cv2.resize(x, (100, 70)), f"lake {i}_c.png": x[:20, :30]},
        )
    grey = np.repeat(landscape(1).mean(2, keepdims=True), 3, axis=2)
    cv2.imwrite(str(tmp_path / "lake 1_a.png"), grey[..., 0].astype(np.uint16) * 257)
    report = measure(folder, SystemFolder("ours", tmp_path), content=folder / "contents")
    assert value(report, "ours", "diversity/perceptual_distance") > 0
    assert report.systems[0].notes == ("8 of 12 results have another shape than their contents.",)


def test_systems_as_they_are_passed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "a=b").mkdir()
    (tmp_path / "[x]").mkdir()
    assert parse_system("out/") == SystemFolder("out", Path("out"))
    assert parse_system("munit=out") == SystemFolder("munit", Path("out"))
    assert parse_system("a=b") == SystemFolder("a=b", Path("a=b"))
    assert parse_system("[x]") == SystemFolder("[x]", Path("[x]"))
    assert parse_system("gan=out/*_B.png") == SystemFolder("gan", Path("out"), "*_B.png")
    assert parse_system("out/*_B.png") == SystemFolder("out", Path("out"), "*_B.png")
    assert parse_system(".") == SystemFolder(tmp_path.name, Path("."))
    with pytest.raises(InputError, match="two systems are called out"):
        FolderComparison(systems=(parse_system("out"), parse_system("./out")), reference=tmp_path)


def test_what_is_left_out_is_told_and_in_the_report(folder, tmp_path):
    results = write_images(tmp_path / "ours", {f"lake {i}.png": landscape(i) for i in range(4)})
    (results / "notes.txt").touch()
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (results / "lake 9.png").write_bytes(bomb)
    said = []
    request = FolderComparison(
        systems=(SystemFolder("ours", results),), reference=folder / "winter", content=folder / "contents"
    )
    suite = load_metric_suite([folder / "net.npz"], None, pairs=0, seed=0)
    report = compare_folders(request, suite, say=said.append)
    lines = [f"1 file left out of {results}: 1 .txt", f"{results / 'lake 9.png'} is left out: 60000x60000 pixels"]
    for line in lines:
        assert any(one.startswith(line) for one in said)
        assert any(one.startswith(line) for one in report.notes)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ("winter --reference winter", "no feature network was passed"),
        ("nowhere --reference winter --features net.npz", "the folder of results nowhere does not exist"),
        ("winter --reference nowhere --features net.npz", "the reference folder nowhere does not exist"),
        ("winter --reference empty --features net.npz", "no images in the reference folder empty"),
        ("winter/0.png --reference winter --features net.npz", "winter/0.png is a file"),
        ("winter --reference winter --content summer/ --features net.npz --page no/p.html", "does not exist"),
        ("winter --reference winter --content contents --features net.npz", "no result has the name of a content"),
        ("one --reference winter --features net.npz", "needs two results or more, got 1"),
        ("winter --reference one --features net.npz", "needs two reference images or more, got 1"),
        ("broken --reference winter --features net.npz", "Cannot read the image broken/1.png"),
        ("winter --reference broken --features net.npz", "Cannot read the image broken/1.png"),
        (
            "many three --reference winter --content contents --features net.npz",
            "all results of many that can be compared",
        ),
        ("winter --reference winter --features net.npz --features net.npz", "two feature networks of one kind"),
        ("winter --reference winter --features net.npz --lpips best", "'best' is not a valid LPIPS network"),
        ("winter --reference winter --features net.npz --lpips alex --pairs 0", "--pairs is 0"),
        ("winter --reference winter --features net.npz --report same --page same", "both name same"),
        ("winter --reference winter --features net.npz --report winter", "--report winter is the reference folder"),
        ("winter --reference winter --features net.npz --page net.npz", "--page net.npz is a feature network"),
    ],
)
def test_wrong_input_is_told(folder, monkeypatch, arguments, fact):
    (folder / "empty").mkdir(exist_ok=True)
    write_images(folder / "one", {"0.png": landscape(0)})
    write_images(folder / "broken", {f"{i}.png": landscape(i) for i in range(3)})
    write_images(folder / "many", {f"lake {i}_{style}.png": landscape(i) for i in range(12) for style in "ab"})
    write_images(folder / "three", {f"{name}.png": landscape(3) for name in "xyz"})
    (folder / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(folder)
    done = run(*arguments.split())
    assert done.exit_code == 2, done.output
    error = done.stderr.strip().splitlines()
    assert error[-2].startswith("error: ")
    assert fact in error[-2]
    assert len(error) == 2


def test_labels_are_short():
    assert shorten("lake") == "lake"
    assert shorten("2013-05-22_00_17_20_to_2014-08-19") == "2013-05-22_00_1…14-08-19"


def test_lpips_needs_torchvision(folder, monkeypatch):
    """Told before any work, with what to do."""
    lpip = pytest.importorskip("torchmetrics.image.lpip")

    def fails(*_arguments, **_options):
        raise ModuleNotFoundError("no torchvision")

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", fails)
    done = run(folder / "winter", "--reference", folder / "winter", "--features", folder / "net.npz", "--lpips", "alex")
    assert done.exit_code == 1
    assert "LPIPS needs torchmetrics and torchvision" in done.stderr
