"""A server among strangers: tokens, Host and Origin, two hundred bad requests, kills, signals."""

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from container_files import ROOT, Dockerfile, health_check
from processes import is_alive
from serving import serving

from dsmap.common.images import write_rgb
from dsmap.errors import InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.serve.request import ServeLimits, ServeRequest

TOKEN = "0123456789abcdef-token"


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    """One session, small limits, a token."""
    limits = ServeLimits(
        image_bytes=1 << 20,
        video_bytes=4 << 20,
        pixels=1_000_000,
        jobs=2,
        disk_bytes=64 << 20,
        disk_reserve=0,
        keep_seconds=3600,
    )
    request = ServeRequest(
        bundle=Bundle.open(tiny_bundle), token=TOKEN, allow_hosts=("gpu.example",), sessions=1, backend="cpu",
        limits=limits,
    )  # fmt: skip
    with serving(request, tmp_path_factory.mktemp("work")) as running:
        running.client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield running


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_rgb(path, np.random.default_rng(4).integers(0, 256, (40, 40, 3), np.uint8))
    return path.read_bytes()


def is_error(answer: httpx.Response, status: int, fact: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"fact", "advice"}
    assert fact in answer.json()["fact"]
    assert "Traceback" not in answer.text


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(1 << 20))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_another_address_needs_a_token(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    for host in ("0.0.0.0", "::", "192.168.1.5", "gpu.example", ""):
        with pytest.raises(InputError, match="no token"):
            ServeRequest(bundle=bundle, host=host)
    with pytest.raises(InputError, match="at least 16"):
        ServeRequest(bundle=bundle, host="0.0.0.0", token="short")
    for host in ("127.0.0.1", "::1", "localhost", "127.3.4.5"):
        ServeRequest(bundle=bundle, host=host)
    assert TOKEN not in repr(ServeRequest(bundle=bundle, host="0.0.0.0", token=TOKEN))


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é", f"Bearer {TOKEN[:-1]}"]
)
def test_nothing_works_without_the_token(server, photo, given):
    headers = {} if given is None else {"Authorization": given.encode()}
    for method, path in [
        ("POST", "/v1/images?domain=winter"),
        ("POST", "/v1/videos?domain=winter"),
        ("GET", "/v1/model"),
        ("GET", "/v1/jobs/x"),
        ("POST", "/v1/session"),
        ("GET", "/metrics"),
        ("GET", "/model/graph.onnx"),
        ("GET", "//v1/model"),
        ("GET", "/v1/../v1/model"),
    ]:
        answer = httpx.request(method, server.address + path, content=photo, headers=headers, trust_env=False)
        assert answer.status_code in (401, 404), path
        assert "winter" not in answer.text
    assert httpx.get(f"{server.address}/healthz", trust_env=False).json() == {"status": "ok"}
    assert httpx.get(f"{server.address}/readyz", trust_env=False).json() == {"status": "ready"}


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_the_health_check_of_an_image_sees_whether_the_server_answers(server, name):
    image = Dockerfile(ROOT / name).stages["dsmap"]
    assert subprocess.run(health_check(image, server.port), capture_output=True, timeout=180).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as other:  # it listens, and never answers
        silent = health_check(image, other.getsockname()[1], seconds=0.5)
        assert subprocess.run(silent, capture_output=True, timeout=180).returncode != 0


def test_the_page_and_descriptions_need_no_token(server):
    for path in ("/", "/app/main.js", "/docs", "/openapi.json", "/model/site.json", "/healthz"):
        assert httpx.get(server.address + path, trust_env=False).status_code == 200
    site = httpx.get(f"{server.address}/model/site.json", trust_env=False).json()
    assert site["files"] == {}


def test_the_page_gets_a_cookie_for_the_token(server):
    cookie = server.client.post("/v1/session").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    headers = {"Cookie": f"other=1; {cookie.partition(';')[0]}"}
    assert httpx.get(f"{server.address}/v1/model", headers=headers, trust_env=False).status_code == 200
    forged = {"Cookie": cookie.partition("=")[0] + "=" + "0" * 64}
    assert httpx.get(f"{server.address}/v1/model", headers=forged, trust_env=False).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example:80", 421), ("", 400),
     ("a b", 400), ("user@localhost", 400), ("gpu.example", 200), ("GPU.example:9", 200), ("localhost:1", 200),
     ("[::1]:8000", 200), ("192.168.0.7", 200)],
)  # fmt: skip
def test_hosts_that_are_not_the_server_s(server, host, status):
    answer = server.client.get("/v1/model", headers={"Host": host})
    assert answer.status_code == status
    if status != 200:
        is_error(answer, status)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1"},
     {"Origin": "http://127.0.0.1:1"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_pages_of_others_change_nothing(server, photo, headers):
    is_error(server.client.post("/v1/images?domain=winter", content=photo, headers=headers), 403, "another origin")
    is_error(server.client.delete("/v1/jobs/x", headers=headers), 403)
    is_error(server.client.post("/v1/session", headers=headers), 403)


def test_the_server_s_own_page_may(server, photo):
    headers = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    assert server.client.post("/v1/images?domain=winter", content=photo, headers=headers).status_code == 200


def test_every_answer_has_the_headers_of_safety(server):
    for path in ("/", "/v1/model", "/v1/none", "/healthz", "/../etc/passwd", "/app/main.js"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_limits_of_uploads(server, photo):
    big = bytes(2 << 20)
    is_error(server.client.post("/v1/images?domain=winter", content=big), 413, "larger than 1 MB")
    is_error(server.client.post("/v1/images?domain=winter", content=iter([big])), 413)  # chunked: no length
    is_error(server.client.post("/v1/images", files={"image": big}, data={"domain": "winter"}), 413)
    for side in (70_000, 20_000, 1001):
        is_error(server.client.post("/v1/images?domain=winter", content=huge_png(side, side)), 413, "pixels")
    files = {"image": photo, "style_image": huge_png(60_000, 60_000)}
    is_error(server.client.post("/v1/images?domain=winter", files=files), 413, "the style image")


def test_files_are_never_read_by_name(server, photo, tmp_path):
    write_rgb(tmp_path / "secret.png", np.zeros((64, 64, 3), np.uint8))
    for style in (str(tmp_path / "secret.png"), "/etc/passwd", "../../x.png", "file:///etc/passwd", "http://a/b.png"):
        is_error(server.client.post("/v1/images", params={"domain": "winter", "style": style}, content=photo), 422)
    for name in ("../../../../tmp/dsmap-evil", "/tmp/dsmap-evil", "C:\\x", "a\0b", "con"):
        files = {"image": (name, photo)}
        assert server.client.post("/v1/images?domain=winter", files=files).status_code == 200
    assert not Path("/tmp/dsmap-evil").exists()
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/app/..%2f..%2f..%2fetc/passwd", "/app/%00"):
        assert server.client.get(path).status_code in (400, 404)


def bad_requests() -> list[dict]:
    """Two hundred, the same ones every time."""
    dice = random.Random(7)
    noise = [dice.randbytes(size) for size in (1, 7, 100, 5000)]
    images = [b"", b"\x89PNG\r\n\x1a\n", huge_png(1 << 30, 1 << 30), huge_png(0, 0), b"GIF89a" + bytes(50), *noise]
    wrong = [
        *({"strength": one} for one in ("2", "-0.1", "nan", "x")),
        *({"seed": one} for one in ("-1", "1e9", "9" * 5000, "")),
        *({"height": one} for one in ("1", "1000000", "48.5")),
        *({"style": one} for one in ("7", "../x", "mean\0", "x" * 999)),
        *({"style_code": one} for one in ("1,2", "inf,nan,1", "1e30,1,1", "", "[]")),
        {"style": "mean", "seed": "1"},
        {"unknown": "1"},
    ]
    fields = [{}, {"__proto__": "x"}, *({"domain": one} for one in ("", "autumn", "winter" * 99, "winter\0"))]
    fields += [{"domain": "winter", **one} for one in wrong]
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    forms = [
        b"", b"--x", b"--x\r\n", b"--x--\r\n", b"--y\r\n\r\n--y--", b"--x\r\n\r\nabc\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
        b'--x\r\nContent-Disposition: form-data; name="evil"; filename="a"\r\n\r\nabc\r\n--x--',
        b'--x\r\nContent-Disposition: form-data; name="domain"\r\n\r\n' + b"w" * 100_000 + b"\r\n--x--",
        b"--x\r\n" + b"A" * 10_000 + b": b\r\n\r\n\r\n--x--",
        b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % n for n in range(99)) + b"--x--",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 2 + b"--x--",
    ]  # fmt: skip
    found = [{"method": "POST", "url": "/v1/images", "params": {"domain": "winter"}, "content": one} for one in images]
    found += [{"method": "POST", "url": url, "params": one, "content": images[-1]}
              for url in ("/v1/images", "/v1/styles", "/v1/videos") for one in fields]  # fmt: skip
    found += [{"method": "POST", "url": url, "content": one, "headers": boundary}
              for url in ("/v1/images?domain=winter", "/v1/videos?domain=winter") for one in forms]  # fmt: skip
    kinds = ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 999}",
             "application/json", "\xff\xfe", "multipart/form-data; boundary=\"\\\""]  # fmt: skip
    found += [{"method": "POST", "url": "/v1/images?domain=winter", "content": b"{}",
               "headers": {"Content-Type": kind.encode("latin-1")}} for kind in kinds]  # fmt: skip
    methods = ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "HEAD")
    urls = ("/v1/images", "/v1/videos", "/v1/jobs/../x", "/v1/session", "/healthz/x", "/%ff%fe", "/v1/jobs/%00")
    found += [{"method": method, "url": url} for method in methods for url in urls]
    jobs = ("x" * 4000, "../../etc/passwd", "%2e%2e", "'--", "<b>")
    found += [{"method": "GET", "url": f"/v1/jobs/{one}"} for one in jobs]
    ranges = ("bytes=5-1", "x", "bytes=" + "0-1," * 500)
    found += [{"method": "GET", "url": "/", "headers": {"Range": one}} for one in ranges]
    found += [{"method": "GET", "url": "/v1/model", "headers": {f"x-{n}": "y" * n}} for n in (100, 20_000)]
    while len(found) < 200:
        found.append({"method": "POST", "url": "/v1/images?domain=winter", "content": dice.randbytes(300)})
    return found


def raw_requests() -> list[bytes]:
    """What no HTTP library would send."""
    auth = f"Authorization: Bearer {TOKEN}\r\nHost: localhost\r\n".encode()
    return [
        b"", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 100_000, b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000,
        b"POST /v1/images HTTP/1.1\r\n" + auth + b"Content-Length: -5\r\n\r\nabc",
        b"POST /v1/images HTTP/1.1\r\n" + auth + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\nabc",
        b"POST /v1/images HTTP/1.1\r\n" + auth + b"Content-Length: 99999999999999\r\n\r\nabc",
        b"POST /v1/images?domain=winter HTTP/1.1\r\n" + auth + b"Content-Length: 1000\r\n\r\nabc",  # cut off
        b"POST /v1/videos?domain=winter HTTP/1.1\r\n" + auth + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/images HTTP/1.1\r\n" + auth + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\na\r\n",
        b"GET / HTTP/1.1\r\n" + auth + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
    ]  # fmt: skip


def send_raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=180) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except OSError:
            return b""


def test_two_hundred_bad_requests_and_the_server_is_well(server, photo):
    requests = bad_requests()
    assert len(requests) >= 200
    before = 0
    for round_number in range(2):
        for request in requests:
            answer = server.client.request(**request)
            assert answer.status_code != 500, (request, answer.text)
            if request["method"] == "POST":
                assert (
                    400 <= answer.status_code < 500
                    or answer.status_code == 503
                    or request["url"].startswith("/v1/videos")
                )
            assert "Traceback" not in answer.text
            assert str(server.work_base) not in answer.text
        for data in raw_requests():
            assert b" 500 " not in send_raw(server.port, data)[:20]
        before = before or resident_bytes()
        assert round_number or server.client.get("/healthz").status_code == 200
    assert resident_bytes() - before < 32 << 20
    assert server.client.post("/v1/images?domain=winter", content=photo).status_code == 200
    wait_until(lambda: not list(server.work.glob("image-*")) and not list(server.work.glob("style-*")))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(done, patience: float = 180.0) -> None:
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stalled_upload_is_given_up(server, monkeypatch):
    monkeypatch.setitem(vars(server.app.request.limits), "idle_seconds", 0.5)
    head = f"POST /v1/images?domain=winter HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=180) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
        assert b" 408 " in connection.recv(1 << 16)
    wait_until(lambda: not list(server.work.glob("image-*")))


def test_a_head_that_never_ends_is_given_up(server, monkeypatch):
    monkeypatch.setattr("dsmap.runtime.serve.run._HEAD_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", server.port), timeout=180) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert connection.recv(1 << 16) == b""


def test_beyond_the_sessions_it_is_busy(server, photo, monkeypatch):
    monkeypatch.setattr("dsmap.runtime.serve.image_routes._PATIENCE", 0.0)
    pool = server.app.api.state.server.pool
    monkeypatch.setattr(pool._places, "_value", 0)
    answer = server.client.post("/v1/images?domain=winter", content=photo)
    is_error(answer, 503, "the only session is taken")
    assert int(answer.headers["retry-after"]) > 0
    monkeypatch.undo()
    assert server.client.post("/v1/images?domain=winter", content=photo).status_code == 200


def test_many_at_once_wait_for_each_other(server, photo):
    def one(number: int) -> int:
        domain = ("winter", "summer")[number % 2]
        return server.client.post(f"/v1/images?domain={domain}", content=photo).status_code

    with ThreadPoolExecutor(12) as threads:
        assert set(threads.map(one, range(24))) == {200}


def test_there_is_no_room_on_a_full_disk(server, photo):
    full = server.work / "full"
    with full.open("wb") as file:
        file.truncate(65 << 20)
    is_error(server.client.post("/v1/images?domain=winter", content=photo), 507)
    is_error(server.client.post("/v1/videos?domain=winter", content=iter([photo])), 507)
    full.unlink()
    assert server.client.post("/v1/images?domain=winter", content=photo).status_code == 200


def test_a_job_that_crashes_takes_nothing_with_it(server, long_clip):
    answer = server.client.post("/v1/videos?domain=winter", content=long_clip.read_bytes())
    job = server.app.api.state.server.jobs.get(answer.json()["id"])
    wait_until(lambda: job.frames)
    os.kill(job.process, signal.SIGSEGV)
    wait_until(lambda: job.state not in ("queued", "running"))
    told = server.client.get(answer.headers["location"]).json()
    assert (told["state"], told["error"]["fact"]) == ("failed", "the job ended unexpectedly")
    assert list(job.folder.parent.glob("job-*")) == []


def test_jobs_beyond_the_limit_are_refused(server, long_clip):
    data = long_clip.read_bytes()
    answers = [server.client.post("/v1/videos?domain=winter", content=data) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 503]
    for answer in answers[:2]:
        assert server.client.delete(answer.headers["location"]).status_code == 204
    assert not list(server.work.glob("job-*"))


def start_command(tiny_bundle: Path, temporary: Path, *options: str, **variables: str) -> tuple[subprocess.Popen, str]:
    """`dsmap serve` as a process, and its address."""
    command = [
        sys.executable,
        "-m",
        "dsmap",
        "serve",
        "-m",
        str(tiny_bundle),
        "--port",
        "0",
        "--backend",
        "cpu",
        *options,
    ]
    environment = {**os.environ, "TMPDIR": str(temporary), **variables}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    line = process.stdout.readline()
    assert "http://" in line, process.stderr.read() if process.stderr else ""
    return process, line.split()[-1]


def frames_done(address: str, answer: httpx.Response) -> int:
    return httpx.get(f"{address}{answer.headers['location']}", trust_env=False).json()["frames"]


def test_signals_end_it_in_order_and_a_kill_leaves_nothing_to_the_next(tiny_bundle, tmp_path, long_clip):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process, address = start_command(tiny_bundle, temporary)
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:  # an upload that is under way
        connection.sendall(
            b"POST /v1/videos?domain=winter HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\nabc"
        )
        wait_until(lambda: list(temporary.glob("dsmap-serve-*/job-*/video")))
        [folder] = temporary.glob("dsmap-serve-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        process.kill()
        process.communicate(timeout=180)
    assert folder.exists()
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        process, address = start_command(tiny_bundle, temporary)
        assert not folder.exists()
        answer = httpx.post(f"{address}/v1/videos?domain=winter", content=long_clip.read_bytes(), trust_env=False)
        with httpx.stream("GET", f"{address}/v1/jobs/{answer.json()['id']}/events", trust_env=False) as events:
            wait_until(partial(frames_done, address, answer))
            process.send_signal(number)
            told = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
        _, errors = process.communicate(timeout=180)
        assert (process.returncode, errors) == (code, "")
        assert told
        assert list(temporary.iterdir()) == []


def test_a_job_ends_with_a_killed_server(tiny_bundle, tmp_path, long_clip):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    process, address = start_command(
        tiny_bundle, tmp_path, DSMAP_LISTEN_HOST="0.0.0.0", DSMAP_TOKEN_FILE=str(tmp_path / "token")
    )
    assert process.stdout
    assert TOKEN not in address + process.stdout.readline() + process.stdout.readline()
    address = f"http://127.0.0.1:{address.rpartition(':')[2]}"
    assert httpx.get(f"{address}/v1/model", trust_env=False).status_code == 401
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        answer = client.post("/v1/videos?domain=winter", content=long_clip.read_bytes())
        wait_until(lambda: client.get(answer.headers["location"]).json()["frames"])
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert TOKEN.encode() not in Path(f"/proc/{child}/environ").read_bytes()
    process.kill()
    process.communicate(timeout=180)
    wait_until(lambda: not is_alive(child))
    shutil.rmtree(next(iter(tmp_path.glob("dsmap-serve-*"))))


def test_wrong_options_are_explained(tiny_bundle, tmp_path):
    def said(*options: str) -> str:
        command = [sys.executable, "-m", "dsmap", "serve", "-m", str(tiny_bundle), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 2
        assert done.stdout == ""
        return done.stderr

    assert "there is no token" in said("--host", "0.0.0.0")
    assert "it is empty" in said("--token", "")
    (tmp_path / "empty").touch()
    assert "is empty" in said("--token-file", str(tmp_path / "empty"))
    assert "cannot read the token file" in said("--token-file", str(tmp_path / "none"))
    (tmp_path / "token").write_text(TOKEN)
    assert "both given" in said("--token", TOKEN, "--token-file", str(tmp_path / "token"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in said("--port", str(taken.getsockname()[1]))
    assert "none" in said("--port", "0", "--backend", "none")
