"""The live sessions of a server: opened by an offer, ended together when the server stops."""

import asyncio
import contextlib

from dsmap.errors import DsmapError
from dsmap.runtime.serve.live_options import LiveOptions, checked
from dsmap.runtime.serve.live_session import LiveSession, raise_bitrates
from dsmap.runtime.serve.offers import checked_offer
from dsmap.runtime.serve.pool import TranslatorPool

_STOP_SECONDS = 5.0


class LiveSessions:
    """Sessions with browsers, each with a translator of the pool. Use it from one event loop."""

    def __init__(self, pool: TranslatorPool) -> None:
        raise_bitrates()
        self.opened = 0
        """Sessions so far, without those that were refused."""
        self._pool = pool
        self._running: dict[LiveSession, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def count(self) -> int:
        """Sessions now."""
        return len(self._running)

    async def open(self, offer: str, options: LiveOptions) -> str:
        """Begins a session and returns the answer's SDP.

        Raises InputError for an invalid offer or option, and PoolBusy when all translators are taken.
        """
        if self._closed:
            raise DsmapError("the server stops", "Try again later.")
        description = checked_offer(offer)
        session = LiveSession(self._pool, checked(options, self._pool.bundle.manifest))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(session.run(description, answer))
        self._running[session] = task
        task.add_done_callback(lambda _: self._running.pop(session))
        try:
            sdp = await answer
        except asyncio.CancelledError:
            session.end("the browser has left")
            raise
        self.opened += 1
        return sdp

    async def close(self) -> None:
        """Ends all sessions, and waits until their translators are free."""
        self._closed = True
        for session in list(self._running):
            session.end("the server stops", "Start again when it is back.")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.gather(*self._running.values(), return_exceptions=True)
