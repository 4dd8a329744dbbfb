"""Live sessions between two real WebRTC peers in one process: what comes back, who gets in, and who is let go."""

import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aioice import ice
from aiortc.codecs.vpx import Vp8Decoder
from aiortc.sdp import SessionDescription
from viewers import Viewer, picture, psnr

from dsmap.errors import DsmapError, InputError
from dsmap.runtime import Translator
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.bundle.bundled import find_model
from dsmap.runtime.serve import live_session
from dsmap.runtime.serve.live_options import LiveOptions
from dsmap.runtime.serve.live_translation import LiveTranslation
from dsmap.runtime.serve.offers import checked_offer
from dsmap.runtime.serve.pool import PoolBusyError, TranslatorPool
from dsmap.runtime.serve.sessions import LiveSessions
from dsmap.runtime.styles.strength import StrengthTranslator

OTHER = 23.0  # dB: a different picture is less like a result


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundled model: the tiny one's results are so grey that all look alike after a lossy codec."""
    return Bundle.read(find_model("summer-winter"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(live_session, "STATISTICS_SECONDS", 0.2)
    monkeypatch.setattr(live_session, "SILENT_SECONDS", 3600)  # a busy machine is no silence
    monkeypatch.setattr(live_session, "CONNECT_SECONDS", 3600)


@pytest.fixture(scope="module")
def to_winter(bundle: Bundle) -> Translator:
    return Translator(bundle, "winter", "cpu")


@pytest.fixture(scope="module")
def to_summer(bundle: Bundle) -> Translator:
    return Translator(bundle, "summer", "cpu")


@contextlib.asynccontextmanager
async def serving(bundle: Bundle, places: int = 1) -> AsyncIterator[LiveSessions]:
    pool = TranslatorPool(bundle, sessions=places, backend="cpu")
    sessions = LiveSessions(pool)
    try:
        yield sessions
    finally:
        await sessions.close()
        assert (sessions.count, pool.in_use) == (0, 0)
        await pool.close()


@contextlib.asynccontextmanager
async def watching(sessions: LiveSessions, image_rgb: np.ndarray | None = None, **options) -> AsyncIterator[Viewer]:
    async with Viewer(picture() if image_rgb is None else image_rgb) as viewer:
        await viewer.accept(await sessions.open(await viewer.offer(), LiveOptions(**options)))
        await viewer.until(lambda: viewer.results > 0)
        await viewer.until(viewer.opened.is_set)
        yield viewer


async def until_free(sessions: LiveSessions) -> None:
    async with asyncio.timeout(180):
        while sessions.count:
            await asyncio.sleep(0.01)


def test_frames_come_back_translated_and_options_change_while_it_runs(bundle, to_winter, to_summer):
    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions) as viewer:
            code = [float(value) for value in to_summer.find_style(7)]
            results = {
                "winter": to_winter(picture()),
                "summer": to_summer(picture()),
                "midday": to_summer.submit(picture(), to_summer.find_style("midday"))(),
                "code": to_summer.submit(picture(), np.float32(code))(),
                "mixed": StrengthTranslator(to_summer, 0.5)(picture()),
            }
            for one, other in itertools.combinations(results.values(), 2):
                assert psnr(one, other) < OTHER
            await viewer.shows(results["winter"])
            viewer.send(target="summer")
            await viewer.shows(results["summer"])
            viewer.send(target="summer", style="midday")
            await viewer.shows(results["midday"])
            viewer.send(target="summer", style=code)
            await viewer.shows(results["code"])
            viewer.send(target="summer", style=7)
            await viewer.shows(results["code"])
            viewer.send(target="summer", strength=0.5)
            await viewer.shows(results["mixed"])
            viewer.send(target="winter", size=64)
            await viewer.shows(results["winter"])
            viewer.messages.clear()
            told = {}

            def counted() -> bool:
                told.update(viewer.messages[-1] if viewer.messages else {})
                return told.get("target") == "winter" and told["fps"] > 0

            await viewer.until(counted)
            assert (told["width"], told["height"], told["backend"]) == (96, 64, "cpu")
            assert 0 <= told["received"] - told["translated"] - told["dropped"] <= 2  # nothing waits
            assert 0 < told["delay_ms"] < 60_000

    asyncio.run(run())


def test_ten_sessions_one_after_the_other(bundle, monkeypatch):
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 3600)

    async def run() -> None:
        async with serving(bundle) as sessions:
            for _ in range(10):
                async with watching(sessions):
                    assert sessions.count == 1
                await until_free(sessions)  # by its goodbye: its silence is not noticed
            assert sessions.opened == 10

    asyncio.run(run())


def test_one_viewer_too_many_is_told_and_gets_in_later(bundle, monkeypatch):
    monkeypatch.setattr(live_session, "PATIENCE", 0.1)

    async def run() -> None:
        async with serving(bundle, 2) as sessions, watching(sessions), Viewer(picture()) as third:
            async with watching(sessions, target="summer"):
                with pytest.raises(PoolBusyError, match="all 2 sessions are taken"):
                    await sessions.open(await third.offer(), LiveOptions())
            await until_one_place(sessions)
            await third.accept(await sessions.open(await third.offer(), LiveOptions()))
            await third.until(lambda: third.results > 0)

    async def until_one_place(sessions: LiveSessions) -> None:
        while sessions.count > 1:
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_viewer_that_vanishes_frees_its_place(bundle, monkeypatch):
    async def run() -> None:
        async with serving(bundle) as sessions:
            viewer = await asyncio.create_subprocess_exec(
                sys.executable,
                Path(__file__).parents[2] / "lost_viewer.py",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            answer = await sessions.open(json.loads(await viewer.stdout.readline()), LiveOptions())
            viewer.stdin.write(json.dumps(answer).encode() + b"\n")
            assert await viewer.stdout.readline() == b"results\n"
            viewer.kill()
            await viewer.wait()
            monkeypatch.setattr(live_session, "SILENT_SECONDS", 0.5)
            await until_free(sessions)
            monkeypatch.setattr(live_session, "SILENT_SECONDS", 3600)
            async with watching(sessions):
                pass

    asyncio.run(run())


def test_a_viewer_that_never_connects_frees_its_place(bundle, monkeypatch):
    monkeypatch.setattr(live_session, "CONNECT_SECONDS", 0.2)

    async def run() -> None:
        async with serving(bundle) as sessions, Viewer(picture()) as viewer:
            await sessions.open(await viewer.offer(), LiveOptions())
            assert sessions.opened == 1
            await until_free(sessions)

    asyncio.run(run())


def test_a_camera_that_stops_ends_the_session_with_words(bundle, monkeypatch):
    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions) as viewer:
            viewer.sent.pause()
            monkeypatch.setattr(live_session, "SILENT_SECONDS", 0.5)
            await viewer.until(lambda: viewer.peer.connectionState == "closed")
            assert viewer.problem() == "no frames have come for 0.5 seconds"

    asyncio.run(run())


def test_frames_that_wait_to_be_decoded_are_bounded(bundle, monkeypatch):
    ended, end = threading.Event(), live_session.LiveSession.end

    def watched_end(session, *reason) -> None:
        end(session, *reason)
        ended.set()

    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions) as viewer:
            monkeypatch.setattr(live_session, "MAX_UNDECODED", 3)
            monkeypatch.setattr(live_session.LiveSession, "end", watched_end)
            monkeypatch.setattr(Vp8Decoder, "decode", lambda *_: ended.wait(90) and [])
            await viewer.until(lambda: viewer.peer.connectionState == "closed")
            assert viewer.problem() == "frames come faster than this machine decodes them"

    asyncio.run(run())


def test_a_stopping_server_ends_its_sessions(bundle):
    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions) as viewer:
            await sessions.close()
            await viewer.until(lambda: viewer.peer.connectionState == "closed")
            assert viewer.problem() == "the server stops"
            with pytest.raises(DsmapError, match="the server stops"):
                await sessions.open("", LiveOptions())

    asyncio.run(run())


def test_a_translation_that_fails_ends_the_session_with_words(bundle, monkeypatch, caplog):
    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions) as viewer:
            monkeypatch.setattr(LiveTranslation, "__call__", lambda *_: 1 // 0)
            await viewer.until(lambda: viewer.peer.connectionState == "closed")
            assert viewer.messages[-1]["fact"] == "the translation has failed"
            assert viewer.messages[-1]["ended"]
            await until_free(sessions)

    asyncio.run(run())
    assert "ZeroDivisionError" in caplog.text


def test_frames_of_any_size_and_a_size_that_changes(bundle, to_winter):
    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions, picture(81, 67)) as viewer:
            await viewer.shows(to_winter(picture(81, 67)))
            viewer.sent.image_rgb = picture(64, 128)
            await viewer.shows(to_winter(picture(64, 128)))
            viewer.send(size=64)  # of 160x90
            viewer.sent.image_rgb = picture(160, 90)
            await viewer.until(lambda: viewer.result_rgb.shape == (64, 114, 3))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("{", "the options are not valid"),
        ("[" * 20_000, "the options are not valid"),
        ('{"target": "winter"}' + " " * 200_000, "longer than 131072 bytes"),
        (b"\x00\xff", "the message is not text"),
        ('{"target": "autumn"}', "no domain 'autumn'"),
        ('{"style": "/etc/passwd"}', "not the name of a style"),
        ('{"style": "snow"}', "no style snow for winter"),
        ('{"style": [1, 2]}', "the style code has 2 numbers, expected 8"),
        ('{"style": [1, 2, NaN]}', "the options are not valid"),
        ('{"style": -1}', "the options are not valid"),
        ('{"strength": 1.5}', "strength"),
        ('{"strength": NaN}', "the options are not valid"),
        ('{"size": 100000}', "size"),
        ('{"size": "64"}', "size"),
        ('{"path": "x"}', "path"),
    ],
)
def test_a_message_that_is_wrong(bundle, message, words):
    from dsmap.runtime.serve.live_options import read_options

    with pytest.raises(InputError) as told:
        read_options(message, bundle.manifest)
    assert words in told.value.fact
    assert len(told.value.fact) < 400


def test_a_wrong_message_is_told_and_the_session_goes_on(bundle, to_winter):
    async def run() -> None:
        async with serving(bundle) as sessions, watching(sessions) as viewer:
            viewer.send(target="nowhere")
            await viewer.until(viewer.problem)
            assert viewer.problem() == "the model has no domain 'nowhere'"
            extra = viewer.peer.createDataChannel("another")
            await viewer.until(lambda: extra.readyState == "closed")
            await viewer.shows(to_winter(picture()))

    asyncio.run(run())


BAD_OFFERS = {
    "nothing": lambda sdp: "",
    "no SDP": lambda sdp: "hello\r\nworld",
    "binary": lambda sdp: "\x00\udcff" * 100,
    "too long": lambda sdp: sdp + "a=x\r\n" * 20_000,
    "no video": lambda sdp: re.sub(r"m=video.*?(?=m=application)", "", sdp, flags=re.DOTALL),
    "no data channel": lambda sdp: sdp.partition("m=application")[0],
    "two videos": lambda sdp: sdp + "m=video" + sdp.partition("m=video")[2].partition("m=application")[0],
    "a sound": lambda sdp: sdp.replace("m=video", "m=audio"),
    "no fingerprint": lambda sdp: re.sub(r"a=fingerprint.*\r\n", "", sdp),
    "no ICE": lambda sdp: re.sub(r"a=ice-pwd.*\r\n", "", sdp),
    "no VP8": lambda sdp: sdp.replace("VP8", "VP7"),
    "only sending": lambda sdp: sdp.replace("a=sendrecv", "a=sendonly"),
    "no bundle": lambda sdp: re.sub(r"a=group:BUNDLE.*\r\n", "", sdp),
    "bundle of others": lambda sdp: sdp.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 7 8"),
    "one name twice": lambda sdp: sdp.replace("a=mid:1", "a=mid:0"),
    "odd numbers": lambda sdp: sdp.replace("a=sctp-port:5000", "a=sctp-port:x"),
    "odd codec": lambda sdp: sdp.replace("VP8/90000", "VP8/" + "9" * 5000),
    "odd setup": lambda sdp: sdp.replace("a=setup:actpass", "a=setup:nonsense"),
    "weak hash": lambda sdp: re.sub(r"a=fingerprint:\S+ \S+", "a=fingerprint:md5 00", sdp),
}


def test_bad_offers_are_refused_and_take_no_place(bundle):
    async def run() -> None:
        async with serving(bundle) as sessions, Viewer(picture()) as viewer:
            good = await viewer.offer()
            for name, spoil in BAD_OFFERS.items():
                bad = spoil(good)
                assert bad != good, name
                with pytest.raises(InputError) as told:
                    await sessions.open(bad, LiveOptions())
                assert told.value.fact.startswith("the offer "), name
                assert len(told.value.fact) < 300, name
            await until_free(sessions)
            assert sessions.opened == 0
            await viewer.accept(await sessions.open(good, LiveOptions()))
            await viewer.until(lambda: viewer.results > 0)

    asyncio.run(run())


def test_mangled_offers_are_offers_or_refused(bundle):
    """Whatever the parser raises, it is one error for people."""

    async def run() -> str:
        async with Viewer(picture()) as viewer:
            return await viewer.offer()

    good, rng, refused = asyncio.run(run()).splitlines(), random.Random(5), 0
    for _ in range(500):
        lines = list(good)
        for _ in range(rng.randint(1, 3)):
            at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            match rng.randrange(5):
                case 0:
                    del lines[at]
                case 1:
                    lines.insert(other, lines[at])
                case 2:
                    lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
                case 3:
                    lines[at] = lines[at].replace(
                        rng.choice("0 :/-="), rng.choice(["", "9" * 30, "\x00", "\U0001f600"])
                    )
                case 4:
                    lines[at], lines[other] = lines[other], lines[at]
        try:
            offer = SessionDescription.parse(checked_offer("\r\n".join(lines)).sdp)
            assert [media.ice_candidates for media in offer.media] == [[], []]
        except InputError:
            refused += 1
    assert 50 < refused < 450


def test_the_server_sends_nothing_to_addresses_in_an_offer(bundle):
    """Else an offer could make it knock at other machines."""

    async def run() -> None:
        async with serving(bundle) as sessions, Viewer(picture()) as viewer:
            offer = await viewer.offer()
            host, port = re.search(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", offer).groups()
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as bystander:
                bystander.bind((host, 0))
                bystander.settimeout(0.0)
                offer = offer.replace(f"{host} {port} typ", f"{host} {bystander.getsockname()[1]} typ")
                await viewer.accept(await sessions.open(offer, LiveOptions()))
                await viewer.until(lambda: viewer.results > 0)  # found by its own call
                with pytest.raises(BlockingIOError):
                    bystander.recv(100)

    asyncio.run(run())
