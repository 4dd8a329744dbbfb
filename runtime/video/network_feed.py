"""The thread that reads from a video's address: it queues packets, and reconnects when the connection breaks."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
from av.container import InputContainer
from av.packet import Packet

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError
from dsmap.runtime.video.addresses import WEB, NetworkSettings, scheme_of, shown
from dsmap.runtime.video.file_source import MAX_READ_FAILURES, flush_packets
from dsmap.runtime.video.media import open_address

_QUEUED_PACKETS = 256
_POLL = 0.1  # seconds after which whoever waits looks whether it should stop
_SHORT = Fraction(1)  # seconds that may be missing at the end of a file: durations in headers are not that exact
_SAME_CLOCK = Fraction(30)  # seconds by which a clock that went on may be ahead
_END: Any = object()


class NetworkFeed:
    """One thread with one connection at a time."""

    def __init__(self, address: str, settings: NetworkSettings, notify: Notify) -> None:
        self.reconnections = 0
        self.broken_off: DsmapError | None = None
        self.connecting = False
        """Whether it is reconnecting."""
        self.seek_to: Fraction | None = None
        self._address, self._settings, self._notify = address, settings, notify
        self._queue: queue.Queue[Any] = queue.Queue(_QUEUED_PACKETS)
        self._opened, self._go, self._cancelled = threading.Event(), threading.Event(), threading.Event()
        self._first: InputContainer | BaseException | None = None
        self._error: BaseException | None = None  # what ended the thread, after it was open
        self._clock = _LiveClock()
        self._ends: dict[int, int] = {}  # of every stream: the last packet's dts
        # A daemon: a call that hangs in the network must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> InputContainer:
        try:
            while not self._opened.wait(_POLL):
                pass
        except BaseException:  # Ctrl-C
            self.cancel()
            raise
        if isinstance(self._first, InputContainer):
            return self._first
        assert self._first is not None
        raise self._first

    def packets(self) -> Iterator[Packet | None]:
        """Packets; None when nothing has come for a moment."""
        self._go.set()
        while not self._cancelled.is_set():
            try:
                packet = self._queue.get(timeout=_POLL)
            except queue.Empty:
                yield None
                continue
            if packet is _END:
                if self._error is not None:
                    raise self._error
                return
            yield packet

    def cancel(self) -> None:
        self._cancelled.set()

    def give_up(self, seconds: float) -> None:
        """End a stream that gives no frames."""
        self.broken_off = DsmapError(
            f"{shown(self._address)} sent no frame that can be decoded for {seconds:g} s",
            "everything received so far is kept; check the sender, and that the address is that of a video",
        )
        self.cancel()

    def _run(self) -> None:
        try:
            container = self._first = open_address(self._address, self._settings)
        except BaseException as error:
            self._first = error
            return
        finally:
            self._opened.set()
        while not self._go.wait(_POLL):
            if self._cancelled.is_set():
                return
        try:
            if self.seek_to is not None:
                _seek(container, self.seek_to)
            self._read_all(container)
        except BaseException as error:  # or the reader would wait for ever
            self._error = error
        self._put(_END)

    def _read_all(self, container: InputContainer | None) -> None:
        tries, end = 0, Fraction(-1)
        while container is not None:
            if self._read(container) or self._cancelled.is_set():
                return
            if self._clock.end > end + 1:  # it got on: the next break is a new one
                tries, end = 0, self._clock.end
            self.connecting = True
            container, tries = self._connect_again(container, tries)
            self.connecting = False

    def _read(self, container: InputContainer) -> bool:
        """Whether the stream came to its proper end."""
        failures = 0
        while failures < MAX_READ_FAILURES:
            try:
                for packet in _without_cut(container):
                    failures = 0
                    if self._is_new(packet) and not self._put(self._clock.moved(packet)):
                        return True
                return self._is_whole(container)
            except IndexError:
                # PyAV, at the very end, where streams have appeared that were not there at the beginning.
                return self._is_whole(container)
            except av.error.InvalidDataError:  # damage, and the next packet may be well
                failures += 1
            except (av.FFmpegError, OSError):
                break
        for packet in flush_packets(container):
            self._put(packet)
        return False

    def _is_whole(self, container: InputContainer) -> bool:
        if container.duration is not None:
            start = Fraction(container.start_time or 0, av.time_base)
            return self._clock.end >= start + Fraction(container.duration, av.time_base) - _SHORT
        return scheme_of(self._address) in WEB  # a live stream has no end

    def _connect_again(self, broken: InputContainer, tries: int) -> tuple[InputContainer | None, int]:
        name, settings = shown(self._address), self._settings
        lost = self._clock.end
        for number in range(tries, settings.tries):
            pause = min(settings.first_pause * 2**number, settings.longest_pause)
            self._notify(f"{name} broke off: trying again in {pause:g} s ({number + 1} of {settings.tries})")
            if self._cancelled.wait(pause):
                return None, 0
            try:
                container = open_address(self._address, settings)
            except DsmapError:
                continue
            if [stream.type for stream in container.streams] != [stream.type for stream in broken.streams]:
                continue  # something else is sent now
            self.reconnections += 1
            self._notify(f"{name} is connected again")
            if container.duration is not None and _seek(container, lost):
                self._clock.same()
            else:
                self._ends.clear()
                self._clock.restarted()
            return container, number + 1
        self.broken_off = DsmapError(
            f"{name} broke off after {float(lost):.1f} s and did not come back in {settings.tries} tries",
            "everything received so far is kept; check the network and the sender",
        )
        return None, 0

    def _is_new(self, packet: Packet) -> bool:
        """False for packets that already came before the break. Video needs them all, from the keyframe on."""
        if packet.dts is None or packet.stream.type == "video":
            return True
        index = packet.stream.index
        if self.reconnections and packet.dts <= self._ends.get(index, packet.dts - 1):
            return False
        self._ends[index] = packet.dts
        return True

    def _put(self, packet: Any) -> bool:
        while not self._cancelled.is_set():
            try:
                self._queue.put(packet, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False


def _without_cut(container: InputContainer) -> Iterator[Packet]:
    """The packets of all streams, but for one that a break has cut off: it comes again, whole, after it."""
    held = None
    try:
        for packet in container.demux():
            if held is not None:
                yield held
            held = packet if packet.is_corrupt else None
            if held is None:
                yield packet
    except av.error.InvalidDataError:  # no break: what is damaged may still give a frame
        if held is not None:
            yield held
        raise
    if held is not None:
        yield held


class _LiveClock:
    """Shifts the timestamps of a restarted stream so that they continue after the gap."""

    def __init__(self) -> None:
        self.end = Fraction(0)
        """End of everything received, in seconds."""
        self._moved_by = Fraction(0)
        self._last_arrival = time.monotonic()
        self._check = False

    def same(self) -> None:
        """The next packets have the clock of those before."""
        self._check = False

    def restarted(self) -> None:
        """The next packets may have a new clock."""
        self._check = True

    def moved(self, packet: Packet) -> Packet:
        time_stamp = packet.dts if packet.dts is not None else packet.pts
        if time_stamp is None:
            return packet
        at = time_stamp * packet.time_base
        if self._check:
            self._check = False
            gap = Fraction(round((time.monotonic() - self._last_arrival) * 1000), 1000)
            ahead = at + self._moved_by - self.end
            if not -Fraction(1, 20) <= ahead <= gap + _SAME_CLOCK:
                self._moved_by = self.end + gap - at
        self._last_arrival = time.monotonic()
        if self._moved_by:
            ticks = round(self._moved_by / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        self.end = max(self.end, at + self._moved_by + (packet.duration or 0) * packet.time_base)
        return packet


def unfailing(notify: Notify | None) -> Notify:
    """`notify` without its failures: a closed terminal, or a pipe whose reader has gone, must not stop the reading."""

    def unfailing(line: str) -> None:
        if notify is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: a closed file
                notify(line)

    return unfailing


def _seek(container: InputContainer, at: Fraction) -> bool:
    try:
        container.seek(max(0, int(at * av.time_base)))
    except (av.FFmpegError, OSError):
        return False
    return True
