"""The camera mode in a real Chromium, whose camera plays a film that the tests make."""

import cv2
import numpy as np
import pytest
from browsers import open_page
from camera_page import HEIGHT, WIDTH, frames_shown, pictures, start, wait_for

from dsmap.runtime.translator import Translator

WATCH = """
window.tracks = []
window.asked = []
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices)
navigator.mediaDevices.getUserMedia = async options => {
  window.asked.push(options.video)
  const stream = await open(options)
  window.tracks.push(...stream.getTracks())
  return stream
}
window.underWay = window.mostUnderWay = 0
const post = Worker.prototype.postMessage
Worker.prototype.postMessage = function (message, ...more) {
  if (message.call === 'translate') {
    window.mostUnderWay = Math.max(window.mostUnderWay, ++window.underWay)
    const answered = event => {
      if (event.data.id !== message.id) return
      window.underWay--
      this.removeEventListener('message', answered, true)
    }
    // Before the page's own listener, which may ask for the next frame at once.
    this.addEventListener('message', answered, true)
  }
  return post.call(this, message, ...more)
}
"""
CAMERA_GOES_ON = """() => new Promise(resolve => {
  const video = document.querySelector('video.source')
  let left = 12
  const count = () => left-- ? video.requestVideoFrameCallback(count) : resolve()
  count()
})"""
"""Ends when the camera has given twelve more frames."""
LIVE_TRACKS = "window.tracks.filter(track => track.readyState === 'live').length"


@pytest.fixture(scope="module")
def opened(camera_chromium, camera_address):
    with open_page(camera_chromium, permissions=["camera"]) as page:
        page.add_init_script(WATCH)
        page.goto(camera_address)
        page.wait_for_selector("#camera-start")
        yield page


@pytest.fixture
def page(opened):
    """The page with its first options, the camera off; at the end the tests look whether it has complained."""
    opened.click("#tab-images")
    opened.click("#tab-camera")
    opened.check("input[name=direction][value=winter]", force=True)
    opened.wait_for_selector(".busy", state="hidden")
    opened.check("input[name=style][value=mean]", force=True)
    opened.fill("#strength", "100")
    opened.evaluate("tracks.length = 0")
    yield opened
    assert opened.complaints == []


@pytest.fixture(scope="module")
def python_results(tiny_bundle):
    """What the Python runtime makes of a frame: (frame, target, style)."""
    translators = {
        domain: Translator.load(tiny_bundle, domain=domain, backend="cpu") for domain in ("summer", "winter")
    }

    def translate(frame_rgb, target, style=None):
        translator = translators[target]
        translator.set_style(style)
        return translator(frame_rgb)

    return translate


def same(page, translate, target, style=None):
    """Waits until the result is, within 1 level, the Python runtime's of the frame beside it."""

    def look():
        before, after = pictures(page)
        expected = translate(np.ascontiguousarray(before), target, style)
        return before.shape == (HEIGHT, WIDTH, 3) and np.abs(after.astype(int) - expected).max() <= 1

    wait_for(look, f"the translation to {target}, style {style}")


def test_frames_are_translated_as_in_python_and_counted(page, python_results):
    start(page, frames=3)
    same(page, python_results, "winter")
    assert page.inner_text("#number-size") == f"{WIDTH} \u00d7 {HEIGHT}"
    assert page.inner_text("#number-backend").startswith("wasm")
    wait_for(lambda: page.locator("#number-rate").count(), "the rate")
    assert float(page.inner_text("#number-rate").split()[0]) > 0
    assert page.inner_text("#number-delay").endswith("ms")
    # No queue grows; the next frame may be asked for while an answer is on its way.
    assert page.evaluate("mostUnderWay") <= 2
    seen = [pictures(page)[0] for _ in range(2) if wait_for(lambda: frames_shown(page), "frames")]
    wait_for(lambda: np.any(pictures(page)[0] != seen[0]), "another frame")


def test_direction_style_and_strength_change_while_it_runs(page, python_results):
    start(page)
    page.check("input[name=style][value=random]", force=True)
    page.fill("#seed", "11")
    page.press("#seed", "Tab")
    same(page, python_results, "winter", 11)
    page.check("input[name=direction][value=summer]", force=True)
    page.wait_for_selector(".badge.right:text-is('summer')")
    same(page, python_results, "summer", 11)
    page.check("input[name=style][value=mean]", force=True)
    same(page, python_results, "summer")
    page.fill("#strength", "0")

    def weaker():
        before, after = pictures(page)
        return np.abs(after.astype(int) - python_results(np.ascontiguousarray(before), "summer")).max() > 1

    wait_for(weaker, "a weaker translation")
    page.click("#camera-mirror")
    wait_for(lambda: np.diff(pictures(page)[0][44, :, 1].astype(int)).sum() > 0, "the slope unmirrored")
    page.click("#camera-mirror")


def test_a_picture_gives_the_style(page, python_results):
    picture = np.zeros((64, 80, 3), np.uint8)
    picture[:, 30:, 1] = 200
    png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    start(page)
    page.check("input[name=style][value=picture]", force=True)
    page.set_input_files("input[type=file]", {"name": "<b>green</b>.png", "mimeType": "image/png", "buffer": png})
    page.wait_for_selector(".file-name:text-is('<b>green</b>.png')")
    same(page, python_results, "winter", picture)


def test_five_times_on_and_off_leave_nothing_behind(page):
    devtools = page.context.new_cdp_session(page)
    used = []
    for _ in range(5):
        start(page, frames=3)
        assert page.evaluate(LIVE_TRACKS) == 1
        page.click("#camera-start")
        assert page.evaluate(LIVE_TRACKS) == 0
        assert page.locator("#number-rate").count() == 0
        devtools.send("HeapProfiler.collectGarbage")
        used.append(devtools.send("Runtime.getHeapUsage")["usedSize"])
    assert sum("worker.js" in worker.url for worker in page.workers) == 1
    assert len(page.evaluate("window.tracks")) == 5
    assert used[4] - used[1] < 400_000, used


def test_nothing_runs_while_the_page_is_hidden(page):
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', {value: hidden, configurable: true})
        document.dispatchEvent(new Event('visibilitychange'))
    }"""
    start(page)
    page.evaluate(hide, True)
    before = frames_shown(page)
    page.evaluate(CAMERA_GOES_ON)
    wait_for(lambda: page.evaluate("underWay") == 0, "the frame that was under way")
    page.evaluate(CAMERA_GOES_ON)
    assert frames_shown(page) <= before + 1  # that frame
    before = frames_shown(page)
    page.evaluate(hide, False)
    wait_for(lambda: frames_shown(page) > before + 1, "frames after the page was shown again")


def test_another_tab_stops_the_camera(page):
    start(page)
    page.click("#tab-images")
    wait_for(lambda: page.evaluate(LIVE_TRACKS) == 0, "the camera to stop")
    page.click("#tab-camera")
    start(page)


def test_a_camera_that_is_unplugged_or_refused_is_reported_in_plain_words(page, camera_chromium, camera_address):
    start(page)
    page.evaluate("tracks.at(-1).stop(); tracks.at(-1).dispatchEvent(new Event('ended'))")  # what unplugging does
    assert page.inner_text("#camera-problem") == "The camera has been disconnected."
    start(page)
    with open_page(camera_chromium) as refused:
        refused.goto(camera_address)
        refused.click("#camera-start")
        assert "The camera is not allowed" in refused.inner_text("#camera-problem")
        assert refused.inner_text("#camera-start") == "Start"


def test_a_phone_changes_between_its_front_and_its_back(camera_chromium, camera_address):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with open_page(camera_chromium, permissions=["camera"], **phone) as page:
        page.add_init_script(WATCH)
        page.goto(camera_address)
        start(page)
        assert page.get_attribute("#camera-mirror", "aria-pressed") == "true"
        page.click("#camera-flip")
        wait_for(lambda: frames_shown(page) and page.evaluate("asked.length") == 2, "the other camera")
        assert page.evaluate("asked.map(video => video.facingMode.ideal)") == ["user", "environment"]
        assert page.get_attribute("#camera-mirror", "aria-pressed") == "false"  # what looks away is not mirrored
        assert page.evaluate(LIVE_TRACKS) == 1


def test_full_screen_has_the_picture_and_the_numbers(page):
    start(page, frames=3)
    page.keyboard.press("f")
    wait_for(lambda: page.inner_text(".hud").count(" \u00b7 ") == 3, "rate, delay, size and backend")
    screen = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    height, width = screen.shape[:2]
    picture = screen[height // 4 : height // 2, width // 4 : 3 * width // 4]
    assert picture.std() > 3  # one colour is what a stage without a size shows
    page.keyboard.press("f")
    wait_for(lambda: page.get_attribute("#camera-fullscreen", "aria-pressed") == "false", "the page")


def test_a_snapshot_is_what_is_shown(page):
    start(page)
    with page.expect_download() as saved:
        page.click("#camera-snapshot")
    assert saved.value.suggested_filename.startswith("tiny-winter-")
    image = cv2.imdecode(np.frombuffer(saved.value.path().read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.std() > 1
