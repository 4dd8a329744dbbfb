"""WebGPU, through the software adapter that comes with Chromium."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from browser_model import fault, open_model, translate
from browsers import SOFTWARE_WEBGPU, browser, make_site, open_page, served
from camera_page import wait_for

from dsmap.runtime.translator import Translator


@pytest.fixture(scope="module")
def site(tiny_bundle, made_once) -> Path:
    return made_once("web-site", lambda folder: make_site(tiny_bundle, folder / "site")) / "site"


@pytest.fixture(scope="module")
def chromium():
    with browser(*SOFTWARE_WEBGPU) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(chromium, site):
    with served(site) as address, open_page(chromium) as page:
        page.goto(address + "licences/mediabunny.txt")
        if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
            pytest.skip("no software adapter for WebGPU in this Chromium")
        page.address = address
        page.backend = open_model(page, address, "winter", backend="webgpu")
        yield page


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


@pytest.fixture(scope="module")
def expected(tiny_bundle, image):
    return Translator.load(tiny_bundle, domain="winter", backend="cpu")(image)


def assert_close(got, expected):
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_images_are_those_of_python(page, image, expected):
    assert page.backend["name"] == "webgpu-fp32"
    assert float(page.backend["psnr"]) > 50
    assert page.backend["refused"] == [{"name": "webgpu-fp16", "reason": "the model has no fp16 graphs"}]
    assert_close(translate(page, image), expected)


def test_tensors_stay_on_the_gpu(page, image):
    """Between the graphs: nothing but the frames and the style crosses to the CPU."""
    worker = page.workers[0]
    worker.evaluate(
        """async () => {
             const { Engine } = await import(new URL('engine.js', location))
             const { decode } = Engine.prototype
             globalThis.places = []
             Engine.prototype.decode = async function (encoded, ...rest) {
               places.push(encoded.content.location, encoded.skip.location)
               const frame = await decode.call(this, encoded, ...rest)
               places.push(this.styled.get('').params.location)
               return frame
             }
           }"""
    )
    translate(page, image)
    assert worker.evaluate("places") == ["gpu-buffer"] * 3


def test_a_lost_gpu_is_recovered(page, image, expected):
    lose = """async () => {
      const { buildFor } = await import(new URL('ort.js', location))
      const ort = await import(new URL(`../runtime/${buildFor('webgpu-fp32')[0]}`, location))
      const device = await ort.env.webgpu.device
      device.destroy()
      await device.lost
    }"""
    old = page.workers[0]
    old.evaluate(lose)
    assert_close(translate(page, image), expected)
    wait_for(lambda: page.evaluate("true") and old not in page.workers, "the old worker's end")
    assert page.evaluate("translator.backend.name") == "webgpu-fp32"


def test_software_is_not_chosen_by_itself(page):
    backend = open_model(page, page.address, "winter", backend="auto")
    assert backend["name"] == "wasm-threads"
    assert backend["refused"][1]["reason"].startswith("WebGPU runs in software here")


def test_a_wrong_result_is_refused_with_the_number(chromium, site, tmp_path):
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    output = copy / "model" / "reference-1-output.bin"
    output.write_bytes(bytes(min(255, byte + 9) for byte in output.read_bytes()))
    with served(copy) as address, open_page(chromium) as page:
        said = fault(page, address, target="winter", backend="webgpu-fp32")
        assert "its first image differs from the reference: PSNR 2" in said
        assert "at least 50 dB are needed" in said
