"""A mailbox for one item between two threads: the latest replaces an older one, so nothing waits and grows old."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestFrame(Generic[Item]):
    """Holds the latest item until it is taken; one that is replaced before that is counted in `dropped`."""

    def __init__(self) -> None:
        self.count = 0
        """Items put so far."""
        self.dropped = 0
        self._item: Item | None = None
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Put an item, replacing an older one."""
        with self._changed:
            self.count += 1
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self, timeout: float) -> Item | None:
        """The latest item not yet taken; None if none comes within `timeout` seconds."""
        with self._changed:
            if self._item is None:
                self._changed.wait(timeout)
            item, self._item = self._item, None
            return item

    @property
    def empty(self) -> bool:
        """Whether no item is waiting."""
        return self._item is None

    def clear(self) -> int:
        """Discard a waiting item without counting it as dropped; returns how many there were (0 or 1)."""
        with self._changed:
            forgotten, self._item = int(self._item is not None), None
            return forgotten
