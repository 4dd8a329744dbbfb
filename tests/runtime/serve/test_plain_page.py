"""The server and its page with a model without styles, of one direction: camera, images and videos."""

import cv2
import httpx
import numpy as np
import pytest
from browsers import CAMERA, browser, need_web_runtime, open_page
from clips import make_clip
from serving import serving
from test_live_page import camera_file, start_camera, wait_until_shown
from viewers import picture

from dsmap.common.images import read_rgb
from dsmap.runtime.serve.request import ServeLimits, ServeRequest
from tests.plain_bundle import SOURCE, TARGET, write_plain_bundle

SIZE = (160, 120)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    need_web_runtime()
    bundle = write_plain_bundle(tmp_path_factory.mktemp("bundle") / "plain")
    request = ServeRequest(bundle=bundle, sessions=1, backend="cpu", limits=ServeLimits(disk_reserve=0, jobs=2))
    with serving(request, tmp_path_factory.mktemp("work")) as running:
        yield running


def test_the_page(server, tmp_path):
    image, clip = tmp_path / "image.png", make_clip(tmp_path / "clip.mp4", frames=4)
    cv2.imwrite(str(image), np.full((32, 48, 3), 50, np.uint8))
    camera = f"--use-file-for-fake-video-capture={camera_file(tmp_path)}"
    with browser(*CAMERA, camera) as chromium, open_page(chromium) as page:
        page.goto(server.address)
        start_camera(page)
        wait_until_shown(page, 255 - picture(*SIZE)[:, ::-1])
        for key in "srd":  # styles, and the other direction: there are none
            page.keyboard.press(key)
        page.wait_for_selector("text=This model has no styles.")
        wait_until_shown(page, 255 - picture(*SIZE)[:, ::-1])
        assert page.locator("fieldset").count() == page.locator("fieldset.direction").count()
        page.click("#camera-start")

        page.click("#tab-images")
        page.set_input_files("#files", image)
        page.wait_for_selector("#images-summary:text-is('1 of 1 translated')")
        with page.expect_download() as download:
            page.click("#download-all")
        assert (read_rgb(download.value.path()) == 205).all()

        page.click("#tab-video")
        page.set_input_files("#stage[data-mode=video] #files", clip)  # not that of the images, which goes later
        page.click("#start")
        page.wait_for_selector("#result-facts")
        assert "4 frames" in page.inner_text("#result-facts")
        assert page.complaints == []


def test_the_api(server):
    _, png = cv2.imencode(".png", np.full((20, 24, 3), 50, np.uint8))

    def ask(**fields):
        return httpx.post(f"{server.address}/v1/images", files={"image": png.tobytes()}, data=fields, trust_env=False)

    got = cv2.imdecode(np.frombuffer(ask(domain=TARGET, strength="1").content, np.uint8), cv2.IMREAD_COLOR)
    assert (got == 205).all()
    for fields, fact in (
        ({"domain": SOURCE}, f"does not translate to {SOURCE}"),
        ({"domain": TARGET, "seed": "3"}, "has no styles"),
        ({"domain": TARGET, "strength": "0.5"}, "has no styles"),
    ):
        answer = ask(**fields)
        assert answer.status_code in (400, 404, 422), answer.text
        assert fact in answer.text
