"""`dsmap-eval model`: a bundle or a checkpoint, judged by its translations of unseen images in both directions."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_helpers import KERNEL, landscape, snowy, write_images
from tiny import squeezenet_weights
from typer.testing import CliRunner

from dsmap.common.images import read_rgb, resize_shorter_side, write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.export import bundle_writer
from dsmap.metrics.protocol import PROTOCOLS, Protocol, draw_styles, pick_contents
from dsmap.metrics.suite import load_metric_suite
from dsmap.runtime.backends.base import BackendSettings
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.translator import Translator
from dsmap.tools.eval import app
from dsmap.tools.eval.model import ModelEvaluation, evaluate_model, open_bundle
from dsmap.tools.eval.outputs import check_results_folder, results_folder
from dsmap.training.datasets import find_domains

pytestmark = pytest.mark.usefixtures("torch_alone")
SIDE = 64
EVERY = {
    KERNEL, "frechet_distance/squeezenet", "target_score", "edge_structure", "ssim", "feature_similarity",
}  # fmt: skip
DIVERSITY = "diversity/perceptual_distance"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of both domains, as trainA and so on, and a network."""
    root = tmp_path_factory.mktemp("model")
    for place, (name, count, share) in enumerate(
        (("trainA", 10, 0), ("trainB", 12, 1), ("testA", 6, 0), ("testB", 7, 1))
    ):
        images = {f"{name} {i}.png": snowy(landscape(100 * place + i, (72, 80)), share) for i in range(count)}
        write_images(root / "data" / name, images)
    np.savez(root / "net.npz", **squeezenet_weights())
    return root


def run(*arguments: object):
    return CliRunner().invoke(app, ["model", *map(str, arguments)])


def numbers_of(report) -> dict[str, dict[str, float]]:
    return {system.name: {m.metric.key: m.value for m in system.measured} for system in report.systems}


def measure(
    bundle: Bundle,
    folder: Path,
    tmp_path: Path,
    *,
    seed: int = 0,
    keep: bool = True,
    data: Path | None = None,
    height: int | None = None,
    **protocol,
):
    """The report of the direction to winter, in few images."""
    few = Protocol(**{"contents": 3, "pairs": 1, "pair_contents": 3, "seed": seed} | protocol)
    request = ModelEvaluation(
        protocol=few, preset="quick", named=False, target="winter", height=height, backend="cpu", precision="fp32",
        threads=1, keep=keep,
    )  # fmt: skip
    suite = load_metric_suite([folder / "net.npz"], None, pairs=few.pairs, seed=seed)
    (report,) = evaluate_model(bundle, find_domains(data or folder / "data"), suite, request, tmp_path, lambda _: None)
    return report


@pytest.fixture(scope="module")
def told(folder, tiny_bundle, tmp_path_factory):
    """What the command says and writes by the paper's protocol with fewer of everything."""
    out = tmp_path_factory.mktemp("out")
    done = run(
        tiny_bundle, "--data", folder / "data", "--features", folder / "net.npz", "--preset", "paper", "--threads", 1,
        "--backend", "cpu", "--contents", 4, "--styles", 2, "--repeats", 3, "--pairs", 1, "--results", out / "kept",
        "--report", out / "r.json", "--page", out / "p.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return done.output, json.loads((out / "r.json").read_text())["reports"], (out / "p.html").read_text(), out / "kept"


def test_both_directions_are_measured(told):
    said, reports, page, _ = told
    assert [report["title"] for report in reports] == ["tiny: summer to winter", "tiny: winter to summer"]
    for report, source, target in zip(reports, ("summer", "winter"), ("winter", "summer"), strict=True):
        systems = {system["name"]: system for system in report["systems"]}
        assert list(systems) == ["mean style", "styles of pictures", f"untranslated {source}", f"real {target}"]
        assert [system["baseline"] for system in systems.values()] == [False, False, True, True]
        assert set(systems["mean style"]["metrics"]) == EVERY | {"identity"}
        assert set(systems["styles of pictures"]["metrics"]) == EVERY | {DIVERSITY}
        assert f"<h1>tiny: {source} to {target}</h1>" in page
        assert f"{source} to {target}" in said
    assert page.count("From one style to another</h2>") == 2
    assert 'aria-label="Reports"' in page


def test_the_papers_protocol():
    paper = PROTOCOLS["paper"]
    assert (paper.contents, paper.styles, paper.repeats) == (100, 10, 10)
    assert (paper.pairs, paper.pair_contents) == (15, 100)
    assert pick_contents(paper, 152) == pick_contents(paper, 152, paper.pair_contents)
    drawn = [draw_styles(paper, repeat, 100, 121, 10) for repeat in range(10)]
    for styles in drawn:
        assert all(len(set(of_content)) == 10 for of_content in styles)
        assert len(set(map(tuple, styles))) == 100  # each content has its own
    assert len({str(styles) for styles in drawn}) == 10


def test_styles_and_repeats_are_those_of_the_protocol(told):
    report, kept = told[1][0], told[3] / "to-winter"
    styles = next(system for system in report["systems"] if system["name"] == "styles of pictures")["metrics"]
    # 4 contents in 2 styles each, 3 times; a pair of every content.
    assert styles["ssim"]["count"] == 4 * 2 * 3
    assert styles[KERNEL]["count"] == 4 * 2  # the mean of three distances of so many is none of three times as many
    assert styles[DIVERSITY]["count"] == 4 * 1 * 3
    repeats = report["raw"]["repeats"]
    for key, measured in styles.items():
        assert len(repeats[key]) == 3
        assert measured["value"] == pytest.approx(np.mean(repeats[key]))
        assert measured["low"] <= measured["value"] <= measured["high"]
    lent = [
        sorted(one["style"] for one in report["raw"]["results"]["styles of pictures"][8 * i : 8 * i + 8])
        for i in range(3)
    ]
    assert len({str(styles) for styles in lent}) == 3
    assert report["raw"]["protocol"] == {
        "contents": 4, "styles": 2, "repeats": 3, "pairs": 1, "pair_contents": 100, "seed": 0,
    }  # fmt: skip
    notes = " ".join(report["notes"])
    assert "means over 3 repeats" in notes
    assert "So are their intervals" in notes
    assert "Standard deviations between the repeats: kernel distance x1000" in notes
    assert "Images: mean style 4, styles of images 8, untranslated summer 4, real winter 7." in notes
    assert sorted(path.name for path in kept.iterdir()) == [
        "contents",
        "mean-style",
        "styles-0",
        "styles-1",
        "styles-2",
    ]
    assert {len(list((kept / f"styles-{i}").iterdir())) for i in range(3)} == {8}


def test_translations_are_kept_and_are_the_models(told, tiny_bundle, folder):
    out = told[3]
    assert f"translations: {out}" in told[0]
    assert not list(out.parent.glob(".*"))
    report = told[1][0]
    translator = Translator(Bundle.read(tiny_bundle), "winter", "cpu", settings=BackendSettings(threads=1))
    try:
        for system in ("mean style", "styles of pictures"):
            one = report["raw"]["results"][system][1]
            content = (
                out / "to-winter" / "contents" / f"{one['path'].split('/')[2].split('_')[0].removesuffix('.png')}.png"
            )
            style = folder / "data" / "testB" / f"{one['style']}.png" if one["style"] else None
            translator.set_style(style)
            expected = translator(read_rgb(content))
            assert np.array_equal(read_rgb(out / one["path"]), expected)
            assert content.stem[4:] == one["content"]
            assert min(expected.shape[:2]) == SIDE  # that of the training
    finally:
        translator.close()


def test_kept_translations_can_be_compared_again(told, folder, tmp_path):
    """The naming rule is that of `dsmap-eval images`, and the numbers against a reference of their size."""
    kept = told[3] / "to-winter"
    side = min(read_rgb(next((kept / "contents").iterdir())).shape[:2])
    reference = write_images(
        tmp_path / "reference",
        {path.name: resize_shorter_side(read_rgb(path), side) for path in (folder / "data" / "trainB").iterdir()},
    )
    done = CliRunner().invoke(
        app,
        ["images", f"again={kept / 'mean-style'}", str(kept / "styles-0"), "--content", str(kept / "contents"),
         "--reference", str(reference), "--features", str(folder / "net.npz"),
         "--report", str(kept.parent / "again.json")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    again = json.loads((kept.parent / "again.json").read_text())["systems"][0]["metrics"]
    first = told[1][0]["systems"][0]["metrics"]
    for key in EVERY - {"target_score"}:
        assert again[key]["value"] == pytest.approx(first[key]["value"], rel=1e-4, abs=1e-4)


def test_seeds_repeat_everything(folder, tiny_bundle, tmp_path):
    bundle = Bundle.read(tiny_bundle)
    reports = [measure(bundle, folder, tmp_path / str(i), seed=seed, keep=i > 0) for i, seed in enumerate((5, 5, 6))]
    assert [(tmp_path / str(i) / "to-winter").exists() for i in range(3)] == [False, True, True]
    first, again, other = reports
    assert first.systems == again.systems
    assert first.raw == again.raw
    assert numbers_of(first)["mean style"] == numbers_of(other)["mean style"]  # nothing is drawn for it
    styles = [[one["style"] for one in report.raw["results"]["styles of pictures"]] for report in reports]
    assert styles[0] == styles[1] != styles[2]


def test_a_checkpoint_gives_the_numbers_of_its_bundle(folder, checkpoint, exported, tmp_path, monkeypatch):
    """The export takes ten seconds: here it hands out what it has already made of the same run."""
    wanted = []

    def export_again(source, out, *, name):
        wanted.append((source.model.domains, source.trained_at, name))
        shutil.copytree(exported.folder, out)

    monkeypatch.setattr(bundle_writer, "write_bundle", export_again)
    with open_bundle(str(checkpoint), lambda _: None) as bundle:
        of_checkpoint = numbers_of(measure(bundle, folder, tmp_path / "a", contents=2))
        scratch = bundle.folder
    whole = Bundle.read(exported.folder)
    assert wanted == [(("summer", "winter"), whole.manifest.sizes.trained_at, "run")]
    assert not scratch.exists()
    assert of_checkpoint == numbers_of(measure(whole, folder, tmp_path / "b", contents=2))


def test_images_that_were_trained_on_are_told(folder, tiny_bundle, tmp_path):
    data = tmp_path / "data"
    for name in ("trainA", "trainB"):
        (data / name).mkdir(parents=True)
        for path in (folder / "data" / name).iterdir():
            (data / name / path.name).symlink_to(path)
    (tmp_path / "net.npz").symlink_to(folder / "net.npz")
    report = measure(Bundle.read(tiny_bundle), tmp_path, tmp_path / "out", contents=20)
    notes = " ".join(report.notes)
    assert "There are no test images of summer: the model may have been trained on these contents." in notes
    assert "There are no test images of winter: the model may have been trained on these styles." in notes
    assert "10 contents are translated, not 20: there are no more." in notes
    assert "Distances are of few images (10 results, 12 of the reference)" in notes
    assert "real winter" not in numbers_of(report)
    assert DIVERSITY in numbers_of(report)["styles of images"]


def test_two_images_of_one_name(folder, tiny_bundle, tmp_path):
    """A style's name alone would overwrite one translation by another; a long name cannot be that of a file."""
    long = "0 lake " + "é" * 100
    for name, count in (("trainA", 8), ("trainB", 8)):
        images = {f"{i // 2}.{'png' if i % 2 else 'jpg'}": landscape(i) for i in range(count)}
        write_images(tmp_path / "data" / name, images | {f"{long}.png": landscape(50)})
    (tmp_path / "net.npz").symlink_to(folder / "net.npz")
    report = measure(Bundle.read(tiny_bundle), tmp_path, tmp_path / "out", contents=2, styles=9)
    counts = {m.metric.key: m.count for m in report.systems[1].measured}
    assert counts[KERNEL] == 2 * 9
    assert len({one["path"] for one in report.raw["results"]["styles of pictures"]}) == 2 * 9
    assert report.raw["results"]["mean style"][0]["content"] == long


@pytest.mark.parametrize(
    ("arguments", "fact", "advice"),
    [
        ("nowhere --data data", "no model or bundle named 'nowhere'", "Known models"),
        ("data --data data", "data is not a bundle", "dsmap-export"),
        ("BUNDLE --data nowhere", "The folder nowhere does not exist", "trainA"),
        ("BUNDLE --data data --domains a,b", "of a and b, the model of summer and winter", "--domains summer,winter"),
        ("BUNDLE --data data --to spring", "no domain 'spring'", "--to summer or --to winter"),
        ("BUNDLE --data data --preset long", "no preset named 'long'", "quick, paper"),
        ("BUNDLE --data data --results data", "--results data exists and is not empty", "new folder"),
        ("BUNDLE --data data --report nowhere/r.json", "nowhere does not exist", "--report"),
        ("BUNDLE --data data --precision int4", "has no int4 graphs", "Use --precision fp32"),
        ("BUNDLE --domain summer=data/trainA --domain winter=few", "3 images of winter to compare with", "more"),
        ("BUNDLE --domain summer=one --domain winter=data/trainB --to winter", "one image of summer", "more"),
    ],
)
def test_wrong_input_is_told(folder, tiny_bundle, monkeypatch, arguments, fact, advice):
    write_images(folder / "few", {f"{i}.png": landscape(i) for i in range(3)})
    write_images(folder / "one", {"0.png": landscape(0)})
    monkeypatch.chdir(folder)
    before = sorted(Path().rglob("*"))
    done = run(*arguments.replace("BUNDLE", str(tiny_bundle)).split(), "--features", "net.npz")
    assert done.exit_code == 2, done.output
    error = done.stderr.strip().splitlines()
    assert len(error) == 2
    assert fact in error[0]
    assert advice in error[1]
    assert sorted(Path().rglob("*")) == before


def test_translations_appear_whole_or_not_at_all(tmp_path):
    def stopped():
        with results_folder(tmp_path / "kept") as part:
            (part / "a.png").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    check_results_folder(tmp_path / "kept")
    with results_folder(tmp_path / "kept") as part:
        (part / "a.png").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["kept", "kept/a.png"]
    for name in ("kept", "kept/a.png"):
        with pytest.raises(InputError, match="--results"):
            check_results_folder(tmp_path / name)

    def together():
        with results_folder(tmp_path / "both") as part:
            (part / "mine.png").touch()
            (tmp_path / "both").mkdir()
            (tmp_path / "both" / "another's.png").touch()

    with pytest.raises(DsmapError, match="filled meanwhile"):
        together()
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["another's.png"]
    assert (tmp_path / "both-2" / "mine.png").exists()  # half an hour's work


def test_images_of_any_size_are_compared_at_the_size_of_the_translations(folder, tiny_bundle, tmp_path):
    """Else a camera's images are told from translations by their size alone."""
    large = tmp_path / "data"
    for path in (folder / "data").rglob("*.*"):
        image_rgb = read_rgb(path)
        out = large / path.relative_to(folder / "data").with_suffix(".png")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_rgb(out, np.repeat(np.repeat(image_rgb, 4, 0), 4, 1))  # which area averaging undoes exactly
    same = tmp_path / "same"
    for path in large.rglob("*.png"):
        image_rgb = read_rgb(path)
        (same / path.relative_to(large)).parent.mkdir(parents=True, exist_ok=True)
        write_rgb(same / path.relative_to(large), image_rgb[::4, ::4])
    side = {"height": min(read_rgb(next(same.rglob("*.png"))).shape[:2])}
    reports = []
    for data in (same, large):
        work = tmp_path / f"work-{data.name}"
        work.mkdir()
        reports.append(numbers_of(measure(Bundle.read(tiny_bundle), folder, work, data=data, **side)))
    for name in set(reports[0]) - {"styles of images"}:  # styles are taken from the images as they are
        assert reports[0][name] == reports[1][name]


def test_ctrl_c_leaves_nothing(folder, tiny_bundle, tmp_path):
    command = [
        sys.executable, "-u", "-m", "dsmap.tools.eval", "model", str(tiny_bundle), "--data", str(folder / "data"),
        "--features", str(folder / "net.npz"), "--preset", "paper", "--results", "kept", "--page", "p.html",
    ]  # fmt: skip
    own, scratch = (tmp_path / name for name in ("own", "scratch"))
    own.mkdir()
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=own, env=environment
    ) as process:
        for line in process.stdout:
            if "translating" in line:
                process.send_signal(signal.SIGINT)
                break
        _, told = process.communicate()
    assert process.returncode == 130
    assert told.splitlines() == ["stopped by you before the end", "Run the same command to start again."]
    assert list(own.iterdir()) == []
    assert list(scratch.glob("dsmap-eval*")) == []


def test_a_protocol_needs_numbers():
    with pytest.raises(InputError, match="styles is 0, expected 1 or more"):
        replace(PROTOCOLS["quick"], styles=0)
    assert [sorted(styles) for styles in draw_styles(PROTOCOLS["paper"], 0, 2, 3, 10)] == [[0, 1, 2]] * 2
