"""The page in front of a server, in a real Chromium whose camera shows an image: live by WebRTC, images and videos."""

import base64
import time
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from browsers import CAMERA, PATIENCE, browser, need_web_runtime, open_page
from serving import Serving, serving
from viewers import SAME, picture, psnr

from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.serve import live_session
from dsmap.runtime.serve.request import ServeLimits, ServeRequest

SIZE = (160, 120)
TOKEN = "of-the-tests-0123456789"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.read(find_model("summer-winter"))


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    need_web_runtime()
    request = ServeRequest(
        bundle=bundle, sessions=1, backend="cpu", token=TOKEN, limits=ServeLimits(disk_reserve=0, jobs=2)
    )
    with serving(request, tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(*CAMERA, f"--use-file-for-fake-video-capture={camera_file(tmp_path_factory.mktemp('camera'))}") as it:
        yield it


def camera_file(folder: Path) -> Path:
    """`picture()` as the film that Chromium's camera shows."""
    path, (width, height) = folder / "camera.y4m", SIZE
    yuv = cv2.cvtColor(picture(width, height), cv2.COLOR_RGB2YUV_I420)  # BT.601, limited range
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F20:1 Ip A1:1 C420\n".encode() + (b"FRAME\n" + yuv.tobytes()) * 5)
    return path


def start_camera(page, seconds: float = PATIENCE) -> None:
    page.click("#camera-start")
    page.wait_for_selector("#stage[data-state=on]")
    for _ in range(int(seconds * 20)):  # wait_for_function would need eval, which the page forbids
        if int(page.get_attribute(".compare", "data-frames") or 0) >= 5:
            return
        page.wait_for_timeout(50)
    raise AssertionError("no results are shown")


def shown(page, which: str) -> np.ndarray:
    """What a canvas of the page shows, uint8 RGB."""
    address = page.evaluate(f"document.querySelector('canvas.{which}').toDataURL('image/png')")
    data = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def wait_until_shown(page, expected_rgb: np.ndarray) -> None:
    for _ in range(int(PATIENCE * 10)):
        got = shown(page, "after")
        if got.shape == expected_rgb.shape and psnr(got, expected_rgb) > SAME:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{got.shape}, {psnr(got, expected_rgb):.1f} dB")


def wait_until_free(page, server: Serving) -> None:
    for _ in range(int(PATIENCE * 20)):
        if not server.app.api.state.server.live.count:
            return
        page.wait_for_timeout(50)
    raise AssertionError("the session goes on")


def test_the_camera_is_translated_by_the_server(server, chromium, bundle, monkeypatch):
    monkeypatch.setattr(live_session, "PATIENCE", 0.2)
    camera = picture(*SIZE)[:, ::-1]  # the page mirrors
    with open_page(chromium) as page:
        page.goto(f"{server.address}/#token={TOKEN}")
        page.wait_for_selector("#camera-start")
        assert TOKEN not in page.url
        start_camera(page)
        assert psnr(shown(page, "before"), camera) > 35
        wait_until_shown(page, Translator(bundle, "winter", "cpu")(picture(*SIZE))[:, ::-1])
        page.keyboard.press("d")
        wait_until_shown(page, Translator(bundle, "summer", "cpu")(picture(*SIZE))[:, ::-1])
        page.wait_for_selector("#number-rate")
        assert page.inner_text("#number-backend") == "cpu (server)"
        assert page.inner_text("#number-size") == "160 \u00d7 120"

        with_cookie = page.context.new_page()  # a second viewer of the same person
        with_cookie.goto(server.address)
        with_cookie.click("#camera-start")
        with_cookie.wait_for_selector("#camera-problem")
        assert with_cookie.inner_text("#camera-problem") == (
            "The server is busy: the only session is taken. Try again later."
        )
        with_cookie.close()

        for _ in range(3):
            page.click("#camera-start")  # stop
            wait_until_free(page, server)
            start_camera(page)
        page.reload()
        wait_until_free(page, server)
        start_camera(page)
        assert page.complaints == [
            "Failed to load resource: the server responded with a status of 503 (Service Unavailable)"
        ] * len(page.complaints)
    wait_until_free_after_close(server)


def wait_until_free_after_close(server: Serving) -> None:
    deadline = time.monotonic() + PATIENCE
    while server.app.api.state.server.live.count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_token_the_page_says_what_it_needs(server, chromium):
    with open_page(chromium) as page:
        page.goto(server.address)
        page.wait_for_selector("[role=alert]")
        assert "This server wants a token" in page.inner_text("[role=alert]")


OPEN_MODEL = """
    const { openRemote } = await import('/app/remote.js')
    const model = await openRemote(await (await fetch('/model/site.json')).json())
    const data = async blob => new Promise(resolve => {
      const reader = new FileReader()
      reader.onload = () => resolve(reader.result)
      reader.readAsDataURL(blob)
    })
"""


def test_images_and_styles_through_the_page_are_those_of_the_translator(server, chromium, bundle):
    image, winter = picture(70, 50), Translator(bundle, "winter", "cpu")
    _, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    address = "data:image/png;base64," + base64.b64encode(png).decode()
    with open_page(chromium) as page:
        page.goto(f"{server.address}/#token={TOKEN}")
        page.wait_for_selector("#camera-start")
        script = f"""async address => {{ {OPEN_MODEL}
            const bytes = Uint8Array.from(atob(address.split(',')[1]), letter => letter.charCodeAt(0))
            const image = await createImageBitmap(new Blob([bytes]))
            const translator = await model.open('winter')
            const style = await translator.encodeStyle(image)
            const plain = await translator.translate(image)
            const styled = await translator.translate(image, {{ style, strength: 0.5, width: 36, height: 24 }})
            const size = [styled.width, styled.height]
            return {{ style: [...style], plain: [...plain.data], size, source: translator.source }}
        }}"""
        got = page.evaluate(script, address)
    np.testing.assert_allclose(got["style"], winter.find_style(image), atol=1e-4)
    rgba = np.reshape(np.array(got["plain"], np.uint8), (50, 70, 4))
    np.testing.assert_allclose(rgba[..., :3].astype(int), winter(image).astype(int), atol=1)
    assert (got["size"], got["source"]) == ([36, 24], "summer")


def test_a_video_through_the_page(server, chromium, tmp_path):
    clip = tmp_path / "clip.mp4"
    clips.make_clip(clip, audio=["aac"])
    with open_page(chromium) as page:
        page.goto(f"{server.address}/#token={TOKEN}")
        page.wait_for_selector("#camera-start")
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'clip'}))"
        )
        page.set_input_files("#clip", clip)
        script = f"""async target => {{ {OPEN_MODEL}
            const [file] = document.querySelector('#clip').files
            const options = {{ target, width: 48, height: 32, style: null, strength: 1 }}
            const told = []
            const onProgress = ({{ fraction }}) => told.push(fraction)
            const result = await model.translateVideo(file, {{ ...options, onProgress }})
            const gone = new AbortController()
            const stop = ({{ fraction }}) => fraction > 0.1 && gone.abort()
            const cancelled = model.translateVideo(file, {{ ...options, signal: gone.signal, onProgress: stop }})
            const name = await cancelled.then(() => '', error => error.name)
            const none = new File(['no video'], 'x')
            const refused = await model.translateVideo(none, options).then(() => '', error => error.message)
            return {{ told, name, refused, frames: result.frames, film: await data(result.blob) }}
        }}"""
        got = page.evaluate(script, "winter")
    assert got["told"] == sorted(got["told"])
    assert got["told"][-1] == 1
    assert got["name"] == "AbortError"
    assert got["refused"]
    film = tmp_path / "film.mp4"
    film.write_bytes(base64.b64decode(got["film"].partition(",")[2]))
    result, original = clips.read(film), clips.read(clip)
    assert len(result.frames) == len(original.frames) == got["frames"] == 20
    assert result.frames[0].shape == (32, 42, 3)  # the height decides
    assert result.audio == original.audio
    assert not list(server.work.glob("job*"))


def test_where_udp_is_blocked_frames_go_one_by_one(server, chromium, bundle, monkeypatch):
    monkeypatch.setattr(live_session, "CONNECT_SECONDS", 1.5)
    with open_page(chromium) as page:
        page.add_init_script("""  // the server's addresses get lost: neither side can call the other then
            const accept = RTCPeerConnection.prototype.setRemoteDescription
            RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
              const patiently = window.setTimeout
              window.setTimeout = (act, after) => patiently(act, after === 8000 ? 1000 : after)
              return accept.call(this, { type, sdp: sdp.replace(/a=candidate.*\\r\\n/g, '') })
            }""")
        page.add_init_script("""  // messages are gone after seconds
            window.messages = ''
            new MutationObserver(() => { messages += document.querySelector('#notices')?.textContent ?? '' }).observe(
              document, {childList: true, subtree: true})
            """)
        page.goto(f"{server.address}/#token={TOKEN}")
        page.wait_for_selector("#camera-start")
        start_camera(page)
        assert "does not get through" in page.evaluate("messages")
        wait_until_shown(page, Translator(bundle, "winter", "cpu")(picture(*SIZE))[:, ::-1])


def test_cancel_frees_the_server_before_anything_is_shown(server, chromium):
    with open_page(chromium) as page:
        page.add_init_script("""  // results that never begin to play
            const play = HTMLMediaElement.prototype.play
            HTMLMediaElement.prototype.play = function () {
              return this.classList.contains('source') ? play.call(this) : new Promise(() => {})
            }""")
        page.goto(f"{server.address}/#token={TOKEN}")
        page.click("#camera-start")
        live = server.app.api.state.server.live
        for _ in range(int(PATIENCE * 20)):  # until frames come: they connected
            if any(session.statistics().translated for session in live._running):
                break
            page.wait_for_timeout(50)
        else:
            raise AssertionError("no frames come")
        page.click("#camera-start")
        wait_until_free(page, server)


def test_a_session_that_ends_before_it_is_connected_says_why(server, chromium, monkeypatch):
    monkeypatch.setattr(live_session, "CONNECT_SECONDS", 1.5)
    with open_page(chromium) as page:
        page.add_init_script("""  // nothing gets through but the server's last word
            const accept = RTCPeerConnection.prototype.setRemoteDescription
            RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
              const data = JSON.stringify({ type: 'error', ended: true, fact: 'the server stops', advice: '' })
              setTimeout(() => channel.dispatchEvent(new MessageEvent('message', { data })), 500)
              return accept.call(this, { type, sdp: sdp.replace(/a=candidate.*\\r\\n/g, '') })
            }
            let channel
            const create = RTCPeerConnection.prototype.createDataChannel
            RTCPeerConnection.prototype.createDataChannel = function (name) {
              return channel = create.call(this, name)
            }""")
        page.goto(f"{server.address}/#token={TOKEN}")
        page.click("#camera-start")
        page.wait_for_selector("text=The server stops.")
        assert "UDP" not in page.inner_text("body")
        wait_until_free(page, server)


def test_a_file_that_only_the_server_can_read(server, chromium, tmp_path):
    """An AVI file; then an MP4 file where the server has not got what reads it in the page."""
    for name, blocked in (("clip.avi", False), ("clip.mp4", True)):
        film = clips.make_clip(tmp_path / name, codec="mpeg4")
        with open_page(chromium) as page:
            if blocked:
                page.route("**/mediabunny.min.mjs", lambda route: route.abort())
            page.goto(f"{server.address}/#token={TOKEN}")
            page.wait_for_selector("#camera-start")  # until then the token may still stand in the address
            page.click("#tab-video")
            page.set_input_files("#files", film)
            page.click("#start")
            page.wait_for_selector("#result-facts")
            assert "64 \u00d7 48 \u00b7 20 frames" in page.inner_text("#result-facts")
