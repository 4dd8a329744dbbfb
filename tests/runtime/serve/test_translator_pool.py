"""The pool of translators: one user each, busy beyond, both directions in one place."""

import asyncio
import threading
import time

import numpy as np
import pytest

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.serve.pool import PoolBusyError, TranslatorPool
from dsmap.runtime.translator import Translator

FRAME = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)


def pooled(tiny_bundle, sessions: int, use) -> None:
    """Runs `use(pool)` in an event loop."""

    async def run() -> None:
        pool = TranslatorPool(Bundle.open(tiny_bundle), sessions=sessions, backend="cpu")
        await use(pool)
        assert pool.in_use == 0
        await pool.close()

    asyncio.run(run())


def test_beyond_the_sessions_it_says_busy_at_once(tiny_bundle):
    async def use(pool: TranslatorPool) -> None:
        async with pool.lease("winter"), pool.lease("winter"):
            began = time.monotonic()
            with pytest.raises(PoolBusyError, match="all 2 sessions are taken"):
                async with pool.lease("winter"):
                    pass
            assert time.monotonic() - began < 120
            with pytest.raises(PoolBusyError):
                async with pool.lease("summer", patience=0.05):
                    pass
        async with pool.lease("winter", patience=0.05):
            assert pool.in_use == 1

    pooled(tiny_bundle, 2, use)


def test_an_unknown_domain_takes_no_place(tiny_bundle):
    async def use(pool: TranslatorPool) -> None:
        with pytest.raises(InputError, match="autumn"):
            async with pool.lease("autumn"):
                pass
        async with pool.lease("winter") as lease:
            with pytest.raises(InputError, match="autumn"):
                await lease.switch("autumn")
            assert lease.translator.target == "winter"

    pooled(tiny_bundle, 1, use)


def test_a_lease_switches_and_the_next_user_finds_nothing_of_it(tiny_bundle):
    own = Translator.load(tiny_bundle, domain="winter", backend="cpu")

    async def use(pool: TranslatorPool) -> None:
        async with pool.lease("summer") as lease:
            await lease.switch("winter")
            lease.translator.set_style(3)
            await lease.run(lambda: lease.at_strength(0.5)(FRAME))
            used = lease.translator
        async with pool.lease("winter") as lease:
            assert lease.translator is used
            assert np.array_equal(await lease.run(lease.at_strength(1), FRAME), own(FRAME))

    pooled(tiny_bundle, 1, use)
    own.close()


def test_a_single_session_keeps_both_directions_and_no_more(tiny_bundle):
    async def use(pool: TranslatorPool) -> None:
        await pool.warm_up()
        seen = set()
        for target in ("winter", "summer", "winter", "summer"):
            async with pool.lease(target) as lease:
                seen.add(id(lease.translator))
        assert len(seen) == 2
        assert pool._loaded == 2

    pooled(tiny_bundle, 1, use)


def test_a_cancelled_call_is_waited_for(tiny_bundle):
    """Else the next user's frames would go to a translator that is still at work."""

    async def use(pool: TranslatorPool) -> None:
        begun, ended = threading.Event(), threading.Event()

        def slowly() -> None:
            begun.set()
            time.sleep(0.2)
            ended.set()

        async def user() -> None:
            async with pool.lease("winter") as lease:
                await lease.run(slowly)

        task = asyncio.create_task(user())
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    pooled(tiny_bundle, 1, use)


def test_what_runs_is_cancelled_and_the_translator_stays_usable(tiny_bundle):
    async def use(pool: TranslatorPool) -> None:
        async with pool.lease("winter") as lease:

            def for_ever() -> None:
                while True:
                    lease.translator(large)

            large = np.zeros((400, 400, 3), np.uint8)
            work = asyncio.ensure_future(lease.run(for_ever))
            async with asyncio.timeout(180):
                while not work.done():
                    await asyncio.sleep(0.02)
                    lease.cancel()
            assert isinstance(work.exception(), DsmapError)
            assert (await lease.run(lease.translator, FRAME)).shape == FRAME.shape

    pooled(tiny_bundle, 1, use)
