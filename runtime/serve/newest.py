"""A mailbox for one item between two tasks of an event loop: the newest replaces an older one, so no queue grows."""

import asyncio
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Newest(Generic[Thing]):
    """Holds the newest item until it is taken. Use it from one event loop."""

    def __init__(self) -> None:
        self.count = 0
        """Items put so far."""
        self.dropped = 0
        """Of those, how many were replaced before they were taken."""
        self._item: Thing | None = None
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, item: Thing) -> None:
        """Puts an item, replacing an older one."""
        self.count += 1
        self.dropped += self._item is not None
        self._item = item
        self._changed.set()

    async def take(self) -> Thing | None:
        """The newest item not yet taken, as soon as there is one; None once it is closed."""
        await self._changed.wait()
        if self._closed:
            return None
        item, self._item = self._item, None
        self._changed.clear()
        return item

    def close(self) -> None:
        """Nothing comes any more: whoever waits gets None."""
        self._closed, self._item = True, None
        self._changed.set()
