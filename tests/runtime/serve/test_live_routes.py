"""`POST /v1/live` of a real server: who may, what is refused, and a server that stops with a viewer watching."""

import asyncio
import json
import time

import pytest
from browsers import need_web_runtime
from serving import Serving, serving
from viewers import Viewer, picture

from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.serve.request import ServeLimits, ServeRequest

TOKEN = "of-the-tests-0123456789"
SIGNED_IN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def request_of_tests() -> ServeRequest:
    need_web_runtime()
    bundle = Bundle.read(find_model("summer-winter"))
    return ServeRequest(bundle=bundle, sessions=1, backend="cpu", token=TOKEN, limits=ServeLimits(disk_reserve=0))


@pytest.fixture(scope="module")
def server(request_of_tests, tmp_path_factory):
    with serving(request_of_tests, tmp_path_factory.mktemp("work")) as running:
        yield running


def post(server: Serving, body: object, **headers: str):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.client.post("/v1/live", content=content, headers={"Content-Type": "application/json"} | headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[" * 50_000, 422),
        (b"null", 422),
        ({}, 422),
        ({"sdp": 7}, 422),
        ({"sdp": ""}, 422),
        ({"sdp": "v=0\r\n"}, 422),
        ({"sdp": "x" * 70_000}, 422),
        ({"sdp": "", "options": {"target": "nowhere"}}, 422),
        ({"sdp": "", "options": {"style": "../../etc/passwd"}}, 422),
        ({"sdp": "", "stun": "stun:example.org"}, 422),
        (b"x" * 400_000, 413),
    ],
)
def test_odd_bodies_are_refused_with_words(server, body, status):
    answer = post(server, body, **SIGNED_IN)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"fact", "advice"}
    assert len(answer.json()["fact"]) < 400
    assert server.app.api.state.server.pool.in_use == 0


def test_the_token_and_the_origin_are_checked(server):
    assert post(server, {"sdp": ""}).status_code == 401
    assert post(server, {"sdp": ""}, Authorization="Bearer wrong").status_code == 401
    foreign = {"Origin": "http://elsewhere.example"} | SIGNED_IN
    assert post(server, {"sdp": ""}, **foreign).status_code == 403


def test_a_server_stops_while_somebody_watches(request_of_tests, tmp_path):
    async def watch(server: Serving) -> None:
        async with Viewer(picture()) as viewer:
            offer = {"sdp": await viewer.offer(), "options": {"target": "summer"}}
            answer = await asyncio.to_thread(post, server, offer, **SIGNED_IN)
            assert answer.status_code == 201, answer.text
            await viewer.accept(answer.json()["sdp"])
            await viewer.until(lambda: viewer.results > 0 and viewer.opened.is_set())
            busy = await asyncio.to_thread(post, server, offer, **SIGNED_IN)
            assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
            assert "dsmap_live_sessions 1.0" in server.client.get("/metrics", headers=SIGNED_IN).text
            began = time.monotonic()
            server.server.stop()
            await viewer.until(lambda: viewer.peer.connectionState == "closed")
            assert viewer.problem() == "the server stops"
            assert time.monotonic() - began < 120

    with serving(request_of_tests, tmp_path) as running:
        asyncio.run(watch(running))
