"""`dsmap-live` with real translations, recordings and windows; files, streams and unplugged sources as cameras."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import clips
import numpy as np
import pytest
import servers

from dsmap.common.images import read_rgb
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.live import working_height
from dsmap.runtime.live.capture import Capture
from dsmap.runtime.live.display import gui_framework
from dsmap.runtime.live.open_source import find_source, opener
from dsmap.runtime.live.report import LiveReport
from dsmap.runtime.live.request import LiveRequest
from dsmap.runtime.live.request import run_live as request_live
from dsmap.runtime.live.run import LiveRun, LiveSettings
from dsmap.runtime.live.screen import Screen
from dsmap.runtime.live.source import CapturedFrame, CaptureRequest, Pixels, SourceLostError, SourceName, StreamInfo
from dsmap.runtime.live.styles import style_list
from dsmap.runtime.live.translation import LoadedDirection, Preparation
from dsmap.runtime.live.virtual_camera import VirtualCamera
from dsmap.runtime.live.window import NoWindow, Window
from dsmap.runtime.live.working_height import FoundHeight, largest_fast_enough
from dsmap.runtime.translator import Translator

INFO = StreamInfo(width=64, height=48, rate=30.0, live=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return clips.make_clip(tmp_path_factory.mktemp("clip") / "camera.mp4", frames=30)


@pytest.fixture
def load(tiny_bundle) -> Callable[[str], Translator]:
    return lambda domain: Translator(Bundle.read(tiny_bundle), domain, "cpu")


def capture_of(name: SourceName, *, loop: bool = True, said: list[str] | None = None) -> tuple[SourceName, Capture]:
    said = said if said is not None else []
    return name, Capture(name.shown, opener(name, CaptureRequest(), loop=loop), said.append)


def run_live(
    captures: list[tuple[SourceName, Capture]],
    load: Callable[[str], Translator],
    *,
    window: Window | None = None,
    said: list[str] | None = None,
    virtual_camera: VirtualCamera | None = None,
    **settings,
) -> LiveReport:
    settings = {"preparation": Preparation(), "styles": tuple(style_list([])), **settings}
    for _, capture in captures:
        capture.start()
    direction = LoadedDirection.load(load, "winter", settings["styles"])
    notify = (said if said is not None else []).append
    run = LiveRun(
        LiveSettings(**settings),
        captures,
        direction,
        load,
        window=window or NoWindow(),
        notify=notify,
        virtual_camera=virtual_camera,
    )
    return run.run()


def grey_rgb(level: int = 90, height: int = 48, width: int = 64) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


# The latest frame, and cameras


def test_a_slow_network_gets_new_frames_not_old_ones(clip, load):
    """With a queue, the display would fall further and further behind; here, frames in between are dropped."""
    name, camera = capture_of(find_source(str(clip)))

    class Slow(Translator):
        def submit(self, *args, **more):
            last = camera.captured + 3
            while camera.captured < last:
                time.sleep(0.002)
            return super().submit(*args, **more)

    def slowly(domain: str) -> Translator:
        translator = load(domain)
        translator.__class__ = Slow
        return translator

    report = run_live([(name, camera)], slowly, frames=8)
    assert (report.stopped_by, report.error) == ("frames", None)
    assert report.dropped >= 14  # two for each frame but the first
    assert report.captured >= report.dropped + report.statistics.frames
    # A frame taken is about one camera frame old; in a queue, the wait would grow by 70 ms per frame.
    assert report.statistics.waiting.percentile_ms(50) < report.statistics.translating.percentile_ms(50)
    assert report.as_dict()["latency_ms"]["p50"] > 60


@pytest.mark.parametrize(("refine", "chosen"), [("learnt", (128, 96)), ("off", (160, 120))])
def test_the_height_chosen_by_speed_counts_what_refining_takes(refine, chosen, tmp_path, load, monkeypatch):
    now = 0.0  # by the clock of the search, for which refining alone takes time

    def search(*arguments) -> FoundHeight:
        return largest_fast_enough(*arguments, clock=lambda: now)

    class Refines(Translator):
        def learnt_refiner(self):
            def slowly(frame_rgb: Pixels, small_rgb: Pixels, result_rgb: Pixels) -> Pixels:
                nonlocal now
                now += 0.6
                time.sleep(0.05)
                return frame_rgb

            return slowly

    def with_refiner(domain: str) -> Translator:
        translator = load(domain)
        translator.__class__ = Refines
        return translator

    monkeypatch.setattr(working_height, "largest_fast_enough", search)
    source = find_source(str(clips.make_clip(tmp_path / "camera.mp4", frames=4, size=(160, 120))))
    prepare = Preparation(target_fps=2, refine=refine)
    said: list[str] = []
    report = run_live([capture_of(source)], with_refiner, frames=1, preparation=prepare, said=said)
    assert (report.translated_at, report.size) == (chosen, (160, 120))
    assert any("still slower than 2 frames" in line for line in said) == (refine == "learnt")
    assert (report.statistics.refining.seconds > 0.04) == (refine == "learnt")


class Plugged:
    """A camera that gives three frames whenever it is plugged in, and is then unplugged."""

    info = INFO

    def __init__(self) -> None:
        self.left = 3
        self.closed = False

    def read(self) -> CapturedFrame:
        time.sleep(0.01)
        if not self.left:
            raise SourceLostError("it gives no frames")
        self.left -= 1
        return CapturedFrame(at=time.monotonic(), load=grey_rgb)

    def close(self) -> None:
        self.closed = True


def test_an_unplugged_camera_comes_back(load):
    opened: list[Plugged] = []
    tries = []

    def open_it(stop: threading.Event) -> Plugged:
        tries.append(len(opened))
        if len(tries) in (2, 4):
            raise InputError("there is no camera 0", "plug one in")
        opened.append(Plugged())
        return opened[-1]

    said: list[str] = []
    camera = Capture("camera 0", open_it, said.append)
    report = run_live([(SourceName(kind="camera", text="0"), camera)], load, said=said, frames=6)
    assert report.stopped_by == "frames"
    assert report.error is None
    assert report.reconnections >= 1
    assert all(source.closed for source in opened[:-1])
    assert said[0] == "camera 0 was lost (it gives no frames); trying to open it again"
    assert said[1].startswith("camera 0 is back after ")
    assert report.as_dict()["cameras"][0]["lost_seconds"] > 0


def test_patience_ends(load):
    def open_it(stop: threading.Event) -> Plugged:
        if tries:
            raise InputError("there is no camera 0", "plug one in")
        tries.append(1)
        return Plugged()

    tries: list[int] = []
    camera = Capture("camera 0", open_it, lambda text: None)
    report = run_live([(SourceName(kind="camera", text="0"), camera)], load, frames=99, patience=0.3)
    assert report.stopped_by == "error"
    assert "camera 0 was lost and did not come back within 0.3 s" in str(report.error)


def test_a_camera_that_never_was(load):
    def open_it(stop: threading.Event) -> Plugged:
        raise InputError("there is no camera 7; found: 0 (Webcam)", "pass --camera 0")

    report = run_live([(SourceName(kind="camera", text="7"), Capture("camera 7", open_it, print))], load)
    assert isinstance(report.error, InputError)
    assert report.statistics.frames == 0


def transport_stream(folder: Path, frames: int) -> list[bytes]:
    """MPEG-TS in that many pieces."""
    data = clips.make_clip(folder / "camera.ts", frames=frames).read_bytes()
    size = -(-len(data) // frames)
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_a_stream_is_joined_again_after_its_server_closes(load, tmp_path):
    pieces = transport_stream(tmp_path, 12)

    def serve(connection: socket.socket, number: int) -> None:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02)

    said: list[str] = []
    with servers.connections(serve) as port:
        name = find_source(f"tcp://127.0.0.1:{port}")
        report = run_live([capture_of(name, said=said)], load, said=said, frames=14, patience=20)
    assert report.stopped_by == "frames", (report.error, said)
    assert report.reconnections >= 1
    assert any("was lost" in line for line in said)
    assert "decoded from the stream" in report.line()


def test_a_video_on_a_web_server_plays_at_its_own_rate_and_ends(clip, load):
    web = servers.Web(clip.parent)
    try:
        name, capture = capture_of(
            find_source(web.address.replace("//", "//user:word@") + "/camera.mp4?token=1"), loop=False
        )
        put, times = capture.latest.put, []
        capture.latest.put = lambda frame: (times.append(frame.at), put(frame))
        report = run_live([(name, capture)], load)
    finally:
        web.close()
    assert report.stopped_by == "end of file"
    assert report.captured == 30
    assert times[-1] - times[0] > 0.9  # 30 frames of a 30th of a second
    assert "word" not in json.dumps(report.as_dict())
    assert "token" not in json.dumps(report.as_dict())


def test_a_recording_that_fails_does_not_stop_the_display(tmp_path, clip, load):
    (tmp_path / "gone").mkdir()
    shutil.rmtree(tmp_path / "gone")
    report = run_live([capture_of(find_source(str(clip)))], load, record=tmp_path / "gone" / "r.mp4", frames=5)
    assert report.stopped_by == "frames"
    assert report.statistics.frames == 5
    assert isinstance(report.error, DsmapError)
    assert report.as_dict()["recordings"][0]["error"]


# A whole session with scripted keys; the window alone is not real


class Script:
    """A window that gives keys at certain images, and keeps the images shown."""

    def __init__(self, keys: dict[int, str]) -> None:
        self.keys = keys
        self.shown: list[Pixels] = []
        self.closed = False
        self.size: tuple[int, int] | None = None
        self.fits: list[tuple[int, int]] = []

    def fit(self, width: int, height: int) -> None:
        self.fits.append((width, height))

    def show(self, rgb: Pixels) -> None:
        self.shown.append(rgb)

    def key(self) -> str | None:
        due = [number for number in self.keys if number <= len(self.shown)]
        return self.keys.pop(min(due)) if due else None

    def close(self) -> None:
        pass


def test_a_session_from_key_to_key(clip, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = dict(enumerate(["n", "v", "s", "r", "i", "b", "c", "b", "b", "d", "tab", "h", "h"], 2)) | {
        18: "v", 20: "c", 22: "p", 24: "p", 30: "d", 34: "v", 45: "q",
    }  # fmt: skip
    window, said = Script(keys), []
    other = clips.make_clip(tmp_path / "other.mp4", frames=20, size=(80, 48))
    captures = [capture_of(find_source(str(path))) for path in (clip, other)]
    report = run_live(captures, load, window=window, said=said)
    assert (report.stopped_by, report.error) == ("quit", None), said
    assert not window.keys
    # 64x48 enlarged to 480 lines, then beside each other, then the other camera.
    assert {(480, 640), (480, 800)} <= {rgb.shape[:2] for rgb in window.shown}
    assert any(rgb.shape[1] > 800 for rgb in window.shown)
    assert report.translator.target in ("summer", "winter")
    assert len(report.recordings) == 2
    for recording in report.recordings:
        assert recording["error"] is None
        assert len(clips.read(Path(str(recording["file"]))).times) == recording["frames"] > 0
    assert len(report.snapshots) == 4
    assert len(set(report.snapshots)) == 4
    for path in report.snapshots:
        assert read_rgb(Path(path)).shape[0] == 48
    assert sum("recorded" in line for line in said) == 2
    assert report.as_dict()["frames_displayed"] <= report.as_dict()["frames_translated"]


def test_the_other_direction_comes_when_it_is_loaded(clip, load, monkeypatch):
    loaded, may_load = [], threading.Event()

    def load_late(domain: str) -> Translator:
        if domain == "summer":
            may_load.wait(120)
        loaded.append(domain)
        return load(domain)

    class Waiting(Script):
        def show(self, rgb: Pixels) -> None:
            super().show(rgb)
            if len(self.shown) == 20:
                may_load.set()  # the winter frames went on meanwhile
            if loaded == ["winter", "summer"] and not self.keys and len(self.shown) > 30:
                self.keys = {0: "q"}

    labels = []
    keep = Screen.refresh

    def refresh(self, **how) -> None:
        keep(self, **how)
        if self.frame is not None:
            labels.append((self._status().target, self.frame.direction.translator.target))

    monkeypatch.setattr(Screen, "refresh", refresh)
    window = Waiting({3: "d"})
    report = run_live([capture_of(find_source(str(clip)))], load_late, window=window, seconds=120)
    assert {("winter", "winter"), ("summer", "summer")} == set(labels)  # the label is that of the picture, always
    assert report.stopped_by == "quit"
    assert loaded == ["winter", "summer"]
    assert report.translator.target == "summer"


def test_a_session_from_python(clip, tiny_bundle):
    loaded: list[str] = []
    request = LiveRequest(
        sources=(find_source(str(clip)),),
        loop=True,
        bundle=Bundle.read(tiny_bundle),
        domain="winter",
        backend="cpu",
        settings=LiveSettings(styles=tuple(style_list([])), frames=3),
        window=False,
    )
    report = request_live(request, notify=print, on_loaded=lambda translator: loaded.append(translator.target))
    assert (report.stopped_by, report.error, loaded) == ("frames", None, ["winter"])
    assert report.statistics.frames >= 3
    missing = replace(request, sources=(SourceName(kind="file", text="nothing.mp4"),))
    with pytest.raises(InputError, match=r"nothing\.mp4"):
        request_live(missing, notify=print)


# The virtual camera


def test_the_virtual_camera_gets_every_result(monkeypatch, clip, load):
    """Stands in for pyvirtualcam, which needs a kernel module."""
    sent: list[Pixels] = []

    class Camera:
        def __init__(self, *, width: int, height: int, fps: float) -> None:
            if fps == 1:
                raise RuntimeError("'v4l2loopback' backend:\n no device")
            self.width, self.height, self.device = width, height, "/dev/video9"

        def send(self, rgb: Pixels) -> None:
            assert rgb.shape == (self.height, self.width, 3)
            sent.append(rgb)

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "pyvirtualcam", type(sys)("pyvirtualcam"))
    sys.modules["pyvirtualcam"].Camera = Camera
    captures = [capture_of(find_source(str(clip)))]
    report = run_live(captures, load, virtual_camera=VirtualCamera(30), frames=3)
    assert (len(sent), report.error) == (3, None)
    with pytest.raises(DsmapError, match="no virtual camera can be opened: 'v4l2loopback' backend: no device"):
        VirtualCamera(1).send(grey_rgb())


# The command, in a process of its own


def start(*arguments: object, cwd: Path, **environment: str | None) -> subprocess.Popen:
    command = [sys.executable, "-m", "dsmap.tools.live", *map(str, arguments)]
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=variables)


def wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert condition(), process.communicate(timeout=180) if process.poll() is not None else "still waiting"


@pytest.mark.parametrize("display", [None, ":77"])
def test_without_a_display_there_is_a_line_and_no_abort(clip, display, tmp_path):
    process = start("-d", "winter", "--camera", clip, cwd=tmp_path, DISPLAY=display, WAYLAND_DISPLAY=None)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1, err
    assert len(err.splitlines()) == 2
    assert ("display" if gui_framework() else "has no windows") in err.splitlines()[0]
    assert "--no-window" in err.splitlines()[1]
    assert out == ""


def test_ctrl_c_finishes_the_recording_and_the_report(clip, tiny_bundle, tmp_path):
    arguments = ["-d", "winter", "--model", tiny_bundle, "--camera", clip, "--no-window", "--loop"]
    began = time.monotonic()
    process = start(*arguments, "--record", "r.mp4", "--report", "r.json", cwd=tmp_path, DISPLAY=None)
    wait_until(lambda: any(map(clips.has_frames, tmp_path.glob("*.part.mp4"))), process)  # those of a second
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["stopped_by"] == "signal"
    assert f"{report['frames_displayed']} frames, " in out
    assert {"p50", "p95", "p99", "from", "to"} <= set(report["latency_ms"])
    assert report["frames_captured"] >= report["frames_translated"] >= report["frames_displayed"] > 0
    assert 0 < report["busy_share"] <= 1
    video = clips.read(tmp_path / "r.mp4")
    assert len(video.times) == report["recordings"][0]["frames"] > 0
    assert video.times[0] == 0
    assert all(a < b for a, b in zip(video.times, video.times[1:], strict=False))
    assert 0.5 < video.times[-1] < time.monotonic() - began  # as time went by


def test_the_commands_help_is_light_and_its_faults_are_two_lines(clip, tmp_path):
    code = (
        "import sys; sys.argv = ['x', '--help']\nfrom dsmap.tools.live import main\n"
        "try: main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "--virtual-camera" in done.stdout
    assert not {"cv2", "numpy", "av", "pydantic"} & set(done.stdout.split())
    (tmp_path / "taken.mp4").touch()
    process = start("-d", "winter", "--camera", clip, "--no-window", "--record", "taken.mp4", cwd=tmp_path)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 2
    assert err.splitlines()[0] == "error: --record taken.mp4 exists already"


@pytest.fixture
def x_server(tmp_path) -> Iterator[str]:
    """A separate display, by Xvfb."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("needs Xvfb and xdotool")
    if not gui_framework():
        pytest.skip("needs OpenCV with windows")
    reading, writing = os.pipe()
    # Without -noreset the server restarts when its last client leaves (each xdotool), and refuses others meanwhile.
    command = ["Xvfb", "-noreset", "-displayfd", str(writing), "-screen", "0", "1280x800x24"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        yield ":" + os.read(reading, 16).decode().strip()
    finally:
        server.terminate()
        server.wait(60)
        os.close(reading)


def close_like_a_person(display: str, window: int) -> None:
    """What a window manager sends when somebody presses the X."""

    class Message(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int),
            ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message", ctypes.c_ulong),
            ("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("room", ctypes.c_long * 24),
        )  # fmt: skip

    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype, x11.XInternAtom.restype = ctypes.c_void_p, ctypes.c_ulong
    x11.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    x11.XSendEvent.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    connection = x11.XOpenDisplay(display.encode())
    protocols, delete = (x11.XInternAtom(connection, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    message = Message(type=33, send_event=1, display=connection, window=window, message=protocols, format=32)
    message.data[0] = delete
    x11.XSendEvent(connection, window, 0, 0, ctypes.byref(message))
    x11.XCloseDisplay(connection)


@pytest.mark.parametrize("end", ["key", "window"])
def test_keys_in_a_real_window(x_server, clip, tiny_bundle, tmp_path, end):
    def xdotool(*arguments: object) -> str:
        environment = {**os.environ, "DISPLAY": x_server}
        command = ["xdotool", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment).stdout

    arguments = ["-d", "winter", "--model", tiny_bundle, "--camera", clip, "--report", "r.json"]
    process = start(*arguments, cwd=tmp_path, DISPLAY=x_server)
    wait_until(lambda: xdotool("search", "--name", "^dsmap-live$"), process)
    window = int(xdotool("search", "--name", "^dsmap-live$").split()[-1])
    xdotool("windowfocus", "--sync", window)
    if end == "key":
        for key in ("Left", "Right", "Caps_Lock", "b", "v", "Caps_Lock"):  # arrows and Caps Lock change nothing
            xdotool("key", key)
            time.sleep(0.05)
        wait_until(lambda: list(tmp_path.glob("*.part.mp4")), process)
        xdotool("key", "c")
        wait_until(lambda: len(list(tmp_path.glob("*.png"))) == 2, process)
        xdotool("key", "Escape")
    else:
        close_like_a_person(x_server, window)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["stopped_by"] == ("quit" if end == "key" else "window closed")
    if end == "key":
        assert "the window system" in report["latency_ms"]["to"]
        assert len(clips.read(Path(report["recordings"][0]["file"])).times) == report["recordings"][0]["frames"] > 0
        assert len(report["snapshots"]) == 2
