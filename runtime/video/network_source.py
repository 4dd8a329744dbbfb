"""Reading a video from an address: the packets of a `NetworkFeed`, as long as they give frames."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from av.packet import Packet

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.video.addresses import NetworkSettings, check_address, shown
from dsmap.runtime.video.file_source import flush_packets
from dsmap.runtime.video.network_feed import NetworkFeed, unfailing
from dsmap.runtime.video.patience import Patience

_QUEUED_PACKETS = 256
_POLL = 0.1  # seconds after which whoever waits looks whether it should stop
_SHORT = Fraction(1)  # seconds that may be missing at the end of a file: durations in headers are not that exact
_SAME_CLOCK = Fraction(30)  # seconds by which a clock that went on may be ahead
_END: Any = object()


class NetworkSource:
    """The packets of the stream at `address`, read by a thread. Raises InputError when it cannot be opened.

    A connection that breaks off is re-established, with growing pauses: `notify` gets a line about each step (from the
    thread), and `reconnections` counts. Timestamps never jump back, and the gap stays. If reconnecting fails, or no
    frame comes for too long (see `saw_frame`), the packets end and `broken_off` says why. Any other error in the thread
    is raised by `packets`.
    """

    failures = 0
    threads = "AUTO"

    def __init__(self, address: str, settings: NetworkSettings | None = None, notify: Notify | None = None) -> None:
        check_address(address)
        self.name = shown(address)
        settings = settings or NetworkSettings()
        self._patience = Patience(settings.frame_seconds)
        self._new_feed = lambda: NetworkFeed(address, settings, unfailing(notify))
        self._feed = self._new_feed()
        self.container = self._feed.wait_until_open()
        self._started = False

    @property
    def reconnections(self) -> int:
        """How often the connection was re-established."""
        return self._feed.reconnections

    @property
    def broken_off(self) -> DsmapError | None:
        """Why the stream ended early; None where it did not."""
        return self._feed.broken_off

    def restart(self, at: Fraction | None) -> None:
        """Go to a keyframe at or before `at` seconds; None: to the beginning. A live stream just continues."""
        if self._started and self.container.duration is not None:
            self._feed.cancel()
            self._feed = self._new_feed()
            self.container = self._feed.wait_until_open()
        self._feed.seek_to = at if self.container.duration is not None else None

    def packets(self) -> Iterator[Packet]:
        """All packets of all streams. After a reconnection they belong to a new container."""
        self._started = True
        feed, patience, container = self._feed, self._patience, self.container
        patience.leave_out()
        for packet in feed.packets():
            if packet is None and feed.connecting:
                patience.leave_out()
            elif packet is None:
                patience.count()
            else:
                if packet.stream.container is not container:  # connected again
                    container = packet.stream.container
                    patience.saw_frame()
                with patience.decoding(counts=packet.stream.type == "video"):
                    yield packet
            if patience.is_over:
                feed.give_up(patience.seconds)
                yield from flush_packets(container)
                return

    def saw_frame(self) -> None:
        """Report that the packets gave a frame: without any the stream is given up."""
        self._patience.saw_frame()

    def cancel(self) -> None:
        """End `packets` soon. Any thread may call it."""
        self._feed.cancel()

    def close(self) -> None:
        """End the thread, which closes the connection."""
        self._feed.cancel()
