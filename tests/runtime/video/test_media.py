"""Opening media: what is followed, timeouts, and that nothing else opens files or addresses."""

import ast
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
import servers

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.live.source import SourceLostError, SourceName
from dsmap.runtime.live.streams import StreamSource
from dsmap.runtime.video import multipart
from dsmap.runtime.video.addresses import NetworkSettings
from dsmap.runtime.video.frame import Frame
from dsmap.runtime.video.media import MAX_PIXELS, open_file
from dsmap.runtime.video.playlists import MAX_SEGMENTS, MAX_VARIANTS, check_playlist, is_playlist
from dsmap.runtime.video.reader import VideoReader

ROOT = Path(__file__).parents[3]
QUICK = NetworkSettings(open_seconds=2, read_seconds=2, frame_seconds=0.6, tries=2, first_pause=0.05)
STEADY = replace(QUICK, read_seconds=10, frame_seconds=1.5)  # where frames must come on a busy machine, too
PATIENT = replace(QUICK, open_seconds=60, read_seconds=60, frame_seconds=60)  # where nothing is given up
CLOCK = {"time_base": Fraction(1, 90000), "pts": [3003 * index for index in range(20)]}


def jpeg(grey: int, claimed: tuple[int, int] | None = None) -> bytes:
    """An image of 64x48, whose header may claim another (width, height)."""
    data = bytearray(cv2.imencode(".jpg", np.full((48, 64, 3), grey, np.uint8))[1].tobytes())
    if claimed:
        at = data.find(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", claimed[1], claimed[0])
    return bytes(data)


def frames_of(reader: VideoReader) -> list[Frame]:
    return [item for item in reader if isinstance(item, Frame)]


def read_all(stream: StreamSource, greys: list[int] | None = None) -> None:
    while (captured := stream.read()) is not None:
        if greys is not None:
            greys.append(int(captured.load()[24, 32, 0]))


# --- opened in one module


def calls(path: Path, name: str) -> list[ast.Call]:
    """The calls of `name`, such as av.open, in a file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text if name in text else "")
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def reads_media(call: ast.Call) -> bool:
    """Calls that read files or addresses: not those that write, nor those on our own data in memory."""
    mode = next((word.value for word in call.keywords if word.arg == "mode"), None)
    mode = call.args[1] if mode is None and len(call.args) > 1 else mode
    in_memory = isinstance(call.args[0], ast.Call) and ast.unparse(call.args[0].func) == "io.BytesIO"
    return not in_memory and not (isinstance(mode, ast.Constant) and mode.value == "w")


def test_media_are_opened_in_one_module() -> None:
    doors = {"av.open": "runtime/video/media.py", "cv2.VideoCapture": "runtime/live/cameras.py"}
    for name, door in doors.items():
        found = set()
        for folder in ("dsmap", "export", "runtime", "tools"):
            for path in (ROOT / folder).rglob("*.py"):
                if any(reads_media(call) for call in calls(path, name)):
                    found.add(path.relative_to(ROOT).as_posix())
                assert "from av import open" not in path.read_text(encoding="utf-8")
        assert found == {door}


def test_no_decoder_makes_frames_beyond_the_limit(tmp_path: Path) -> None:
    with open_file(clips.make_clip(tmp_path / "a.mp4", frames=2)) as container:
        assert container.streams.video[0].codec_context.options == {"max_pixels": str(MAX_PIXELS)}


# --- streams without frames


def test_a_stream_whose_frames_never_decode_is_given_up() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        servers.serve_mjpeg(connection, itertools.repeat(jpeg(90, claimed=(16000, 16000))))

    with servers.connections(serve) as port:
        began = time.monotonic()
        with pytest.raises(DsmapError, match=r"sent no frame that can be decoded for 0\.6 s") as caught:
            VideoReader(f"http://127.0.0.1:{port}/v", network=QUICK)
        assert caught.value.exit_code == 1
        assert time.monotonic() - began < 60


@pytest.mark.parametrize("length", ["", "Content-Length: 2000000000\r\n"])
@pytest.mark.parametrize("good", [0, 8])
def test_an_image_that_never_ends_is_not_kept_in_memory(length: str, good: int, monkeypatch) -> None:
    monkeypatch.setattr(multipart, "MAX_PART_BYTES", 1 << 20)
    sent = []

    def serve(connection: socket.socket, number: int) -> None:
        servers.serve_mjpeg(connection, (jpeg(clips.grey(index)) for index in range(good)))
        connection.sendall(f"--zz\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + jpeg(9)[:-2])
        for _ in range(2000):
            connection.sendall(b"\x55" * 65536)
            sent.append(65536)

    with servers.connections(serve) as port:
        settings = replace(STEADY, open_seconds=3, tries=1, first_pause=0.01)
        if not good:
            with pytest.raises(InputError, match="cannot be opened: it sends an image of more than 1 MB"):
                VideoReader(f"http://127.0.0.1:{port}/v", network=settings)
        else:
            with VideoReader(f"http://127.0.0.1:{port}/v", network=settings) as reader:
                assert len(frames_of(reader)) >= good
                assert reader.broken_off is not None
    assert sum(sent) < 40 << 20  # sockets hold some, and there are several connections


def test_a_camera_whose_first_head_comes_in_pieces() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        if number > 1:  # FFmpeg looks first, then we read
            return
        servers.serve_mjpeg(connection, [])
        for piece in (b"\r\n", b"--", b"zz\r\n", b"Content-", b"Type: image/jpeg\r\n", b"\r\n", jpeg(3), b"\r\n"):
            connection.sendall(piece)
            time.sleep(0.03)
        servers.serve_slowly(
            connection, b"--zz\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(5), at_once=400, pause=0.001
        )

    settings = replace(PATIENT, tries=1, first_pause=0.01)
    with servers.connections(serve) as port, VideoReader(f"http://127.0.0.1:{port}/v", network=settings) as reader:
        assert len(frames_of(reader)) >= 1


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("with_length", [True, False])
def test_images_between_boundaries_are_cut_apart(size: int, with_length: bool) -> None:
    """Wherever the network cuts the stream; a boundary's beginning may occur in an image."""
    images = [b"", b"\xff\xd8 one \r\n--z \r\n--", b"two\r\n", b"-" * 50]
    heads = [f"Content-Length: {len(one)}\r\n" if with_length else "X-Time: 3\r\n" for one in images]
    pairs = zip(heads, images, strict=True)
    stream = b"".join(b"--zz\r\nContent-Type: image/jpeg\r\n" + h.encode() + b"\r\n" + i + b"\r\n" for h, i in pairs)
    stream += b"--zz\r\nContent-Type: image/jpeg\r\n\r\nhalf an ima"
    assert multipart.is_multipart(stream)
    file = multipart.MultipartImages(stream[at : at + size] for at in range(0, len(stream), size))
    read = b"".join(iter(lambda: file.read(9), b""))
    expected = (b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(i), i) for i in images)
    assert read == b"".join(expected)
    for other in (b"#EXTM3U\n--a\n", b"--zz\r\nContent-Type: image/png\r\n\r\n", b"--zz\r\n\r\n", b"\x00\x01"):
        assert not multipart.is_multipart(other)


def test_what_came_before_a_stream_spoils_is_kept() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        good = (jpeg(clips.grey(index)) for index in range(30))
        servers.serve_mjpeg(connection, itertools.chain(good, itertools.repeat(jpeg(90, claimed=(16000, 16000)))))

    with servers.connections(serve) as port, VideoReader(f"http://127.0.0.1:{port}/v", network=STEADY) as reader:
        frames = frames_of(reader)
        assert len(frames) >= 29
        assert {frame.rgb.shape for frame in frames} == {(48, 64, 3)}
        assert reader.broken_off is not None
        assert "everything received so far is kept" in reader.broken_off.advice


def test_a_stream_that_goes_on_with_sound_alone_is_given_up(tmp_path: Path) -> None:
    clip = clips.make_clip(tmp_path / "in.ts", audio=["aac"], audio_seconds=9, size=(160, 120), **CLOCK)

    def serve(connection: socket.socket, number: int) -> None:
        data = clip.read_bytes()
        connection.sendall(data[: len(data) // 4])  # with all of the frames
        servers.serve_slowly(connection, data[len(data) // 4 :], at_once=4 * 188, pause=0.02)

    with servers.connections(serve) as port, VideoReader(f"tcp://127.0.0.1:{port}", network=STEADY) as reader:
        assert len(frames_of(reader)) >= 17  # a transport stream keeps its last frames until more come
        assert reader.broken_off is not None
        assert "sent no frame" in reader.broken_off.fact


def test_time_in_which_frames_are_used_is_no_time_without_frames(tmp_path: Path) -> None:
    clip = clips.make_clip(tmp_path / "in.ts", audio=["aac"], size=(160, 120), **CLOCK).read_bytes()
    settings = replace(QUICK, frame_seconds=0.5, tries=1, first_pause=0.01)
    with (
        servers.connections(lambda connection, number: connection.sendall(b"" if number else clip)) as port,
        VideoReader(f"tcp://127.0.0.1:{port}", network=settings) as reader,
    ):
        count = 0
        for item in reader:
            count += isinstance(item, Frame)
            time.sleep(0.6 if count in (1, 2) else 0)  # between packets of sound as well
        assert count == 20
        assert reader.broken_off is not None  # as the server has gone
        assert "did not come back" in reader.broken_off.fact


def test_a_camera_that_sends_no_frames_counts_as_lost(tmp_path: Path) -> None:
    clip = clips.make_clip(tmp_path / "in.ts", audio=["aac"], audio_seconds=9, size=(160, 120), **CLOCK)

    def serve(connection: socket.socket, number: int) -> None:
        data = clip.read_bytes()
        connection.sendall(data[: len(data) // 4])  # with all of the frames
        servers.serve_slowly(connection, data[len(data) // 4 :], at_once=4 * 188, pause=0.02)

    with servers.connections(serve) as port:
        name = SourceName(kind="stream", text=f"tcp://127.0.0.1:{port}")
        stream = StreamSource(name, threading.Event(), loop=False, network=STEADY)
        with pytest.raises(SourceLostError, match="no frame for"):
            read_all(stream)
        stream.close()


# --- playlists


@pytest.fixture
def web(tmp_path: Path) -> Iterator[servers.Web]:
    server = servers.Web(tmp_path)
    yield server
    server.close()


def master(*variants: str) -> str:
    lines = [f"#EXT-X-STREAM-INF:BANDWIDTH={index + 1}00000\n{name}\n" for index, name in enumerate(variants)]
    return "#EXTM3U\n" + "".join(lines)


MEDIA = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:0.7,\nin.ts\n#EXT-X-ENDLIST\n"


def test_a_scheme_in_capitals_is_the_same_scheme(tmp_path: Path, web: servers.Web) -> None:
    clips.make_clip(tmp_path / "in.mp4")
    with VideoReader(web.address.replace("http", "HTTP") + "/in.mp4", network=PATIENT) as reader:
        assert len(frames_of(reader)) == 20


def test_a_playlist_of_a_few_variants_is_followed(tmp_path: Path, web: servers.Web) -> None:
    clips.make_clip(tmp_path / "in.ts", size=(160, 120), **CLOCK)
    (tmp_path / "v.m3u8").write_text(MEDIA)
    (tmp_path / "list.m3u8").write_text(master("v.m3u8", "v.m3u8", "missing.m3u8"))
    with VideoReader(f"{web.address}/list.m3u8", network=PATIENT) as reader:
        assert len(frames_of(reader)) == 20


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("v.m3u8", master(*(f"v{index}.m3u8" for index in range(MAX_VARIANTS + 1))), "names 101 streams"),
        ("v.m3u8", master("v.m3u8", "v.m3u8"), "names playlists that name further playlists"),
    ],
)
def test_playlists_that_name_too_much_are_refused(
    tmp_path: Path, web: servers.Web, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        VideoReader(f"{web.address}/{name}", network=PATIENT)
    assert len(web.requests) < 10


def test_segments_of_all_variants_are_counted() -> None:
    text = "#EXTM3U\n" + "#EXTINF:1,\ns.ts\n" * 1000
    assert check_playlist("http://host/v.m3u8", text, 500) == 1500
    with pytest.raises(InputError, match="names more than 500000 segments"):
        check_playlist("http://host/v.m3u8", text, MAX_SEGMENTS - 999)


def test_a_dash_playlist_is_counted_too() -> None:
    """Where FFmpeg was built with its demuxer; PyAV's wheels are not."""
    text = '<?xml version="1.0"?><MPD>' + "<Representation/>" * 5000 + "</MPD>"
    assert is_playlist(text)
    with pytest.raises(InputError, match="names 5000 streams"):
        check_playlist("http://host/v.mpd", text)


# --- the thread that reads


def break_off(data: bytes) -> Callable[[socket.socket, int], None]:
    return lambda connection, number: connection.sendall(data if number < 2 else b"")


def test_a_network_thread_that_dies_ends_the_reading_with_its_reason(tmp_path: Path) -> None:
    clip = clips.make_clip(tmp_path / "in.ts", size=(160, 120), **CLOCK).read_bytes()

    def notify(line: str) -> None:
        raise RuntimeError("the window is gone")

    with servers.connections(break_off(clip)) as port:
        with VideoReader(f"tcp://127.0.0.1:{port}", network=PATIENT, notify=notify) as reader:
            began = time.monotonic()
            with pytest.raises(RuntimeError, match="the window is gone"):
                frames_of(reader)
        assert time.monotonic() - began < 60


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_nobody_to_tell_is_no_reason_to_stop(tmp_path: Path, error: Exception) -> None:
    clip = clips.make_clip(tmp_path / "in.ts", size=(160, 120), **CLOCK).read_bytes()

    def notify(line: str) -> None:
        raise error

    with (
        servers.connections(break_off(clip)) as port,
        VideoReader(f"tcp://127.0.0.1:{port}", network=PATIENT, notify=notify) as reader,
    ):
        assert len(frames_of(reader)) == 40
        assert reader.reconnections == 1


# --- files as cameras


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile secret.mp4\n", MEDIA.replace("in.ts", "secret.mp4")])
def test_a_camera_file_that_becomes_a_playlist_is_not_followed(tmp_path: Path, text: str) -> None:
    clips.make_clip(tmp_path / "secret.mp4", frames=5, colours=[(250, 0, 0)])
    camera = clips.make_clip(tmp_path / "camera.mp4", frames=5)
    stream = StreamSource(SourceName(kind="file", text=str(camera)), threading.Event(), loop=True)
    (tmp_path / "new").write_text(text)
    (tmp_path / "new").replace(camera)
    shown: list[int] = []
    with pytest.raises(SourceLostError, match="is a playlist"):
        read_all(stream, shown)
    stream.close()
    assert len(shown) == 5
    assert max(shown) < 240
