"""The HTTP API of a real server: images and videos as the commands make them, jobs, ranges, events."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import clips
import httpx
import numpy as np
import pytest
from PIL import Image
from processes import is_alive
from serving import Serving, serving

from dsmap.common.images import write_rgb
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.serve.request import ServeLimits, ServeRequest
from dsmap.runtime.styles.strength import StrengthTranslator
from dsmap.runtime.translator import Translator


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    limits = ServeLimits(jobs=12, video_seconds=90, disk_reserve=0)  # enough for the frames of `long_clip`
    request = ServeRequest(bundle=Bundle.open(tiny_bundle), sessions=2, backend="cpu", limits=limits)
    with serving(request, tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="module")
def winter(tiny_bundle):
    translator = Translator.load(tiny_bundle, domain="winter", backend="cpu")
    yield translator
    translator.close()


@pytest.fixture(scope="module")
def photo_rgb() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.fixture(scope="module")
def photo(photo_rgb, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_rgb(path, photo_rgb)
    return path.read_bytes()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.make_clip(path)
    return path


def pixels(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(BytesIO(response.content)))


def upload(server: Serving, clip: Path, **query) -> dict:
    answer = server.client.post("/v1/videos", content=clip.read_bytes(), params={"domain": "winter", **query})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.json()


def finished(server: Serving, job: dict, patience: float = 120.0) -> dict:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        state = server.client.get(f"/v1/jobs/{job['id']}").json()
        if state["state"] not in ("queued", "running"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_an_image_is_what_the_translator_makes_of_it(server, winter, photo, photo_rgb):
    winter.set_style(None)
    assert np.array_equal(pixels(server.client.post("/v1/images?domain=winter", content=photo)), winter(photo_rgb))


def test_a_form_with_a_style_image_and_strength(server, tiny_bundle, photo, photo_rgb):
    style_rgb = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    encoded = BytesIO()
    Image.fromarray(style_rgb).save(encoded, "PNG")
    files = {"image": ("../../x.png", photo), "style_image": ("s.png", encoded.getvalue())}
    answer = server.client.post("/v1/images", files=files, data={"domain": "summer", "strength": "0.25"})
    translator = Translator.load(tiny_bundle, domain="summer", backend="cpu", style=style_rgb)
    mixed = StrengthTranslator(translator, 0.25)
    mixed.start_clip()
    assert np.array_equal(pixels(answer), mixed(photo_rgb))
    mixed.close()


def test_a_seed_and_its_code_are_the_same(server, winter, photo, photo_rgb):
    by_seed = pixels(server.client.post("/v1/images?domain=winter&seed=7", content=photo))
    code = ",".join(map(str, winter.find_style(7)))
    by_code = pixels(server.client.post("/v1/images", params={"domain": "winter", "style_code": code}, content=photo))
    assert np.array_equal(by_seed, by_code)
    winter.set_style(7)
    assert np.array_equal(by_seed, winter(photo_rgb))


def test_the_style_of_an_image(server, winter, photo, photo_rgb):
    answer = server.client.post("/v1/styles?domain=winter", content=photo)
    assert np.allclose(answer.json()["code"], winter.find_style(photo_rgb))


def test_height_scales_there_and_back(server, photo):
    assert pixels(server.client.post("/v1/images?domain=winter&height=32", content=photo)).shape == (50, 70, 3)
    small = server.client.post("/v1/images?domain=winter&height=32&upscale=false", content=photo)
    assert pixels(small).shape[0] == 32


def test_an_image_that_nobody_waits_for_is_cancelled(server, tmp_path):
    write_rgb(tmp_path / "large.png", np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), np.uint8))
    pool = server.app.api.state.server.pool
    with contextlib.suppress(httpx.ReadTimeout):
        server.client.post("/v1/images?domain=winter", content=(tmp_path / "large.png").read_bytes(), timeout=0.3)
    deadline = time.monotonic() + 180
    while pool.in_use or list(server.work.glob("image-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_video_is_what_the_command_makes_of_it(server, clip, tiny_bundle, tmp_path):
    done = finished(server, upload(server, clip))
    assert done["state"] == "done", done
    assert done["report"]["complete"]
    assert done["frames"] == done["report"]["frames"] > 1
    assert done["progress"] == 1
    assert str(server.work) not in json.dumps(done)
    command = [sys.executable, "-m", "dsmap", "video", str(clip), "-d", "winter", "-m", str(tiny_bundle)]
    subprocess.run([*command, "-o", str(tmp_path / "own.mp4"), "--backend", "cpu"], check=True, capture_output=True)
    assert server.client.get(done["result"]).content == (tmp_path / "own.mp4").read_bytes()


def test_a_download_is_resumed(server, clip):
    done = finished(server, upload(server, clip))
    whole = server.client.get(done["result"])
    assert whole.headers["accept-ranges"] == "bytes"
    assert 'filename="winter.mp4"' in whole.headers["content-disposition"]
    assert server.client.head(done["result"]).headers["etag"] == whole.headers["etag"]
    rest = server.client.get(done["result"], headers={"Range": "bytes=1000-", "If-Range": whole.headers["etag"]})
    assert rest.status_code == 206
    assert whole.content[:1000] + rest.content == whole.content
    other = server.client.get(done["result"], headers={"Range": "bytes=1000-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    beyond = server.client.get(done["result"], headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416


def test_an_upload_that_breaks_off_is_continued(server, clip):
    data, half = clip.read_bytes(), clip.stat().st_size // 2
    begun = server.client.post("/v1/uploads", headers={"Upload-Length": str(len(data)), "Tus-Resumable": "1.0.0"})
    assert (begun.status_code, begun.headers["tus-resumable"]) == (201, "1.0.0")
    path = begun.headers["location"]
    kind = {"Content-Type": "application/offset+octet-stream"}
    head = f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind['Content-Type']}\r\nUpload-Offset: 0\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # and breaks off
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:half])
    deadline = time.monotonic() + 180
    while server.client.head(path).headers["upload-offset"] != str(half):
        assert time.monotonic() < deadline
    early = server.client.post("/v1/videos", params={"domain": "winter", "upload": path.rpartition("/")[2]})
    assert (early.status_code, early.json()["advice"]) == (409, "Send the rest first.")
    wrong = server.client.patch(path, content=data, headers=kind | {"Upload-Offset": "0"})
    assert wrong.status_code == 409
    too_much = server.client.patch(path, content=data, headers=kind | {"Upload-Offset": str(half)})
    assert too_much.status_code == 413
    rest = server.client.patch(path, content=data[half:], headers=kind | {"Upload-Offset": str(half)})
    assert (rest.status_code, rest.headers["upload-offset"]) == (204, str(len(data)))
    query = {"upload": path.rpartition("/")[2], "height": 16}
    assert server.client.post("/v1/videos", params={"domain": "autumn", **query}).status_code == 422
    job = server.client.post("/v1/videos", params={"domain": "winter", **query})
    assert job.status_code == 202
    assert finished(server, job.json())["state"] == "done"
    assert server.client.head(path).status_code == 404


def test_an_upload_in_parts_is_bounded_and_deleted(server):
    def begin(length: str) -> httpx.Response:
        return server.client.post("/v1/uploads", headers={"Upload-Length": length})

    assert [begin(text).status_code for text in ("", "x", "0", "-1", "9" * 14, "9" * 99)] == [
        400,
        400,
        413,
        400,
        413,
        400,
    ]
    old = server.client.post("/v1/uploads", headers={"Upload-Length": "5", "Tus-Resumable": "0.2"})
    assert (old.status_code, old.headers["tus-version"]) == (412, "1.0.0")
    begun = [begin("1000") for _ in range(13)]
    assert [one.status_code for one in begun] == [201] * 12 + [503]
    for one in begun[:12]:
        assert server.client.delete(one.headers["location"]).status_code == 204
    assert server.client.patch(begun[0].headers["location"], headers={"Upload-Offset": "0"}).status_code == 404
    assert server.client.options("/v1/uploads").headers["tus-extension"] == "creation,termination"


def test_events_tell_of_a_job_until_its_end(server, clip):
    job = upload(server, clip)
    with server.client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert told[-1]["state"] == "done"
    assert [one["frames"] for one in told] == sorted(one["frames"] for one in told)
    assert {one["state"] for one in told} <= {"queued", "running", "done"}


def test_a_job_is_cancelled_and_leaves_nothing(server, long_clip):
    job = upload(server, long_clip)
    deadline = time.monotonic() + 180
    while not server.client.get(f"/v1/jobs/{job['id']}").json()["frames"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process = server.app.api.state.server.jobs.get(job["id"]).process
    assert server.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert process
    assert not is_alive(process)
    assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert server.client.get(f"/v1/jobs/{job['id']}/result").status_code == 404


def test_jobs_run_in_order_and_leave_only_results(server, clip):
    for state in list(server.app.api.state.server.jobs._jobs):
        server.client.delete(f"/v1/jobs/{state}")
    jobs = [upload(server, clip, height=16) for _ in range(5)]
    done = [finished(server, job, 120) for job in jobs]
    assert {one["state"] for one in done} == {"done"}
    ended = [one["ended"] for one in done]
    assert ended == sorted(ended)
    left = {path.name for path in server.work.rglob("*") if path.is_file() and "site-" not in str(path)}
    assert left == {"result.mp4", ".lock", ".dsmap-serve"}
    for job in jobs:
        server.client.delete(f"/v1/jobs/{job['id']}")
    assert not list(server.work.glob("job-*"))


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", "playlist"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 0 RTP/AVP 33\r\n", "playlist"),
        (b"\x1aE\xdf\xa3" + bytes(500), "the upload is not a video"),
        (bytes(5000), "the upload is not a video"),
    ],
)
def test_what_is_no_video_fails_with_the_reason(server, tmp_path, data, fact):
    path = tmp_path / "x"
    path.write_bytes(data)
    failed = finished(server, upload(server, path))
    assert failed["state"] == "failed"
    assert fact in failed["error"]["fact"]
    assert str(server.work_base) not in json.dumps(failed)
    assert server.client.get(f"/v1/jobs/{failed['id']}/result").status_code == 409


def test_sound_that_the_container_does_not_hold(server, tmp_path):
    clips.make_clip(tmp_path / "a.mp4", audio=["aac"], audio_seconds=0.3)
    done = finished(server, upload(server, tmp_path / "a.mp4", container="webm"))
    assert done["report"]["audio_streams"] == 1
    assert any("re-encoded as Opus" in note for note in done["notes"])
    failed = finished(server, upload(server, tmp_path / "a.mp4", container="webm", audio="copy"))
    assert failed["error"]["advice"].startswith("choose one that holds AAC: container=mkv; or pass audio=convert")
    assert str(server.work_base) not in json.dumps(failed)


def test_a_video_that_is_too_long_or_large_is_refused(server, tmp_path):
    clips.make_clip(tmp_path / "long.mp4", pts=[0, 3_000_000])
    failed = finished(server, upload(server, tmp_path / "long.mp4"))
    assert "100 seconds long, expected at most 90" in failed["error"]["fact"]


def test_results_are_deleted_after_a_while(server, clip):
    done = finished(server, upload(server, clip, height=16))
    jobs = server.app.api.state.server.jobs
    job = jobs.get(done["id"])
    loop = job.runner.get_loop()
    asyncio.run_coroutine_threadsafe(jobs.delete_old(), loop).result(60)
    assert job.folder.exists()
    job.ended -= 3601
    asyncio.run_coroutine_threadsafe(jobs.delete_old(), loop).result(60)
    assert not job.folder.exists()
    assert server.client.get(done["result"]).status_code == 404


def test_the_api_describes_itself(server):
    model = server.client.get("/v1/model").json()
    assert model["domains"] == ["summer", "winter"]
    assert model["style_dim"] == 3
    schema = server.client.get("/openapi.json").json()
    assert {"/v1/images", "/v1/videos", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events"} <= set(schema["paths"])
    names = {parameter["name"] for parameter in schema["paths"]["/v1/videos"]["post"]["parameters"]}
    assert {"domain", "style", "strength", "height", "stabilize"} <= names


def test_the_api_is_documented_without_a_cdn(server):
    page = server.client.get("/docs").text
    assert "<code>stabilize</code>" in page
    assert "curl --data-binary @summer.jpg" in page
    assert "http" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "<script" not in page
    assert server.client.get("/docs.css").headers["content-type"].startswith("text/css")


def test_metrics_for_prometheus(server, photo):
    server.client.post("/v1/images?domain=winter", content=photo)
    server.client.get("/v1/no/such/thing")
    text = server.client.get("/metrics").text
    assert 'dsmap_requests_total{method="POST",route="/v1/images",status="200"}' in text
    assert "dsmap_sessions_limit 2.0" in text
    assert "such" not in text


def test_the_page_is_there(server):
    page = server.client.get("/")
    assert "<title>dsmap</title>" in page.text
    assert "script-src 'self' 'wasm-unsafe-eval'" in page.headers["content-security-policy"]
    assert server.client.get("/app/main.js").status_code == 200
    assert server.client.get("/model/site.json").json()["server"]["token"] is False
