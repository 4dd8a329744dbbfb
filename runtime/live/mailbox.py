"""A place for one item between two threads: the newest wins, so nothing that waits grows old."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestFrame(Generic[Item]):
    """Holds the newest item until it is taken; one that nobody took in time is replaced, and counted in `dropped`."""

    def __init__(self) -> None:
        self.count = 0
        """Items that were put here."""
        self.dropped = 0
        self._item: Item | None = None
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Leave an item; an older one goes."""
        with self._changed:
            self.count += 1
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self, timeout: float) -> Item | None:
        """The newest item that was not taken yet; None when there is none within `timeout` seconds."""
        with self._changed:
            if self._item is None:
                self._changed.wait(timeout)
            item, self._item = self._item, None
            return item

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._item is None

    def clear(self) -> int:
        """Forget what waits, without counting it as dropped; how many that were."""
        with self._changed:
            forgotten, self._item = int(self._item is not None), None
            return forgotten
