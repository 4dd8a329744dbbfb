"""Imported generators of CycleGAN as bundles: what they compute, and what a model without styles answers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from browser_model import open_model, translate
from browsers import browser, make_site, open_page, served

from dsmap.errors import InputError
from dsmap.export import bundle_writer, int8_search, precision_check
from dsmap.export.graphs import write_graph
from dsmap.export.import_request import ImportRequest
from dsmap.export.import_run import import_model
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.jobs.options import ModelOptions, StyleOptions
from dsmap.runtime.jobs.request import resolve_request
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.translator import Translator
from dsmap.tools import importer
from dsmap.tools.export import command as export_command
from dsmap.tools.video import command as video_command
from tests.commands import call
from tests.foreign_generators import cyclegan_forward, cyclegan_state
from tests.tiny import squeezenet_weights

STATES = {"winter": cyclegan_state(seed=1), "summer": cyclegan_state(seed=2)}


def photo(height, width, seed=0):
    """Smooth colours: an image on which half precision can be judged."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cyclegan")
    for target, state in STATES.items():
        torch.save(state, folder / f"to-{target}.pth")
    return folder


@pytest.fixture(scope="module")
def both(made_once, checkpoints):
    """A bundle of both directions."""

    def make(folder: Path) -> None:
        request = ImportRequest(
            checkpoints=[checkpoints / "to-winter.pth", checkpoints / "to-summer.pth"],
            domains=("summer", "winter"),
            out=folder / "both",
            size=48,
        )
        import_model(request)

    return Bundle.read(made_once("cyclegan-both", make) / "both")


@pytest.fixture(scope="module")
def one(made_once, checkpoints, both):
    """A bundle of one direction, in half precision and int8 too, by the command; images for it lie beside."""

    def copy(graph, path, templates=None):  # torch needs seconds for each graph, and `both` has those in float32
        known = both.folder / path.name
        shutil.copy(known, path) if known.exists() else write_graph(graph, path, templates)

    def make(folder: Path) -> None:
        for name in ("trainA", "trainB"):
            (folder / "data" / name).mkdir(parents=True)
            for i in range(4):
                cv2.imwrite(str(folder / "data" / name / f"{i}.png"), photo(48, 64, i))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(precision_check, "_FULL_HD", (64, 96))
            patch.setattr(int8_search, "TARGETS_DB", {"psnr": 25, "worst_psnr": 25})  # the search for layers takes long
            patch.setattr(bundle_writer, "write_graph", copy)
            done = call(importer, checkpoints / "to-winter.pth", "--domains", "summer,winter", "-o", folder / "one",
                        "--size", 48, "--data", folder / "data", "--fp16", "--int8", "--licence", "mit",
                        "--force")  # fmt: skip
        assert done[0] == 0, done
        (folder / "said.txt").write_text(done[1] + done[2])

    return Bundle.read(made_once("cyclegan-one", make) / "one")


def test_a_bundle_translates_as_the_checkpoints_do(both):
    assert both.manifest.targets == ("summer", "winter")
    assert both.manifest.verification["checks"]["chain summer to winter"]["psnr_db"] >= 50
    for target in both.domains:
        with Translator.load(both, domain=target, backend="cpu", threads=1) as translator:
            for height, width in ((16, 16), (48, 64), (20, 36)):
                frame = photo(height, width, height)
                expected = cyclegan_forward(STATES[target], frame)
                got = translator(frame).astype(int)
                assert expected.std() > 20
                assert np.abs(got - expected).max() <= 1
                assert (got != expected).mean() < 0.01
            batch = np.stack([photo(33, 41), photo(33, 41, 1)])
            assert translator(batch).shape == (2, 33, 41, 3)
            assert np.abs(translator(batch)[1].astype(int) - translator(batch[1])).max() <= 1
            assert translator(photo(9, 70)).shape == (9, 70, 3)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_other_backends_agree(both, backend):
    pytest.importorskip(backend)
    frame = photo(24, 40)
    with Translator.load(both, domain="winter", backend=backend, precision="fp32", threads=1) as translator:
        assert np.abs(translator(frame).astype(int) - cyclegan_forward(STATES["winter"], frame)).max() <= 1


def test_the_graph_for_gpus_agrees(both):
    from tests.runtime.backends.test_gpu_backends import BoundOnTheCpu

    backend = BoundOnTheCpu(both, "winter")
    for height in (24, 32, 24):
        frame = photo(height, 40, height)
        got = backend.translate(frame[None], np.zeros((1, 0), np.float32))[0]
        assert np.abs(got.astype(int) - cyclegan_forward(STATES["winter"], frame)).max() <= 1
    backend.close()


def test_one_direction(one):
    manifest = one.manifest
    assert manifest.targets == ("winter",)
    assert {path.name for path in one.folder.glob("*.onnx")} == {
        f"{part}{precision}.onnx"
        for part in ("content_encoder.summer", "decoder.winter")
        for precision in ("", ".fp16", ".int8")
    }
    said = (one.folder.parent / "said.txt").read_text()
    assert "to-winter.pth: to winter, CycleGAN's ResNet generator of 2 blocks, width 8" in said
    assert "style" not in said
    assert "next: dsmap-video INPUT --model " in said
    card = (one.folder / "README.md").read_text()
    assert "license: mit" in card
    assert "from summer to winter (CycleGAN" in card
    assert "--domain winter\n" in card
    frame = photo(48, 64, 9)
    expected = cyclegan_forward(STATES["winter"], frame).astype(float)
    for precision, least in (("fp32", 50), ("fp16", 40), ("int8", 25)):
        with Translator.load(one, domain="winter", backend="cpu", precision=precision, threads=1) as translator:
            error = ((translator(frame) - expected) ** 2).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > least, precision
    with pytest.raises(InputError, match="does not translate to summer") as refusal:
        Translator.load(one, domain="summer", backend="cpu")
    assert refusal.value.advice == "Pass --domain winter."
    with pytest.raises(InputError, match="no domain 'autumn'"):
        Translator.load(one, domain="autumn", backend="cpu")


def test_one_direction_needs_no_domain(one, both, tmp_path):
    """It is chosen, and said in the first line."""
    picture = tmp_path / "in.png"
    cv2.imwrite(str(picture), photo(32, 32))
    with Translator.load(one, backend="cpu", precision="fp32", threads=1) as translator:
        assert translator.target == "winter"
    code, out, err = call(video_command, picture, "-m", one.folder, "--backend", "cpu")
    assert (code, (tmp_path / "in-winter.png").exists()) == (0, True), err
    assert out.splitlines()[0].startswith("one: summer -> winter, 32x32")
    code, _, err = call(video_command, picture, "-m", both.folder, "--backend", "cpu")
    assert code == 2
    assert "Pass --domain summer or --domain winter." in err


def test_what_needs_a_style_says_that_there_are_none(both, tmp_path):
    picture = tmp_path / "in.png"
    cv2.imwrite(str(picture), photo(32, 32))
    model = ModelOptions(model=str(both.folder), domain="winter", backend="cpu")

    def resolve(style=None, **changed):
        options = ModelOptions(model=model.model, domain="winter", backend="cpu", **changed)
        return resolve_request([str(picture)], tmp_path / "out.png", model=options, style=style)

    assert resolve().style.is_default
    for option, style in {
        "--style": StyleOptions(style=str(picture)),
        "--seed": StyleOptions(seed=3),
        "--style-cycle": StyleOptions(style_cycle=["seed:1,seed:2"]),
        "--style-from": StyleOptions(style_from="mean", style_to="seed:2"),
    }.items():
        with pytest.raises(InputError, match=f"the model both has no styles, which {option} needs"):
            resolve(style)
    with pytest.raises(InputError, match="no styles, which --strength needs"):
        resolve(strength=0.5)
    with Translator.load(both, domain="winter", backend="cpu", threads=1) as translator:
        assert translator.style.size == 0
        for style in (3, "fresh-snow", photo(32, 32), np.zeros(8, np.float32)):
            with pytest.raises(InputError, match="has no styles"):
                translator.set_style(style)
        with pytest.raises(InputError, match="no styles, which a strength below 1 needs"):
            StrengthTranslator(translator, 0.5)
        translator.set_style(None)


def test_a_preview_shows_the_one_translation(both, tmp_path):
    from dsmap.runtime.jobs.loaded_model import LoadedModel
    from dsmap.runtime.jobs.preview import _translations

    cv2.imwrite(str(tmp_path / "in.png"), photo(32, 32))
    options = ModelOptions(model=str(both.folder), domain="winter", backend="cpu")
    request = resolve_request([str(tmp_path / "in.png")], tmp_path / "out.png", model=options)
    with LoadedModel(request, largest=None) as model:
        assert len(list(_translations(model, photo(32, 32), "mean"))) == 1


def test_live_keys_and_messages(both, one):
    from dsmap.runtime.live.session import SessionState
    from dsmap.runtime.live.styles import StyleSelector, session_styles
    from dsmap.runtime.serve.live_options import read_options

    session = SessionState(StyleSelector(session_styles(both.manifest, "winter"), np.random.default_rng(0), "winter"))
    for key in "sri":
        session.press(key)
        assert session.style.label == "mean"
    assert session.notices == ["this model has no styles"] * 3
    with pytest.raises(InputError, match="which --seed needs"):
        session_styles(both.manifest, "winter", seeds=[1])
    assert read_options('{"style": null}', one.manifest).target == "winter"
    for message in ('{"style": 3}', '{"strength": 0.5}', '{"style": [0.5]}'):
        with pytest.raises(InputError, match="has no styles"):
            read_options(message, both.manifest)


def test_other_forms(both, one, tmp_path):
    from dsmap.runtime.web.site import SiteRequest, build_site

    cv2.imwrite(str(tmp_path / "in.png"), photo(32, 32))
    for option, value in {
        "--named-style": f"winter:snow={tmp_path / 'in.png'}",
        "--default-style": f"winter={tmp_path}",
    }.items():
        code, _, stderr = call(export_command, both.folder, option, value, "--overwrite")
        assert code == 2
        assert option in stderr
    server = {"url": "."}  # without what runs the model
    build_site(SiteRequest(bundle=one, out=tmp_path / "site", server=server))
    site = json.loads((tmp_path / "site" / "model" / "site.json").read_text())
    assert site["directions"] == [{"source": "summer", "target": "winter"}]
    assert site["style_dim"] == 0


def test_a_browser_translates_and_offers_no_styles(one, tmp_path):
    site = make_site(one.folder, tmp_path / "site")
    frame = photo(48, 64)
    with served(site) as address, browser() as chromium, open_page(chromium) as page:
        open_model(page, address)
        got = translate(page, frame).astype(int)
        for options in ({"seed": 3}, {"strength": 0.5}):
            with pytest.raises(Exception, match="This model has no styles"):
                translate(page, frame, **options)
        page.goto(address)
        page.wait_for_selector("fieldset.direction")
        assert page.locator("fieldset").count() == page.locator("fieldset.direction").count()
    assert np.abs(got - cyclegan_forward(STATES["winter"], frame)).max() <= 2


def test_an_evaluation_judges_the_one_translation(one, tmp_path):
    from dsmap.metrics.protocol import Protocol
    from dsmap.metrics.suite import load_metric_suite
    from dsmap.tools.eval.model import ModelEvaluation, evaluate_model
    from dsmap.training.datasets import find_domains

    for name, count in (("trainA", 6), ("trainB", 12), ("testA", 4)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(tmp_path / "data" / name / f"{i}.png"), photo(48, 64, 100 * len(name) + i))
    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    suite = load_metric_suite([tmp_path / "net.npz"], None, pairs=1, seed=0)
    request = ModelEvaluation(
        protocol=Protocol(contents=3, pairs=1, pair_contents=3, repeats=2, seed=0), preset="quick", named=False,
        target=None, height=None, backend="cpu", precision="fp32", threads=1, keep=True,
    )  # fmt: skip
    found = find_domains(tmp_path / "data", names=("summer", "winter"))
    (report,) = evaluate_model(one, found, suite, request, tmp_path / "results", lambda _: None)
    assert [system.name for system in report.systems] == ["translations", "untranslated summer"]
    assert report.facts["styles"] == "none: the model has one translation of each content"
    assert not any("style" in note for note in report.notes)
    assert len(list((tmp_path / "results" / "to-winter" / "translations").glob("*.png"))) == 3


def test_the_server_answers(one):
    from dsmap.runtime.serve.wishes import StyleWish, resolve_style

    assert resolve_style(one, StyleWish(domain="winter"), None, 10**6).code.size == 0
    assert resolve_style(one, StyleWish(domain="winter", style="mean"), None, 10**6).code.size == 0
    for given in ({"seed": 3}, {"style": "snow"}, {"style_code": [1.0]}):
        with pytest.raises(InputError, match="has no styles"):
            resolve_style(one, StyleWish(domain="winter", **given), None, 10**6)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda tree: tree["components"]["content_encoder"].clear(), "has no content_encoder for summer"),
        (lambda tree: tree["components"]["decoder"].clear(), "has no decoder for summer, winter"),
        (lambda tree: tree.update(style_dim=8), "has no content_encoder for winter"),
        (lambda tree: tree.update(styles={}), "has no styles for summer, winter"),
        (
            lambda tree: tree["components"].update(style_mlp=tree["components"]["decoder"]),
            "has style_mlp, with a style_dim of 0",
        ),
    ],
)
def test_a_bundle_that_lacks_something(one, tmp_path, change, fact):
    shutil.copytree(one.folder, tmp_path / "bundle")
    tree = json.loads((one.folder / "bundle.json").read_text())
    change(tree)
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=fact):
        Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["nowhere.pth", "--domains", "a,b"], "cannot read the checkpoint nowhere.pth"),
        (["GOOD", "nowhere.pth", "--domains", "a,b"], "cannot read the checkpoint nowhere.pth"),
        (["GOOD", "--domains", "a,b", "--data", "nowhere"], "The folder nowhere does not exist"),
    ],
)
def test_a_wrong_path_is_refused_before_anything_slow(checkpoints, tmp_path, arguments, fact):
    words = ["x", *(str(checkpoints / "to-winter.pth") if word == "GOOD" else word for word in arguments), "-o", "out"]
    heavy = {"torch"} if "--data" in arguments else {"torch", "cv2", "numpy"}
    code = (
        f"import sys; sys.argv = {words!r}\n"
        f"from dsmap.tools.importer import main\n"
        f"try: main()\nexcept SystemExit as stop: print(stop.code, sorted(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "2 []\n"
    assert fact in done.stderr


def test_the_command_refuses_in_two_lines(checkpoints, tmp_path):
    torch.save({"model.model.0.weight": torch.ones(1)}, tmp_path / "unet.pth")
    good = checkpoints / "to-winter.pth"
    for arguments, fact in (
        ([tmp_path / "unet.pth", "--domains", "a,b"], "a U-Net generator"),
        ([good, "--domains", "a"], "not two names"),
        ([good, "--domains", "a,b", "--int8"], "--int8 needs images"),
        ([good, good, good, "--domains", "a,b"], "3 checkpoints were passed"),
        ([good, "--domains", "a,b", "--size", 4], "--size is 4"),
    ):
        code, _, stderr = call(importer, *arguments, "-o", tmp_path / "out")
        assert code != 0
        assert fact in stderr
        assert "Traceback" not in stderr
        assert not (tmp_path / "out").exists()
