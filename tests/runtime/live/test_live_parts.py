"""The parts of `dsmap-live` one by one: sources, keys, styles, numbers, drawing, recording."""

import sys
import threading
import time
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest

from dsmap.common.images import write_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.live import cameras as cameras_module
from dsmap.runtime.live.hud import Status, compose, draw_help, draw_hud, enlarge, fitted, fitting_scale
from dsmap.runtime.live.mailbox import LatestFrame
from dsmap.runtime.live.open_source import find_source, opener
from dsmap.runtime.live.recorder import Recorder
from dsmap.runtime.live.screen import Screen
from dsmap.runtime.live.session import KEYS, Action, SessionState, View
from dsmap.runtime.live.source import CaptureRequest, Pixels, SourceLostError, SourceName
from dsmap.runtime.live.statistics import DurationHistogram, RecentStatistics
from dsmap.runtime.live.styles import (
    MEAN,
    SECONDS_PER_STYLE,
    LiveStyle,
    StyleCodeCache,
    StyleMix,
    StyleSelector,
    style_list,
)
from dsmap.runtime.live.translation import LiveFrame, Preparation
from dsmap.runtime.live.virtual_camera import import_pyvirtualcam
from dsmap.runtime.live.window import key_name
from dsmap.runtime.styles.resolver import ResolvedStyle
from dsmap.runtime.translator import Translator


def grey_rgb(level: int = 90, height: int = 48, width: int = 64) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


# Sources


def test_the_newest_item_wins():
    latest: LatestFrame[int] = LatestFrame()
    assert latest.take(0) is None
    for item in range(3):
        latest.put(item)
    assert (latest.take(0), latest.take(0), latest.count, latest.dropped) == (2, None, 3, 2)
    latest.put(7)
    assert (latest.clear(), latest.empty, latest.dropped) == (1, True, 2)


@pytest.mark.parametrize("text", ["nothing.mp4", "foo://host/x"])
def test_what_is_no_camera(text):
    with pytest.raises(InputError):
        find_source(text)


def test_camera_names(tmp_path):
    assert find_source("0") == find_source("/dev/video0") == SourceName(kind="camera", text="0")
    (tmp_path / "a b.mp4").touch()
    assert find_source(f"file://{tmp_path}/a%20b.mp4").text == str(tmp_path / "a b.mp4")


class FakeVideoCapture:
    """Stands in for OpenCV's camera, as none is plugged in here; it has one size only."""

    frames = 2
    opens = True

    def __init__(self, index: int) -> None:
        self.asked: list[tuple[int, float]] = []

    def isOpened(self) -> bool:  # noqa: N802
        return self.opens

    def set(self, prop: int, value: float) -> bool:
        self.asked.append((prop, value))
        return True

    def get(self, prop: int) -> float:
        return cv2.VideoWriter.fourcc(*"YUYV") if prop == cv2.CAP_PROP_FOURCC else 30.0

    def grab(self) -> bool:
        self.frames -= 1
        return self.frames >= 0

    def retrieve(self) -> tuple[bool, Pixels]:
        return True, np.full((48, 64, 3), (1, 2, 3), np.uint8)

    def release(self) -> None:
        pass


def test_a_camera_says_what_it_refuses_and_when_it_is_unplugged(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeVideoCapture)
    camera = cameras_module.CameraSource(0, CaptureRequest(size=(1920, 1080), fps=60))
    assert camera.info.refused == (
        "1920x1080 was requested, but it delivers 64x48; 60 frames per second were requested, but it reports 30; "
        "MJPG was requested, but it delivers YUYV"
    )
    assert camera.info.pixel_format == "YUYV"
    assert (cv2.CAP_PROP_BUFFERSIZE, 1) in camera._capture.asked
    order = [prop for prop, _ in camera._capture.asked]
    assert order[-1] == cv2.CAP_PROP_FOURCC  # a new size takes it back
    assert order.index(cv2.CAP_PROP_FOURCC) < order.index(cv2.CAP_PROP_FRAME_WIDTH)
    assert camera.read().load()[0, 0].tolist() == [3, 2, 1]
    with pytest.raises(SourceLostError):
        camera.read()


def test_missing_cameras_are_reported_with_those_that_exist(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", type("None", (FakeVideoCapture,), {"opens": False}))
    monkeypatch.setattr(cameras_module, "list_cameras", lambda: {0: "Webcam", 2: ""})
    with pytest.raises(InputError, match=r"there is no camera 9; found: 0 \(Webcam\), 2"):
        cameras_module.CameraSource(9, CaptureRequest())
    monkeypatch.setattr(cameras_module, "list_cameras", dict)
    with pytest.raises(InputError, match=r"^no camera was found\n"):
        cameras_module.CameraSource(9, CaptureRequest())


def test_cameras_are_found_by_name(monkeypatch):
    cameras = {0: "Integrated Webcam", 2: "Logitech C920", 4: "Logitech BRIO", 6: "BRIO"}
    monkeypatch.setattr(cameras_module, "list_cameras", lambda: cameras)
    assert find_source("c920") == SourceName(kind="camera", text="c920")
    assert [cameras_module.find_camera(text) for text in ("7", "c920", "brio", "webcam")] == [7, 2, 6, 0]
    with pytest.raises(InputError, match=r"2 cameras match 'logitech': 2 \(Logitech C920\), 4 \(Logitech BRIO\)"):
        cameras_module.find_camera("logitech")
    with pytest.raises(InputError, match=r"no camera or file 'nikon'; cameras: 0 \(Integrated Webcam\)"):
        find_source("nikon")
    opened = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: opened.append(index) or FakeVideoCapture(index))
    open_again = opener(find_source("c920"), CaptureRequest(), loop=False)
    open_again(threading.Event())
    cameras[9] = cameras.pop(2)  # plugged in elsewhere
    open_again(threading.Event())
    assert opened == [2, 9]


def test_list_cameras_needs_nothing_else(monkeypatch, capsys):
    from dsmap.tools import live

    monkeypatch.setattr(sys, "argv", ["dsmap-live", "--list-cameras"])
    for cameras, printed in (
        ({0: "Web\x1b[2Jcam", 12: ""}, "0  Web\\x1b[2Jcam\n12\n"),
        ({}, "no camera was found\n"),
    ):
        monkeypatch.setattr(cameras_module, "list_cameras", lambda cameras=cameras: cameras)
        with pytest.raises(SystemExit) as stop:
            live.main()
        assert (stop.value.code, capsys.readouterr().out) == (0, printed)


def test_the_systems_list_of_cameras():
    assert all(
        isinstance(index, int) and isinstance(name, str) for index, name in cameras_module.list_cameras().items()
    )


# Keys and styles


def selector() -> StyleSelector:
    snow = ResolvedStyle(source=Path("snow.jpg"), written="./snow.jpg")
    return StyleSelector(style_list([snow, ResolvedStyle(source=7, written="7")]), np.random.default_rng(0))


def test_every_key_does_what_the_help_says():
    now = [100.0]
    session = SessionState(selector(), clock=lambda: now[0])
    asks = {"q": Action.QUIT, "esc": Action.QUIT, "d": Action.DIRECTION, "c": Action.SNAPSHOT}
    asks |= {"v": Action.RECORD, "tab": Action.CAMERA, "+": Action.LARGER, "-": Action.SMALLER}
    for key, action in asks.items():
        assert session.press(key) is action
    assert session.press("x") is None
    assert session.style.label == "snow.jpg"
    session.press("s")
    assert session.style.label == "seed 7"
    session.press("r")
    drawn = session.style.first
    assert drawn.name == f"seed {drawn.value}"
    for view in (View.SIDE_BY_SIDE, View.SPLIT, View.RESULT):
        session.press("b")
        assert session.view is view
    for key, read in {"p": "paused", "h": "help", "n": "hud"}.items():
        before = getattr(session, read)
        session.press(key)
        assert getattr(session, read) is not before
        session.press(key)
        assert getattr(session, read) is before
    told = {name.strip().lower() for keys, _ in KEYS for name in keys.split(",")}
    assert told == {*asks, "s", "r", "i", "b", "p", "n", "h"}


def test_styles_move_from_one_to_the_next_and_stay_where_they_are_stopped():
    now = [0.0]
    session = SessionState(selector(), clock=lambda: now[0])
    session.press("i")
    now[0] += SECONDS_PER_STYLE * 1.25
    session.tick()
    assert session.style == StyleMix(LiveStyle("seed 7", 7), LiveStyle(MEAN, None), 0.25)
    assert session.style.label == "seed 7 > mean 25%"
    session.press("i")
    now[0] += 50
    session.tick()
    assert session.style.share == 0.25
    session.press("i")
    now[0] += SECONDS_PER_STYLE / 4
    session.tick()
    assert session.style.share == 0.5
    session.press("s")
    assert (session.style.label, session.notices) == ("mean", ["interpolating"])


def test_codes_of_mixed_styles(tiny_bundle, tmp_path):
    write_rgb(tmp_path / "snow.png", grey_rgb())
    translator = Translator(Bundle.read(tiny_bundle), "winter", "cpu")
    codes = StyleCodeCache(translator)
    image, mean = LiveStyle("snow", translator.style_resolver.resolve(tmp_path / "snow.png")), LiveStyle(MEAN, None)
    codes.prepare([image, mean])
    (tmp_path / "snow.png").unlink()  # it is read before it is needed
    np.testing.assert_allclose(
        codes.of(StyleMix(image, mean, 0.25)),
        0.75 * codes.of(StyleMix(image, mean, 0)) + 0.25 * translator.find_style(None),
    )


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (-1, None),
        (27, "esc"),
        (9, "tab"),
        (ord("q"), "q"),
        (ord("Q"), "q"),
        (0x100000 | ord("q"), "q"),  # GTK with Num Lock
        (0x1001B, "esc"),  # GTK with Shift
        (65361, None),  # the left arrow: its low byte is Q's
        (65363, None),  # the right arrow: S's
        (65509, None),  # Caps Lock
        (65470, None),  # F1
        (0x6CA, "q"),  # the key of Q on a Russian keyboard
        (0x7E4, "d"),  # that of D on a Greek one
        (3, None),
    ],
)
def test_key_codes(code, key):
    assert key_name(code) == key


# Numbers, images, files


def test_percentiles_of_many_durations():
    times = DurationHistogram()
    for milliseconds in range(1, 101):
        times.add(milliseconds / 1000)
    assert times.as_dict() == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "mean": 50.5, "max": 100.0}
    assert DurationHistogram().as_dict()["p95"] is None


def status(**more) -> Status:
    now = RecentStatistics(fps=24.0, latency=41.0, latency_p95=66.0, busy=0.9)
    return Status(source="summer", target="winter", backend="cpu", style="mean", now=now, dropped=3, **more)


@pytest.mark.parametrize("size", [(256, 256), (270, 480), (720, 1280), (48, 64)])
def test_what_is_drawn_fits(size):
    plain = enlarge(grey_rgb(128, *size))
    lines = status().lines()
    scale = fitting_scale(plain, lines)
    widest = max(cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)[0][0] for line in lines)
    assert min(size) < 100 or widest < plain.shape[1]
    drawn = plain.copy()
    draw_hud(drawn, status(recording=5, paused=True, camera="camera 0 was lost", notices=("snapshot x.png",)))
    changed = (drawn != plain).any(axis=2)
    top, bottom = changed[: plain.shape[0] // 3], changed[-plain.shape[0] // 3 :]
    assert top[:, : plain.shape[1] // 2].any()
    assert bottom.any()
    assert (drawn[: plain.shape[0] // 3, -plain.shape[1] // 3 :].astype(int) @ [1, -1, 0]).max() > 150  # the red sign
    draw_help(drawn)
    assert np.median(drawn) < 60


def test_names_on_the_screen_are_one_line_each():
    def drawn(name: str) -> Pixels:
        rgb = grey_rgb(height=240, width=320)
        draw_hud(rgb, status(camera=name, notices=(name,)))
        return rgb

    evil, seen = "x\x1b[2J\n\u202e", "x\\x1b[2J\\n\\u202e"
    assert np.array_equal(drawn(evil), drawn(seen))
    assert not np.array_equal(drawn(evil), drawn("x"))


def test_before_and_after():
    frame = LiveFrame(input_rgb=grey_rgb(10), result_rgb=grey_rgb(200), captured=0, begun=0, done=0)
    assert (compose(frame, View.RESULT) == 200).all()
    beside = compose(frame, View.SIDE_BY_SIDE)
    assert (beside[:, :64] == 10).all()
    assert (beside[:, 64:] == 200).all()
    split = compose(frame, View.SPLIT)
    assert split[0, [10, 32, 50], 0].tolist() == [10, 255, 200]
    assert (frame.result_rgb == 200).all()


def test_frames_are_scaled_and_mirrored():
    rgb = grey_rgb(10, 40, 80)
    rgb[:, :40] = 200
    out = Preparation(mirror=True)(rgb, 20)
    assert out.shape == (20, 40, 3)
    assert (out[0, 0, 0], out[0, -1, 0]) == (10, 200)
    assert out.flags.c_contiguous


def test_recordings_keep_the_times_of_the_capture(tmp_path):
    recorder = Recorder(tmp_path / "r.mp4", rate=30, overwrite=False)
    times = [50.0, 50.04, 50.2, 50.21, 51.0]
    for index, at in enumerate(times):
        recorder.put(grey_rgb(clips.grey(index), *((48, 64) if index else (24, 32))), at)
        while not recorder._queue.empty():  # the encoder's own speed is not the point
            time.sleep(0.01)
    recorder.finish()
    recorder.wait()
    assert (recorder.frames, recorder.dropped, recorder.error) == (5, 0, None)
    video = clips.read(tmp_path / "r.mp4")
    assert [float(t) for t in video.times] == pytest.approx([t - 50 for t in times], abs=1e-4)
    assert {frame.shape for frame in video.frames} == {(24, 32, 3)}
    assert [path.name for path in tmp_path.iterdir()] == ["r.mp4"]


def test_without_pyvirtualcam(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(DsmapError, match="--virtual-camera needs pyvirtualcam") as caught:
        import_pyvirtualcam()
    assert "pip install 'dsmap[virtual-camera]'" in caught.value.advice
    assert "GPL-2" in caught.value.advice


# The window's size


class Sized:
    """A window of a size that the user may change; it shows what it is given."""

    closed = False

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = (640, 480)
        self.fits: list[tuple[int, int]] = []
        self.shown = grey_rgb()

    def fit(self, width: int, height: int) -> None:
        self.fits.append((width, height))
        self.size = width, height

    def show(self, rgb: Pixels) -> None:
        self.shown = rgb

    def key(self) -> str | None:
        return None

    def close(self) -> None:
        pass


def test_the_window_is_the_users_and_text_is_as_large_in_every_view():
    window = Sized()
    session = SessionState(StyleSelector(style_list([]), np.random.default_rng()))
    screen = Screen(window, session, status)
    frame = LiveFrame(input_rgb=grey_rgb(10), result_rgb=grey_rgb(200), captured=0, begun=0, done=0)
    screen.show(frame)
    assert (window.fits, window.shown.shape) == ([(640, 480)], (480, 640, 3))
    text = window.shown[:80, :400].copy()
    session.press("b")  # beside each other
    screen.show(frame)
    assert (window.fits, window.shown.shape) == ([(640, 480)], (480, 640, 3))
    assert ((window.shown[:80, :400] == 255).all(2) == (text == 255).all(2)).all()  # the letters
    window.size = 900, 300  # the user's hand
    screen.refresh(at_once=True)
    assert window.shown.shape == (300, 900, 3)
    assert (window.shown[150, [0, 899]] == 0).all()
    assert (window.shown[150, [430, 470], 0] == [10, 200]).all()
    larger = LiveFrame(input_rgb=grey_rgb(10, 96, 128), result_rgb=grey_rgb(9, 96, 128), captured=0, begun=0, done=0)
    screen.show(larger)  # another working height is no reason for another window
    assert len(window.fits) == 1
    window.size = 4000, 3000
    screen.refresh(at_once=True)
    assert window.shown.shape == (960, 1280, 3)  # stretched by the window


def test_an_image_is_fitted_into_any_size():
    for size in [(1, 1), (7, 500), (500, 7), (333, 222)]:
        whole = fitted(grey_rgb(200), size)
        assert whole.shape == (size[1], size[0], 3)
        assert (whole == 200).any()
