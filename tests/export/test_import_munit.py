"""Imported generators of MUNIT as bundles: checkpoint to frames, against a forward pass of its own."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from browser_model import open_model, translate
from browsers import browser, make_site, open_page, served

from dsmap.common.images import write_rgb
from dsmap.export import int8_search, precision_check
from dsmap.export.munit_graphs import munit_graphs
from dsmap.export.rewrites import Rewrites
from dsmap.model.munit_checkpoint import build_munit, read_munit
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.translator import Translator
from dsmap.tools import importer
from tests.commands import call
from tests.foreign_generators import cyclegan_state, munit_forward, munit_state, munit_style
from tests.tiny import squeezenet_weights

DOMAINS = ("summer", "winter")
STATES = {"a": munit_state(blocks=1, seed=1), "b": munit_state(blocks=1, seed=2)}
DIRECTIONS = (("a", "b", "winter"), ("b", "a", "summer"))


def photo(height, width, seed=0):
    """Smooth colours: an image on which half precision can be judged."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def bundle(made_once):
    """A bundle by the command, in int8 too; its data and the checkpoint lie beside it."""

    def make(folder: Path) -> None:
        torch.save(STATES, folder / "gen_00000001.pt")
        for name in ("trainA", "trainB", "testA"):
            (folder / "data" / name).mkdir(parents=True)
            for i in range(8):
                write_rgb(folder / "data" / name / f"{i}.png", photo(48, 64, 10 * len(name) + i))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(precision_check, "_FULL_HD", (64, 96))
            patch.setattr(int8_search, "TARGETS_DB", {"psnr": 20, "worst_psnr": 20})  # the search for layers takes long
            done = call(importer, folder / "gen_00000001.pt", "--domains", "summer,winter", "-o", folder / "munit",
                        "--size", 48, "--data", folder / "data", "--int8", "--force")  # fmt: skip
        assert done[0] == 0, done
        (folder / "said.txt").write_text(done[1] + done[2])

    return Bundle.read(made_once("munit", make) / "munit")


def code_of(bundle, domain):
    return np.array(bundle.manifest.styles[domain].mean, np.float32)


def test_a_bundle_translates_as_the_checkpoint_does(bundle):
    assert bundle.manifest.targets == DOMAINS
    assert not bundle.manifest.components.mapping
    for source, target, domain in DIRECTIONS:
        with Translator.load(bundle, domain=domain, backend="cpu", precision="fp32", threads=1) as translator:
            for height, width in ((8, 8), (48, 64), (20, 36)):
                frame = photo(height, width, height)
                expected = munit_forward(STATES[source], STATES[target], frame, code_of(bundle, domain))
                got = translator(frame).astype(int)
                assert expected.std() > 10
                assert np.abs(got - expected).max() <= 1
                assert (got != expected).mean() < 0.01
            batch = np.stack([photo(33, 41), photo(33, 41, 1)])
            assert translator(batch).shape == (2, 33, 41, 3)
            assert translator(photo(5, 70)).shape == (5, 70, 3)


def test_styles(bundle):
    """Of an image, by a seed, as a code; and the strength, which needs a reconstruction of the frame."""
    frame, image = photo(24, 32, 5), photo(48, 48, 6)
    with Translator.load(bundle, domain="winter", backend="cpu", precision="fp32", threads=1) as translator:
        translator.set_style(image)
        code = munit_style(STATES["b"], image)
        assert np.abs(translator.style - code).max() <= 1e-4 * max(1, np.abs(code).max())
        assert np.abs(translator(frame).astype(int) - munit_forward(*STATES.values(), frame, code)).max() <= 2
        looks = []
        for seed in (1, 2):
            translator.set_style(seed)
            looks.append(translator(frame).astype(int))
            expected = munit_forward(*STATES.values(), frame, translator.style.reshape(-1))
            assert np.abs(looks[-1] - expected).max() <= 1
        assert np.abs(looks[0] - looks[1]).mean() > 2
        translator.set_style(None)
    with Translator.load(bundle, domain="winter", backend="cpu", precision="fp32", threads=1) as translator:
        rebuilt = munit_forward(STATES["a"], STATES["a"], frame, munit_style(STATES["a"], frame))
        assert np.abs(StrengthTranslator(translator, 0.0)(frame).astype(int) - rebuilt).max() <= 2


def test_what_an_import_says_and_writes(bundle):
    assert {path.name for path in bundle.folder.glob("*.onnx")} == {
        f"{part}.{domain}{precision}.onnx"
        for domain in DOMAINS
        for part, precisions in {
            "content_encoder": ("", ".int8"),
            "decoder": ("", ".int8"),
            "style_mlp": ("",),
            "style_encoder": ("",),
        }.items()
        for precision in precisions
    }
    said = (bundle.folder.parent / "said.txt").read_text()
    assert "MUNIT's generators of 1 blocks, width 8, styles of 8 numbers" in said
    assert "need --licence cc-by-nc-sa-4.0" in said
    card = (bundle.folder / "README.md").read_text()
    assert "license:" not in card
    assert "CC BY-NC-SA 4.0" in card
    assert "means over 8 images of summer and 8 images of winter" in card
    tree = json.loads((bundle.folder / "bundle.json").read_text())
    assert tree["architecture"]["kind"] == "munit"
    assert tree["styles"]["winter"]["pictures"] == 8
    codes = [munit_style(STATES["b"], photo(48, 64, 60 + i)) for i in range(8)]
    assert np.abs(np.mean(codes, 0) - tree["styles"]["winter"]["mean"]).max() < 1e-3 * np.abs(codes).max()


def test_int8(bundle):
    frame = photo(48, 64, 9)
    expected = munit_forward(*STATES.values(), frame, code_of(bundle, "winter")).astype(float)
    with Translator.load(bundle, domain="winter", backend="cpu", precision="int8", threads=1) as translator:
        error = ((translator(frame) - expected) ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 20


@pytest.mark.parametrize(
    ("rewrites", "precision", "most"),
    [
        (Rewrites(False, False, False), "fp32", 1),
        (Rewrites(True, False, False), "fp32", 1),
        (Rewrites(), "fp32", 1),
        (Rewrites(), "fp16", 6),
    ],
)
def test_graphs_before_they_are_written(tmp_path, rewrites, precision, most):
    torch.save(STATES, tmp_path / "gen.pt")
    model = build_munit(DOMAINS, read_munit(tmp_path / "gen.pt"))
    parts = {(one.component, one.domain): one.module for one in munit_graphs(model, rewrites, precision)}
    frame, code = photo(20, 28, 2), np.linspace(-1, 1, 8, dtype=np.float32)
    with torch.no_grad():
        content = parts["content_encoder", "summer"](torch.from_numpy(frame)[None])
        params = parts["style_mlp", "winter"](torch.from_numpy(code)[None])
        got = parts["decoder", "winter"](content, params)[0].numpy().astype(int)
        style = parts["style_encoder", "winter"](torch.from_numpy(photo(24, 24))[None])[0].numpy()
    assert np.abs(got - munit_forward(*STATES.values(), frame, code)).max() <= most
    assert np.abs(style - munit_style(STATES["b"], photo(24, 24))).max() < (1e-4 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_other_backends_agree(bundle, backend):
    pytest.importorskip(backend)
    frame = photo(24, 40)
    expected = munit_forward(*STATES.values(), frame, code_of(bundle, "winter"))
    with Translator.load(bundle, domain="winter", backend=backend, precision="fp32", threads=1) as translator:
        assert np.abs(translator(frame).astype(int) - expected).max() <= 1


def test_the_graph_for_gpus_agrees(bundle):
    from tests.runtime.backends.test_gpu_backends import BoundOnTheCpu

    backend, frame = BoundOnTheCpu(bundle, "winter"), photo(24, 40)
    code = code_of(bundle, "winter")
    got = backend.translate(frame[None], code[None])[0]
    assert np.abs(got.astype(int) - munit_forward(*STATES.values(), frame, code)).max() <= 1
    backend.close()


def test_a_browser_translates(bundle, tmp_path):
    site = make_site(bundle.folder, tmp_path / "site")
    frame = photo(48, 64)
    with served(site) as address, browser() as chromium, open_page(chromium) as page:
        open_model(page, address, target="winter")
        got = translate(page, frame).astype(int)
        other = translate(page, frame, seed=3).astype(int)
    expected = munit_forward(*STATES.values(), frame, code_of(bundle, "winter"))
    assert np.abs(got - expected).max() <= 3  # the site takes half precision
    assert np.abs(got - other).mean() > 1


def test_triton_models(bundle, tmp_path):
    from dsmap.export.triton_parts import TritonPartsRequest, write_triton_parts

    write_triton_parts(TritonPartsRequest(bundle=bundle.folder, repository=tmp_path / "triton"))
    (ensemble,) = (tmp_path / "triton").glob("*-to-winter/config.pbtxt")
    text = ensemble.read_text()
    assert text.count("step {") == 3
    assert "skip" not in text


def test_refusals(bundle, tmp_path):
    folder = bundle.folder.parent
    torch.save(cyclegan_state(), tmp_path / "to-winter.pth")
    munit, cyclegan = folder / "gen_00000001.pt", tmp_path / "to-winter.pth"
    for given, fact in {
        (munit, munit): "both generators in one file",
        (cyclegan, munit): "generators with a content encoder, as MUNIT has",
    }.items():
        code, _, stderr = call(importer, *given, "--domains", "summer,winter", "-o", tmp_path / "out")
        assert code == 2, stderr
        assert fact in " ".join(stderr.split())
    assert not (tmp_path / "out").exists()


def test_an_evaluation_judges_its_styles(bundle, tmp_path):
    from dsmap.metrics.protocol import Protocol
    from dsmap.metrics.suite import load_metric_suite
    from dsmap.tools.eval.model import ModelEvaluation, evaluate_model
    from dsmap.training.datasets import find_domains

    np.savez(tmp_path / "net.npz", **squeezenet_weights())
    suite = load_metric_suite([tmp_path / "net.npz"], None, pairs=1, seed=0)
    request = ModelEvaluation(
        protocol=Protocol(contents=3, pairs=1, pair_contents=3, repeats=2, seed=0), preset="quick", named=False,
        target="winter", height=None, backend="cpu", precision="fp32", threads=1, keep=False,
    )  # fmt: skip
    found = find_domains(bundle.folder.parent / "data", names=DOMAINS)
    (report,) = evaluate_model(bundle, found, suite, request, tmp_path / "results", lambda _: None)
    names = [system.name for system in report.systems]
    assert "untranslated summer" in names
    assert len(names) > 1
    assert "none" not in str(report.facts["styles"])
