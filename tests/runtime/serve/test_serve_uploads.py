"""Uploads of a real server: in parts, beside each other, on a small disk; and sizes that they are scaled to."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import clips
import numpy as np
import pytest
from serving import Serving, serving

from dsmap.common.images import write_rgb
from dsmap.common.state_files import lock_folder
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.serve import job_routes
from dsmap.runtime.serve.errors import RequestError
from dsmap.runtime.serve.request import ServeLimits, ServeRequest
from dsmap.runtime.serve.work_folder import WorkFolder, remove_left_folders

PART = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    limits = ServeLimits(pixels=100_000, video_bytes=48 << 20, disk_bytes=64 << 20, disk_reserve=0)
    request = ServeRequest(bundle=Bundle.open(tiny_bundle), sessions=1, backend="cpu", limits=limits)
    with serving(request, tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path, frames=3, size=(64, 48))
    return path.read_bytes()


def wait_until(done, patience: float = 180.0) -> None:
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begin(server: Serving, length: int) -> str:
    return server.client.post("/v1/uploads", headers={"Upload-Length": str(length)}).headers["location"]


def ended(server: Serving, answer) -> dict:
    assert answer.status_code == 202, answer.text
    path = answer.headers["location"]
    wait_until(lambda: server.client.get(path).json()["state"] not in ("queued", "running"))
    return server.client.get(path).json()


def test_a_small_image_is_not_scaled_beyond_the_limit(server, tmp_path):
    write_rgb(tmp_path / "a.png", np.zeros((16, 61, 3), np.uint8))
    data = (tmp_path / "a.png").read_bytes()
    refused = server.client.post("/v1/images?domain=winter&height=256", content=data)
    assert (refused.status_code, refused.json()["advice"]) == (413, "Pass a smaller height.")
    assert "976x256 pixels, expected at most 0.1 million" in refused.json()["fact"]
    assert server.client.post("/v1/images?domain=winter&height=32", content=data).status_code == 200


def test_a_small_video_is_not_scaled_beyond_the_limit(server, clip):
    job = ended(server, server.client.post("/v1/videos?domain=winter&height=512", content=clip))
    assert job["state"] == "failed"
    assert "frames have 682x512 pixels" in job["error"]["fact"]
    assert job["error"]["advice"] == "Pass a smaller height."


def test_an_upload_becomes_one_job(server, clip, monkeypatch):
    path = begin(server, len(clip))
    assert server.client.patch(path, content=clip, headers=PART | {"Upload-Offset": "0"}).status_code == 204
    reading, go_on, video_request = threading.Event(), threading.Event(), job_routes._video_request

    def slow(*arguments):
        reading.set()
        assert go_on.wait(60)
        return video_request(*arguments)

    monkeypatch.setattr(job_routes, "_video_request", slow)
    query = {"domain": "winter", "height": 32, "upload": path.rpartition("/")[2]}
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(server.client.post, "/v1/videos", params=query)
        assert reading.wait(60)
        second = threads.submit(server.client.post, "/v1/videos", params=query)
        deleted = server.client.delete(path)
        wait_until(lambda: second.done() or server.app.api.state.server.reading._waiters)
        go_on.set()
    assert (second.result().status_code, deleted.status_code) == (423, 423)
    assert ended(server, first.result())["state"] == "done"
    assert server.client.head(path).status_code == 404


def test_an_upload_stays_while_a_part_arrives(server):
    path = begin(server, 1000)
    head = f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PART['Content-Type']}\r\nUpload-Offset: 0\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=180) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + bytes(500))
        wait_until(lambda: server.client.head(path).headers["upload-offset"] == "500")
        assert server.client.delete(path).status_code == 423
        connection.sendall(bytes(500))
        assert b" 204 " in connection.recv(1 << 16)
    assert server.client.delete(path).status_code == 204


def test_an_upload_above_half_of_the_room_fits(server):
    job = ended(server, server.client.post("/v1/videos?domain=winter", content=bytes(40 << 20)))
    assert "is not a video" in job["error"]["fact"]


def test_a_full_server_lives_but_is_not_ready(server):
    """An orchestrator sends its work elsewhere meanwhile, and does not restart it: that would delete results."""
    assert server.client.get("/readyz").status_code == 200
    with (server.work / "large").open("wb") as file:
        file.truncate(65 << 20)
    try:
        answer = server.client.get("/readyz")
        assert answer.status_code == 507
        assert "no room" in answer.json()["fact"]
        assert server.client.get("/healthz").status_code == 200
    finally:
        (server.work / "large").unlink()
    assert server.client.get("/readyz").json() == {"status": "ready"}


def test_room_for_an_upload_is_counted_once(tmp_path):
    with WorkFolder(ServeLimits(disk_bytes=100, disk_reserve=0), tmp_path) as work, work.room_for(60) as room:
        (work.path / "video").write_bytes(bytes(50))
        room.fill(50)
        work.check_room(40)
        with pytest.raises(RequestError):
            work.check_room(41)
        with work.room_for(40):
            (work.path / "result").write_bytes(bytes(45))
            work.check_written()  # a job's result is not to blame for what others may send
            (work.path / "more").write_bytes(bytes(10))
            with pytest.raises(RequestError):
                work.check_written()


def test_a_job_goes_on_beside_a_large_upload(server, clip, monkeypatch):
    monkeypatch.setattr("dsmap.runtime.serve.job_queue._CHECK_SECONDS", 0.02)
    work, path = server.app.api.state.server.work, begin(server, len(clip))
    server.client.patch(path, content=clip, headers=PART | {"Upload-Offset": "0"})
    query = {"domain": "winter", "height": 32, "upload": path.rpartition("/")[2]}
    with work.room_for((64 << 20) - work.used_bytes()):
        job = ended(server, server.client.post("/v1/videos", params=query))  # its result takes of the room
    assert job["state"] == "done", job


def test_only_folders_of_servers_are_removed(tmp_path):
    names = ["dsmap-serve-holiday", "dsmap-serve-holidays", "dsmap-serve-abcd_123", "dsmap-serve-running1"]
    holiday, holidays, left, running = folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
        (folder / "photo.txt").write_text("mine")
        os.utime(folder, (0, 0))
    for folder in (holiday, left, running):
        (folder / ".dsmap-serve").touch()
    with lock_folder(running):
        remove_left_folders(tmp_path)
    assert [folder.exists() for folder in folders] == [True, True, False, True]
    assert (holidays / "photo.txt").exists()


def test_the_longest_style_code_fits_into_a_form(server, tmp_path):
    write_rgb(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    code = ", ".join(["-0.12345678901234567"] * 4096)
    files = {"image": (tmp_path / "a.png").read_bytes()}
    answer = server.client.post("/v1/images", files=files, data={"domain": "winter", "style_code": f"[{code}]"})
    assert (answer.status_code, answer.json()["fact"]) == (422, "style_code has 4096 numbers, expected 3")
