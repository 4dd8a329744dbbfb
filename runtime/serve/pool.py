"""Translators for those who use the server at the same time: at most so many, one for each.

    pool = TranslatorPool(bundle, sessions=2)
    async with pool.lease("winter") as lease:  # PoolBusyError when all are taken
        winter_rgb = await lease.run(lease.translator, summer_rgb)
        await lease.switch("summer")  # the other direction, in the same place
        summer_rgb = await lease.run(lease.at_strength(0.6), winter_rgb)

Translators that are given back stay loaded for the next one who wants their domain.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import ParamSpec, TypeVar

from dsmap.errors import DsmapError
from dsmap.runtime.bundle.bundle import Bundle
from dsmap.runtime.frame_translator import FrameTranslator
from dsmap.runtime.styles.strength import StrengthTranslator, check_strength
from dsmap.runtime.translator import Translator

P = ParamSpec("P")
R = TypeVar("R")

_LOADED_BEYOND = 1  # translators that stay loaded beyond the number of sessions: both directions of a single one


class PoolBusyError(DsmapError):
    """All translators are taken."""

    def __init__(self, sessions: int, retry_after: int = 5) -> None:
        many = "the only session is" if sessions == 1 else f"all {sessions} sessions are"
        super().__init__(f"the server is busy: {many} taken", "Try again later.")
        self.retry_after = retry_after
        """Seconds after which it is worth trying again."""


class PooledTranslator:
    """A loaded translator, and its reconstruction once somebody has asked for a strength below 1."""

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        self.mixing: StrengthTranslator | None = None

    def close(self) -> None:
        """Frees what both hold."""
        (self.mixing or self.translator).close()


class TranslatorLease:
    """A translator that nobody else uses until the end of the `lease` block."""

    def __init__(self, pool: "TranslatorPool", pooled: PooledTranslator) -> None:
        self._pool, self._pooled = pool, pooled
        self._one_at_a_time = asyncio.Lock()

    @property
    def translator(self) -> Translator:
        """The translator; set its style as you like."""
        return self._pooled.translator

    def at_strength(self, strength: float) -> FrameTranslator:
        """What translates with this strength; of two at a time only the later one is valid.

        Slow at the first strength below 1, which loads the reconstruction: call it within `run`. Raises InputError for
        a strength outside 0..1.
        """
        check_strength(strength)
        if strength == 1:
            return self.translator
        if self._pooled.mixing is None:
            self._pooled.mixing = StrengthTranslator(self.translator, 0.5)
        self._pooled.mixing.strength = float(strength)
        return self._pooled.mixing

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls `function` in a thread, one call of this lease at a time.

        When the caller is cancelled, it still waits for the call to end: a translator has one user at a time.
        """
        async with self._one_at_a_time:
            return await _to_its_end(function, *args, **kwargs)

    def cancel(self) -> None:
        """Ends what runs as soon as the backend can: the call raises DsmapError, and the translator stays usable."""
        (self._pooled.mixing or self.translator).cancel()

    async def switch(self, target: str) -> None:
        """Exchanges the translator for one to the domain `target`, with the mean style. Raises as `lease`."""
        async with self._one_at_a_time:
            if target != self.translator.target:
                pooled = await self._pool.take(target)
                self._pool.put(self._pooled)
                self._pooled = pooled

    async def end(self) -> None:
        """Gives the translator back once nothing runs on it."""
        async with self._one_at_a_time:
            self._pool.put(self._pooled)


class TranslatorPool:
    """At most `sessions` translators in use at once. All methods are called from one event loop."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        sessions: int,
        backend: str = "auto",
        precision: str = "auto",
        cuda_binding: str = "auto",
        trust_engines: bool = False,
    ) -> None:
        self.bundle, self.sessions = bundle, sessions

        def load(target: str) -> Translator:
            return Translator.load(
                bundle,
                domain=target,
                backend=backend,
                precision=precision,
                cuda_binding=cuda_binding,
                trust_engines=trust_engines,
            )

        self._load_translator = load
        self._idle: list[PooledTranslator] = []  # the longest idle one first
        self._loaded = 0
        self._places = asyncio.Semaphore(sessions)
        self._loading = asyncio.Lock()
        self.in_use = 0
        """Sessions that are taken."""
        self.backend_name = ""
        """The backend of what was loaded last."""

    @contextlib.asynccontextmanager
    async def lease(self, target: str, *, patience: float = 0.0) -> AsyncIterator[TranslatorLease]:
        """A translator to the domain `target` with its mean style, until the end of the block.

        `patience`: seconds to wait for one; 0: none. Raises PoolBusyError when all are taken, InputError for an unknown
        domain, DsmapError when the model does not run.
        """
        self.bundle.source_of(target)
        await self._take_place(patience)
        self.in_use += 1
        try:
            lease = TranslatorLease(self, await self.take(target))
            try:
                yield lease
            finally:
                await lease.end()
        finally:
            self.in_use -= 1
            self._places.release()

    async def warm_up(self) -> None:
        """Loads a translator for each direction, so that a model that does not run is known before anybody asks.

        Raises DsmapError.
        """
        for target in self.bundle.manifest.targets:
            self.put(await self._load(target))

    async def take(self, target: str) -> PooledTranslator:
        """An idle translator to `target`, or a new one, whose place the caller has. Raises DsmapError."""
        for pooled in reversed(self._idle):
            if pooled.translator.target == target:
                self._idle.remove(pooled)
                return pooled
        while self._idle and self._loaded >= self.sessions + _LOADED_BEYOND:
            self._loaded -= 1
            await _to_its_end(self._idle.pop(0).close)
        return await self._load(target)

    def put(self, pooled: PooledTranslator) -> None:
        """Takes a translator back; nothing may be under way on it."""
        pooled.translator.set_style(None)
        if pooled.mixing is not None:
            pooled.mixing.start_clip()
        self._idle.append(pooled)

    async def close(self) -> None:
        """Frees all translators that are not in use."""
        while self._idle:
            self._loaded -= 1
            await _to_its_end(self._idle.pop().close)

    async def _load(self, target: str) -> PooledTranslator:
        async with self._loading:  # one after the other: they share the bundle's files
            translator = await _to_its_end(self._load_translator, target)
        self._loaded += 1
        self.backend_name = translator.backend_name
        return PooledTranslator(translator)

    async def _take_place(self, patience: float) -> None:
        if self._places.locked() and not patience:
            raise PoolBusyError(self.sessions)
        try:
            async with asyncio.timeout(patience or None):
                await self._places.acquire()
        except TimeoutError:
            raise PoolBusyError(self.sessions) from None


async def _to_its_end(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls `function` in a thread; a cancellation is raised when it has returned, not before."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
