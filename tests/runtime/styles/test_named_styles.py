"""Named styles: written by the export, checked when read, found by their name in every command."""

import json
import os
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
import torch
from commands import call

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.export import bundle_writer
from dsmap.export.bundle_writer import write_bundle
from dsmap.export.named_styles import NamedStyle, add_named_styles, parse_named_styles
from dsmap.export.trained_model import TrainedModel
from dsmap.export.verify import generated_images
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import MANIFEST, Bundle, file_sha256, read_manifest
from dsmap.runtime.bundle.style_images import fit_style_image
from dsmap.runtime.live.session import SessionState
from dsmap.runtime.live.styles import LiveStyle, StyleMix, StyleSelector, style_list
from dsmap.runtime.live.translation import LoadedDirection
from dsmap.runtime.styles.resolver import ResolvedStyle, StyleResolver
from dsmap.runtime.styles.style_path import plan_style_path
from dsmap.tools import export, live, video
from dsmap.training.style_statistics import StyleStatistics


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A large one, a small one, and one much wider than high."""
    folder = tmp_path_factory.mktemp("styles")
    wide_rgb = np.concatenate(generated_images(40, 6, 3), axis=1)
    for name, rgb in (("snow", generated_images(150, 1)[0][:110]), ("dusk", wide_rgb), ("dot", wide_rgb[:9, :11])):
        write_rgb(folder / f"{name}.png", rgb)
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_bundle, images, tmp_path_factory) -> Path:
    """The tiny bundle with fresh-snow and dusk for winter, and another dusk for summer."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("models") / "tiny"))
    files = {file.path: file.sha256 for file in read_manifest(folder).files()}
    winter, summer = (
        [f"winter:fresh-snow={images / 'snow.png'}", f"winter:dusk={images / 'dusk.png'}"],
        [f"summer:dusk={images / 'dot.png'}"],
    )
    add_named_styles(folder, parse_named_styles([*winter, *summer]))
    assert files == {path.name: file_sha256(path) for path in folder.glob("*.onnx")}
    assert not list(folder.glob(".*"))
    return folder


@pytest.fixture(scope="module")
def translator(bundle) -> Translator:
    return Translator.load(bundle, domain="winter", backend="cpu", threads=1)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolver(folder: Path, domain: str = "winter") -> StyleResolver:
    return StyleResolver(Bundle.open(folder).manifest, domain)


# The bundle


@pytest.mark.parametrize(
    "name", ["mean", "Mean", "7", "2026", "a.b", "a/b", "", "-x", "a b", "\u017fnow", "x\n", "snö"]
)
def test_what_cannot_be_typed_safely_is_no_name(tiny_bundle, tmp_path, images, name):
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    tree = json.loads((folder / MANIFEST).read_text())
    tree["styles"]["winter"]["named"] = {name: [0.0, 0.0, 0.0]}
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(InputError, match="of winter is not a valid style name"):
        read_manifest(folder)
    with pytest.raises(InputError, match=r"is not a valid name for a style|is not DOMAIN:NAME=IMAGE"):
        parse_named_styles([f"winter:{name}={images / 'snow.png'}"])


@pytest.mark.parametrize(
    ("code", "fact"),
    [
        ([1.0], "the style snow-2_b of winter has 1 numbers, expected 3"),
        ([0.0, float("nan"), 0.0], "styles.winter.named.snow-2_b.1"),
        (None, ""),
    ],
)
def test_codes_are_checked(tiny_bundle, tmp_path, code, fact):
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    tree = json.loads((folder / MANIFEST).read_text())
    del tree["styles"]["summer"]["named"]  # as before there were any
    tree["styles"]["winter"]["named"] = {"snow-2_b": code or [1.0, 2.0, 3.0]}
    (folder / MANIFEST).write_text(json.dumps(tree))
    if fact:
        with pytest.raises(InputError) as caught:
            Bundle.read(folder)
        assert fact in caught.value.fact
        return
    styles = Bundle.read(folder).manifest.styles
    assert (styles["summer"].named, styles["winter"].named) == ({}, {"snow-2_b": [1.0, 2.0, 3.0]})
    assert read_manifest(folder).format_version == 2


# The export


def test_a_code_is_what_the_runtime_finds_for_the_image(bundle, translator, tiny_model, images):
    manifest = read_manifest(bundle)
    for name, file in (("fresh-snow", "snow.png"), ("dusk", "dusk.png")):
        np.testing.assert_allclose(translator.find_style(name), translator.find_style(images / file), atol=1e-7)
    rgb = fit_style_image(generated_images(150, 1)[0][:110], manifest.sizes)
    assert rgb.shape == (64, 80, 3)
    with torch.no_grad():
        x_nchw = torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        expected = tiny_model.encode_style(x_nchw, "winter")[0].numpy()
    np.testing.assert_allclose(manifest.styles["winter"].named["fresh-snow"], expected, atol=1e-5)
    assert len({tuple(code) for style in manifest.styles.values() for code in style.named.values()}) == 3


def test_an_export_writes_the_codes_and_no_image(tiny_model, tiny_bundle, bundle, images, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_writer, "write_graph", lambda graph, path, _: shutil.copy(tiny_bundle / path.name, path))
    statistics = {domain: StyleStatistics([0.0] * 3, [1.0] * 3, 2) for domain in ("summer", "winter")}
    chosen = [NamedStyle("winter", "fresh-snow", images / "snow.png")]
    source = TrainedModel(tiny_model, 64, statistics, {"summer": [], "winter": []}, {}, chosen)
    write_bundle(source, tmp_path / "made")
    made = Bundle.read(tmp_path / "made").manifest
    expected = read_manifest(bundle).styles["winter"].named["fresh-snow"]
    assert list(made.styles["winter"].named) == ["fresh-snow"]
    np.testing.assert_allclose(made.styles["winter"].named["fresh-snow"], expected, atol=1e-7)
    assert made.styles["summer"].named == {}
    assert "Named styles: fresh-snow (winter)." in made.card
    assert {path.suffix for path in (tmp_path / "made").iterdir()} == {".onnx", ".json", ".md"}
    with pytest.raises(InputError, match=r"winter-2:x: the model has no domain 'winter-2'"):
        write_bundle(source._replace(named_styles=[chosen[0]._replace(domain="winter-2", name="x")]), tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("texts", "fact"),
    [
        (["winter=snow.png"], "--named-style 'winter=snow.png' is not DOMAIN:NAME=IMAGE"),
        (["winter:snow="], "is not DOMAIN:NAME=IMAGE"),
        (["winter:a=gone.png"], "--named-style winter:a: Cannot read the image gone.png"),
        (["winter:a=text.png"], "--named-style winter:a: Cannot read the image text.png"),
        (["winter:a=snow.png", "winter:a=./snow.png"], "--named-style winter:a was passed twice"),
    ],
)
def test_the_option_is_checked_before_the_work(here, images, texts, fact):
    shutil.copy(images / "snow.png", here)
    (here / "text.png").write_text("no image")
    options = [word for text in texts for word in ("--named-style", text)]
    code, out, err = call(export, here, "-o", here / "made", *options)
    assert (code, out, len(err.splitlines())) == (2, "", 2)
    assert fact in err


def test_styles_are_added_to_a_bundle_that_is_there(bundle, images, tmp_path):
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    tree = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(tree | {"of_a_later_writer": 1}))
    option = "--named-style", f"winter:dusk={images / 'dot.png'}"
    code, _, err = call(export, folder, *option)
    assert (code, err.splitlines()[0]) == (2, f"error: {folder} already has a style winter:dusk")
    code, out, err = call(export, folder, *option, "--overwrite", "--report", tmp_path / "r.json")
    assert (code, out.splitlines()[0], err) == (0, "named styles of winter: dusk", "")
    got, before = json.loads((folder / MANIFEST).read_text()), tree["styles"]["winter"]["named"]
    after = got["styles"]["winter"]["named"]
    assert list(after) == ["fresh-snow", "dusk"]
    assert (after["fresh-snow"], got["of_a_later_writer"]) == (before["fresh-snow"], 1)
    assert after["dusk"] != before["dusk"]
    assert json.loads((tmp_path / "r.json").read_text())["named_styles"] == {"winter": {"dusk": after["dusk"]}}
    code, _, err = call(export, folder, "--named-style", f"autumn:red={images / 'dot.png'}")
    assert (code, "the model has no domain 'autumn'" in err) == (2, True)


# A text and what it stands for


def test_a_name_wins_over_a_file_and_a_path_is_the_file(translator, images, here):
    named = translator.find_style("fresh-snow")
    assert named.dtype == np.float32
    np.testing.assert_array_equal(translator.find_style("mean"), translator.find_style(None))
    for name in ("fresh-snow", "other", "mean"):
        shutil.copy(images / "dot.png", here / name)
    of_the_file = translator.find_style(images / "dot.png")
    np.testing.assert_array_equal(translator.find_style("fresh-snow"), named)
    for file in (f".{os.sep}fresh-snow", Path("fresh-snow"), "other", Path("mean")):
        np.testing.assert_array_equal(translator.find_style(file), of_the_file)
    assert np.abs(named - of_the_file).max() > 1e-3


def test_the_case_of_a_name_may_differ(bundle, translator, images, here):
    styles = resolver(bundle)
    name = next(iter(styles.named))
    found = styles.resolve(name.title(), "--style")
    assert (found.source, styles.resolve("Mean").source) == (name, None)
    np.testing.assert_array_equal(found.code, styles.resolve(name).code)
    shutil.copy(images / "dot.png", name.upper())  # a file of exactly that name
    assert styles.resolve(name.upper()).source == Path(name.upper())


def test_an_unknown_name_is_told_with_those_there_are(bundle, tiny_bundle, translator, here):
    before = translator.style
    with pytest.raises(InputError) as caught:
        translator.set_style("fresh-snw")
    assert (
        caught.value.fact
        == "tiny has no style fresh-snw for winter, and there is no such file; did you mean fresh-snow?"
    )
    assert caught.value.advice == "This model has fresh-snow, dusk for winter. Or pass an image, a seed, or mean."
    np.testing.assert_array_equal(translator.style, before)
    with pytest.raises(InputError, match=r"Cannot read the image gone\.png"):
        translator.find_style("gone.png")
    with pytest.raises(InputError, match="--style-to: fresh-snow is a style of winter, not of summer"):
        resolver(bundle, "summer").resolve("fresh-snow", "--style-to")
    with pytest.raises(InputError) as caught:
        resolver(tiny_bundle).resolve("fresh-snow", "--style")
    assert caught.value.advice.startswith("This model has no named styles for winter: pass an image, seed:NUMBER")
    with pytest.raises(InputError, match="no domain 'autumn'"):
        resolver(bundle, "autumn")


def test_names_in_a_path_and_files_beside_them(bundle, translator, images, here):
    styles = resolver(bundle)
    plan = plan_style_path(styles, cycle=["fresh-snow,mean", "dusk"], seconds=3)
    assert plan is not None
    assert [style.source for style in plan.styles] == ["fresh-snow", None, "dusk"]
    assert str(plan) == "fresh-snow, mean, dusk in turn, 3 s a round"
    assert plan.images() == []
    np.testing.assert_allclose(plan.load(translator.find_style)(2), translator.find_style("dusk"), atol=1e-6)
    for name in ("dusk", "snow.png"):
        shutil.copy(images / "snow.png", here / name)
    assert styles.resolve("snow.png").source == Path("snow.png")
    assert styles.resolve("./dusk").source == Path("dusk")
    assert (styles.resolve("dusk").source, styles.resolve("seed:7").source) == ("dusk", 7)
    assert [styles.resolve(text).shadows_file for text in ("dusk", "fresh-snow", "./dusk")] == [True, False, False]


def test_a_command_and_python_understand_a_style_alike(bundle, translator, images, here):
    shutil.copy(images / "snow.png", here / "7")
    for text in ("mean", "7", "seed:7", "fresh-snow", "./7", str(images / "dot.png")):
        typed = resolver(bundle).resolve(text, "--style")
        np.testing.assert_array_equal(translator.find_style(typed), translator.find_style(text))
    np.testing.assert_array_equal(translator.find_style("7"), translator.find_style(7))
    np.testing.assert_array_equal(translator.find_style("./7"), translator.find_style(Path("7")))
    resolved = resolver(bundle).resolve("./7")
    (here / "7").unlink()  # it was read when it was resolved
    assert translator.find_style(resolved).shape == (3,)


def test_a_style_that_was_resolved_for_another_domain_or_model_is_refused(bundle, translator, images):
    with pytest.raises(InputError, match="the style dusk is of summer"):
        translator.find_style(resolver(bundle, "summer").resolve("dusk"))
    with pytest.raises(InputError, match="the style mean is of summer"):
        translator.find_style(resolver(bundle, "summer").resolve(None))
    with pytest.raises(InputError, match="the style seed:7 is of another model than tiny"):
        translator.find_style(ResolvedStyle(source=7, written="seed:7", code=np.zeros(8, np.float32)))
    with pytest.raises(InputError, match="the style seed:7 is of summer"):
        translator.find_style(resolver(bundle, "summer").resolve(7))
    of_both = [resolver(bundle, domain).resolve(images / "dot.png") for domain in ("summer", "winter")]
    np.testing.assert_array_equal(*map(translator.find_style, of_both))


def test_the_manifest_is_read_once(bundle, monkeypatch):
    from dsmap.runtime.bundle import bundle as module

    reads = []
    monkeypatch.setattr(module, "read_manifest", lambda folder: reads.append(folder) or read_manifest(folder))
    opened = Bundle.open(bundle)
    style = StyleResolver(opened.manifest, "winter").resolve("dusk", "--style")
    loaded = Translator.load(opened, domain="winter", backend="cpu", threads=1, style=style)
    np.testing.assert_array_equal(loaded.style, opened.manifest.styles["winter"].named["dusk"])
    assert reads == [bundle]


def test_an_opened_bundle_is_checked_before_it_runs(bundle, tmp_path):
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    opened = Bundle.open(folder)
    (folder / "decoder.winter.onnx").write_bytes(b"other")
    with pytest.raises(InputError, match="has changed since it was exported"):
        Translator.load(opened, domain="winter", backend="cpu", threads=1)


# The commands


def test_a_video_in_a_named_style(bundle, images, here):
    clips.make_clip(here / "in.mp4", frames=3)
    usual = here / "in.mp4", "-d", "winter", "-m", bundle, "--backend", "cpu"

    def pixels(name: str, *arguments: object) -> tuple[str, bytes]:
        code, out, err = call(video, *usual, "-o", name, *arguments)
        assert (code, err) == (0, "")
        return out, (here / name).read_bytes()

    out, named = pixels("a.mkv", "--style", "fresh-snow", "--codec", "lossless", "--report", "r.json")
    assert "\nstyle: fresh-snow\n" in out
    assert json.loads((here / "r.json").read_text())["style"] == "fresh-snow"
    assert len(clips.read(here / "a.mkv").times) == 3
    shutil.copy(images / "dot.png", here / "fresh-snow")
    out, again = pixels("b.mkv", "--style", "fresh-snow", "--codec", "lossless")
    assert "\nstyle: fresh-snow (of the model; the file is ./fresh-snow)\n" in out
    assert again == named
    out, of_the_file = pixels("c.mkv", "--style", "./fresh-snow", "--codec", "lossless")
    assert "\nstyle: ./fresh-snow\n" in out
    assert of_the_file != named
    out, _ = pixels("d.mkv", "--style-from", "mean", "--style-to", "dusk")
    assert "\nstyle: mean to dusk\n" in out
    for options in (("--style", "dsk"), ("--style-from", "dsk", "--style-to", "mean"), ("--style-cycle", "mean,dsk")):
        code, out, err = call(video, *usual, "-o", "no.mp4", *options)
        fact = f"error: {options[0]}: tiny has no style dsk for winter, and there is no such file; did you mean dusk?"
        told = "This model has fresh-snow, dusk for winter. "
        told += "Or pass an image, seed:NUMBER for a random style, or mean."
        assert (code, out, err) == (2, "", f"{fact}\n{told}\n")


def test_live_has_the_styles_of_the_direction(bundle, here):
    clips.make_clip(here / "in.mp4", frames=5)
    usual = "-d", "winter", "-m", bundle, "--backend", "cpu", "--camera", here / "in.mp4", "--no-window", "--frames", 3
    code, _, err = call(live, *usual, "--style", "dusk", "--report", here / "r.json")
    assert (code, err) == (0, "")
    assert json.loads((here / "r.json").read_text())["style"] == "dusk"
    code, _, err = call(live, *usual, "--style", "noon")
    assert (code, err.splitlines()[0][:50]) == (2, "error: --style: tiny has no style noon for winter,")


NAMED = {"summer": ("dusk",), "winter": ("fresh-snow", "dusk")}


def test_the_list_of_styles_follows_the_direction():
    given = [("dusk", "dusk"), (Path("a/snow.jpg"), "a/snow.jpg"), (9, "seed:9")]
    styles = style_list([ResolvedStyle(source=source, written=written) for source, written in given], NAMED)
    session = SessionState(StyleSelector(styles, np.random.default_rng(0), "winter"), clock=lambda: 5.0)
    seen = []
    for _ in range(9):
        seen.append(session.style.label)
        session.press("s")
    assert seen == ["dusk", "snow.jpg", "seed 9", "mean", "fresh-snow", "seed 1", "seed 2", "seed 3", "seed 4"]
    assert session.style.first == LiveStyle("dusk", "dusk", "winter")
    session.turn_round("summer")
    assert session.style.first == LiveStyle("dusk", "dusk", "summer")
    session.turn_round("winter")
    for _ in range(4):
        session.press("s")
    assert (session.style.label, session.notices) == ("fresh-snow", [])
    session.turn_round("summer")
    assert (session.style.label, session.notices) == ("mean", ["summer has no style fresh-snow"])
    session.press("r")
    drawn = session.style
    session.turn_round("winter")
    assert session.style.first == drawn.first
    session.press("s")
    assert session.style.label == "fresh-snow"


def test_codes_of_both_directions(bundle):
    def load(domain: str) -> Translator:
        return Translator.load(bundle, domain=domain, backend="cpu", threads=1)

    styles = style_list([resolver(bundle).resolve("fresh-snow")], NAMED)
    snow, mean = styles[0], LiveStyle("mean", None)
    winter, summer = (LoadedDirection.load(load, domain, styles) for domain in ("winter", "summer"))
    np.testing.assert_array_equal(winter.codes.of(StyleMix(snow, snow, 0)), winter.translator.find_style("fresh-snow"))
    # Between the key and the first frame in the other direction.
    np.testing.assert_array_equal(summer.codes.of(StyleMix(snow, snow, 0)), summer.codes.of(StyleMix(mean, mean, 0)))
