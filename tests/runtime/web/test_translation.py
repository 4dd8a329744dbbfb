"""The module lib/dsmap.js in a real Chromium, compared with the Translator in Python."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser_model import encode_style, fault, open_model, translate
from browsers import browser, make_site, open_page, served

from dsmap.common.images import write_rgb
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.translator import Translator

HOSTILE = "<img src=x onerror=alert(1)>/../\"'&`${1}"


@pytest.fixture(scope="module")
def chromium():
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def site(tiny_bundle, made_once) -> Path:
    return made_once("web-site", lambda folder: make_site(tiny_bundle, folder / "site")) / "site"


@pytest.fixture
def copy(site, tmp_path) -> Path:
    """A site to damage."""
    return Path(shutil.copytree(site, tmp_path / "site"))


@pytest.fixture(scope="module")
def page(chromium, site):
    """A page with the translator to winter."""
    with served(site) as address, open_page(chromium) as page:
        page.backend = open_model(page, address, "winter")
        yield page


@pytest.fixture(scope="module")
def python(tiny_bundle):
    return Translator.load(tiny_bundle, domain="winter", backend="cpu")


def an_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    """Within one grey level everywhere; an image that is not translated would not be."""
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (8, 8), (3, 90)])
def test_images_are_those_of_python(page, python, size):
    image = an_image(*size)
    assert_close(translate(page, image), python(image))


def test_styles_are_those_of_python(page, python):
    image = an_image(64, 64, seed=3)
    results = [translate(page, image, seed=seed) for seed in (0, 7)]
    for seed, result in zip((0, 7), results, strict=True):
        assert_close(result, python.submit(image, python.find_style(seed))())
    assert not np.array_equal(*results)
    code = [0.5, -1.0, 2.0]
    assert_close(translate(page, image, style=code), python.submit(image, np.array(code, np.float32))())
    assert_close(translate(page, image), python(image))  # the mean again


@pytest.mark.parametrize("size", [(64, 64), (48, 300), (20, 20), (90, 70)])
def test_style_images_are_read_as_in_python(page, python, size):
    image = an_image(*size, seed=5)
    exact = size in [(64, 64)]  # the others are scaled, by other filters
    assert np.abs(encode_style(page, image) - python.find_style(image)).max() < (1e-4 if exact else 0.1)


def test_strength_mixes_with_the_reconstruction(page, tiny_bundle, python):
    image = an_image(64, 64, seed=8)
    for strength in (0.0, 0.4):
        expected = StrengthTranslator(Translator.load(tiny_bundle, domain="winter", backend="cpu"), strength)(image)
        page.evaluate("translator.startClip()")
        assert_close(translate(page, image, strength=strength), expected)
    assert not np.array_equal(expected, python(image))


def test_the_size_is_that_of_the_translation(page):
    assert translate(page, an_image(64, 96), height=32).shape == (32, 48, 3)
    assert translate(page, an_image(64, 96), width=40, height=24).shape == (24, 40, 3)


def test_transparency_is_laid_on_white(page, python):
    image = np.concatenate([an_image(64, 64), np.zeros((64, 64, 1), np.uint8)], axis=-1)
    assert_close(translate(page, image), python(np.full((64, 64, 3), 255, np.uint8)))


def test_the_backend_says_why(page):
    assert page.backend["name"] == "wasm-threads"  # `wasm` is a family, and the server sends the headers
    assert page.backend["source"] == "summer"
    assert float(page.backend["psnr"]) > 50


def test_progress_counts_the_runtime_too(page):
    parts = page.evaluate("parts")
    parts = parts[: parts.index(1) + 1]  # later ones are of graphs that are loaded when they are wanted
    assert len(parts) > 10
    assert parts == sorted(parts)


def test_calls_at_once_are_answered_in_order(chromium, site):
    """Graphs for a strength below 1 are loaded once, whatever comes meanwhile."""
    with served(site) as address, open_page(chromium) as page:
        open_model(page, address, "winter")
        loaded = []
        page.on("request", lambda request: loaded.append(request.url.rpartition("/")[2].partition(".")[0]))
        order = page.evaluate(
            """async () => {
                 const order = []
                 const calls = [0.5, 0.2, 1, 0.5].map((strength, i) =>
                   translator.translate(new ImageData(16 + i, 16), { strength }).then(({ width }) => order.push(width)))
                 calls.push(translator.encodeStyle(new ImageData(64, 64)).then(() => order.push('style')))
                 await Promise.all(calls)
                 return order
               }"""
        )
        assert sorted(map(str, order)) == ["16", "17", "18", "19", "style"]
        graphs = ["decoder-0", "mapping-0", "style_encoder-0", "style_encoder-1", "style_mlp-0"]
        assert sorted(loaded) == graphs
        said = page.evaluate(
            """async () => {
                 const calls = [1, 2, 3].map(() =>
                   translator.translate(new ImageData(64, 64)).then(() => 'translated', error => error.code))
                 await calls[0]
                 translator.close()
                 calls.push(translator.translate(new ImageData(8, 8)).catch(error => error.code))
                 return await Promise.all(calls)
               }"""
        )
        assert said == ["translated", "closed", "closed", "closed"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("{ strength: 2 }", "The strength is 2."),
        ("{ style: new Float32Array(5) }", "A style has 5 numbers, expected 3."),
        ("{ seed: -1 }", "The seed is -1."),
        ("{ width: 0 }", "The size is 0x"),
    ],
)
def test_bad_options_are_refused(page, options, what):
    said = page.evaluate(f"translator.translate(new ImageData(8, 8), {options}).then(() => 'done', e => e.message)")
    assert said.startswith(what)


def test_a_backend_that_computes_something_else_is_refused(chromium, copy):
    output = copy / "model" / "reference-1-output.bin"
    output.write_bytes(bytes(255 - byte for byte in output.read_bytes()))
    with served(copy) as address, open_page(chromium) as page:
        said = fault(page, address, target="winter")
        assert "No backend runs here" in said
        assert "wasm-threads: its first image differs from the reference: PSNR" in said
        assert open_model(page, address, "summer")["name"] == "wasm-threads"


def test_files_that_are_missing_or_damaged_are_named(chromium, copy):
    description = json.loads((copy / "model" / "site.json").read_text())
    decoder = copy / description["files"]["fp32"]["decoder"]["winter"]["path"]
    data = decoder.read_bytes()
    with served(copy) as address, open_page(chromium) as page:
        decoder.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert f"model/{decoder.name} is damaged: SHA-256" in fault(page, address, target="winter")
        decoder.write_bytes(data[:1000])
        assert f"model/{decoder.name} is damaged: 1000 bytes, expected {len(data)}" in fault(
            page, address, target="winter"
        )
        decoder.unlink()
        assert f"model/{decoder.name} is missing" in fault(page, address, target="winter")
        binary = copy / "runtime" / "ort-wasm-simd-threaded.wasm"
        shorter = binary.with_name("shorter")
        shorter.write_bytes(binary.read_bytes()[:-1])
        shorter.replace(binary)  # at once: an earlier request may still be reading it
        said = fault(page, address, target="summer")
        assert "runtime/ort-wasm-simd-threaded.wasm is damaged: 14239896 bytes, expected 14239897" in said
        binary.unlink()
        assert "runtime/ort-wasm-simd-threaded.wasm is missing" in fault(page, address, target="summer")
        (copy / "model" / "site.json").write_text("{")
        assert "model/site.json is damaged" in fault(page, address)
        (copy / "model" / "site.json").unlink()
        assert "model/site.json is missing" in fault(page, address)


def test_unknown_names_are_refused(chromium, site):
    with served(site) as address, open_page(chromium) as page:
        assert "There is no backend cuda. Use one of auto, webgpu, " in fault(page, address, backend="cuda")
        assert "does not translate to __proto__, but to summer, winter" in fault(page, address, target="__proto__")
        assert "webgpu-fp16: the model has no fp16 graphs" in fault(page, address, backend="webgpu")


def test_without_https_files_are_checked_too(page):
    """Browsers have SHA-256 only on HTTPS and on this machine."""
    digests = page.evaluate(
        """async () => {
             const { digestHere } = await import(new URL('../lib/sha256.js', location))
             return Promise.all([0, 3, 55, 56, 64, 100000].map(async length => {
               const bytes = Uint8Array.from({ length }, (_, i) => i % 251)
               const expected = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
               return [digestHere(bytes).join(), expected.join()]
             }))
           }"""
    )
    assert all(got == expected for got, expected in digests)


def test_odd_names_work(chromium, tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    text = (bundle / "bundle.json").read_text()
    for path in bundle.glob("*.onnx"):  # the files keep their names
        text = text.replace(path.name, path.name.replace("summer", "SUM").replace("winter", "WIN"))
    text = text.replace('"summer"', json.dumps(HOSTILE)).replace('"winter"', '"__proto__"')
    (bundle / "bundle.json").write_text(text.replace("SUM", "summer").replace("WIN", "winter"))
    site = make_site(bundle, tmp_path / "site", targets=(HOSTILE,))
    assert {path.suffix for path in site.rglob("*") if path.is_file()} <= {
        *(".html", ".css", ".js", ".mjs", ".wasm", ".json", ".onnx", ".bin", ".txt")
    }
    image = an_image(64, 64)
    with served(site) as address, open_page(chromium) as page:
        assert open_model(page, address)["source"] == "__proto__"
        expected = Translator.load(tiny_bundle, domain="summer", backend="cpu")(image)
        assert_close(translate(page, image), expected)
        assert "but to <img" in fault(page, address, target="__proto__")


def test_a_model_without_mapping_works(chromium, tiny_bundle, tmp_path):
    """Such as one of MUNIT: the content goes straight into the decoder."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "munit")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["components"]["mapping"] = {}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    image = an_image(64, 64)
    with served(make_site(bundle, tmp_path / "site")) as address, open_page(chromium) as page:
        open_model(page, address, "winter")
        expected = Translator.load(bundle, domain="winter", backend="cpu")(image)
        assert_close(translate(page, image), expected)
        assert (
            np.abs(expected.astype(int) - Translator.load(tiny_bundle, domain="winter", backend="cpu")(image)).max() > 1
        )
        assert translate(page, image, strength=0.5).shape == image.shape


def test_the_ten_lines_of_the_guide_work(chromium, site, python, tmp_path):
    guide = (Path(__file__).parents[3] / "docs" / "web.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```html\n(.*?)```", guide, re.DOTALL)
    assert len(lines.splitlines()) <= 10
    (tmp_path / "index.html").write_text(lines)
    shutil.copytree(site, tmp_path / "site")
    image = an_image(48, 64)
    write_rgb(tmp_path / "image.png", image)
    with served(tmp_path) as address, open_page(chromium) as page:
        page.goto(address)
        page.wait_for_function("file.onchange !== null")
        page.set_input_files("#file", tmp_path / "image.png")
        page.wait_for_function("canvas.width === 64")
        rgba = page.evaluate("Array.from(canvas.getContext('2d').getImageData(0, 0, 64, 48).data)")
        assert_close(np.array(rgba, np.uint8).reshape(48, 64, 4)[..., :3], python(image))
        assert [said for said in page.complaints if "404" not in said] == []  # it has no icon
