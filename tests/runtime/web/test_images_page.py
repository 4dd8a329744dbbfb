"""Images in the page: the same pixels as the Python runtime's, several at once, an error for each bad one."""

import zipfile

import cv2
import numpy as np
import pytest
from browsers import open_page
from camera_page import wait_for
from file_page import give, open_mode, psnr, save

from dsmap.common.images import read_rgb, write_rgb
from dsmap.runtime import Translator


@pytest.fixture(scope="module")
def page(camera_chromium, camera_address):
    with open_page(camera_chromium, accept_downloads=True) as page:
        open_mode(page, camera_address, "images")
        yield page


@pytest.fixture(autouse=True)
def _none_yet(page):
    yield
    if page.query_selector("#images"):
        page.click("#remove-all")
    page.complaints.clear()


@pytest.fixture(scope="module")
def translator(tiny_bundle):
    return Translator.load(tiny_bundle, domain="winter", backend="cpu", threads=1)


def picture(seed, height=48, width=64):
    """Smooth, and with sides of which none is like another."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def made(folder, *names, **size):
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        write_rgb(path, picture(seed, **size))
    return paths


def summary(page, text):
    wait_for(lambda: page.inner_text("#images-summary") == text, text)


def test_several_are_the_runtimes_within_a_level(page, translator, tmp_path):
    """One with sides that are no multiples of what the network takes, and a damaged one among them."""
    good = made(tmp_path, "a.png", "b.png") + made(tmp_path, "odd.png", height=37, width=51)
    bad = tmp_path / "bad.png"
    bad.write_bytes(good[0].read_bytes()[:60])
    page.set_input_files("#files", [good[0], bad, *good[1:]])
    summary(page, "3 of 4 translated, 1 failed")
    assert "The image is damaged" in page.inner_text("[data-state=failed]")

    archive = save(page, "#download-all", tmp_path)
    assert archive.name == "images-winter.zip"
    with zipfile.ZipFile(archive) as files:
        assert files.testzip() is None
        assert files.namelist() == ["a-winter.png", "b-winter.png", "odd-winter.png"]
        files.extractall(tmp_path)
    for original in good:
        got = read_rgb(tmp_path / f"{original.stem}-winter.png")
        assert np.abs(got.astype(int) - translator(read_rgb(original))).max() <= 1


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_files_are_dropped_and_pasted(page, translator, tmp_path, kind):
    paths = made(tmp_path, "first.png", "second.png")
    give(page, kind, paths)
    summary(page, "2 of 2 translated")
    result = save(page, "#images li:nth-child(2) .save", tmp_path)
    assert result.name == "second-winter.png"
    assert np.abs(read_rgb(result).astype(int) - translator(read_rgb(paths[1]))).max() <= 1


def test_same_names_stay_apart_and_other_options_translate_again(page, tmp_path):
    paths = made(tmp_path, "same.png")
    give(page, "drop", paths)
    give(page, "drop", paths)
    summary(page, "2 of 2 translated")
    with zipfile.ZipFile(save(page, "#download-all", tmp_path)) as files:
        assert files.namelist() == ["same-winter.png", "same-winter-2.png"]
        before = files.read("same-winter.png")
    seen = pixels(page)
    page.fill("#strength", "0")

    wait_for(lambda: pixels(page) != seen, "the other translation")
    result = save(page, "#images li:first-child .save", tmp_path)
    assert result.read_bytes() != before
    page.fill("#strength", "100")
    wait_for(lambda: pixels(page) == seen, "the first translation")


def pixels(page):
    return page.evaluate(
        """() => {
             const canvas = document.querySelector('#images .after')
             return Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)
           }"""
    )


def test_exif_turns_the_image(page, translator, tmp_path):
    """A photo stored on its side, as telephones do (Exif orientation 6)."""
    path = tmp_path / "phone.jpg"
    upright = picture(3, height=64, width=40)
    exif = np.frombuffer(b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0", np.uint8)
    stored = cv2.cvtColor(np.rot90(upright), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif.tobytes() + jpeg[2:])
    assert psnr(read_rgb(path), upright) > 30
    page.set_input_files("#files", path)
    summary(page, "1 of 1 translated")
    result = read_rgb(save(page, "#download-all", tmp_path))
    assert psnr(result, translator(read_rgb(path))) > 40


def test_kinds_that_browsers_lack_are_named(page, tmp_path):
    for name, content in (("a.heic", b"\0\0\0\x18ftypheic"), ("b.txt", b"text"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#files", [tmp_path / name for name in ("a.heic", "b.txt", "empty.png")])
    summary(page, "0 of 3 translated, 3 failed")
    said = page.inner_text("#images")
    assert "This browser cannot decode HEIC. Save it as JPEG or PNG first." in said
    assert "This is not an image" in said
    assert "The file is empty." in said
    assert page.is_disabled("#download-all")


def test_images_stay_while_another_tab_is_shown(page, tmp_path):
    page.set_input_files("#files", made(tmp_path, "kept.png"))
    summary(page, "1 of 1 translated")
    page.click("#tab-video")
    page.wait_for_selector("#choose")
    page.click("#tab-images")
    page.wait_for_selector("#images")
    assert save(page, "#download-all", tmp_path).name == "kept-winter.png"
