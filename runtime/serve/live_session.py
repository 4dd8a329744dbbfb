"""One viewer's WebRTC session: frames come in, the newest one is translated, results go out.

One task holds the session from its offer to its end, and with it a place of the pool: whatever ends the session frees
the place as soon as the frame under way is done.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import get_capabilities, vpx
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.frame import VideoFrame

from dsmap.errors import DsmapError, InputError
from dsmap.runtime.live.statistics import LiveStatistics
from dsmap.runtime.serve.live_options import LiveOptions, LiveProblem, LiveStatisticsMessage, read_options
from dsmap.runtime.serve.live_translation import LiveTranslation
from dsmap.runtime.serve.newest import Newest
from dsmap.runtime.serve.pool import TranslatorLease, TranslatorPool

CONNECT_SECONDS = 10.0
"""From the answer to the first frame; then the session ends, a little after the page has given up."""
SILENT_SECONDS = 5.0
"""Without a frame, after which the viewer is taken for lost: ICE alone would notice after half a minute."""
MAX_UNDECODED = 100
"""Frames that wait to be decoded, after which the session ends: aiortc's queue of them has no bound."""
STATISTICS_SECONDS = 1.0
"""Between two looks at the session, of which the browser gets the numbers."""
PATIENCE = 2.0
"""Seconds to wait for a place: a page that was reloaded comes back before its old session has ended."""
_CLOSE_SECONDS = 5.0
_MAX_WAITING_BYTES = 64 << 10  # of messages to a browser that does not take them
_CHANNEL = "dsmap"
_UNDECODED = "_RTCRtpReceiver__decoder_queue"  # aiortc has no public way to ask for it
VP8 = [codec for codec in get_capabilities("video").codecs if codec.mimeType in ("video/VP8", "video/rtx")]

_LOG = logging.getLogger(__name__)


def raise_bitrates() -> None:
    """aiortc's bounds suit 640x480 at 15 frames a second; within them the bitrate follows what the browser reports."""
    vpx.MIN_BITRATE, vpx.DEFAULT_BITRATE, vpx.MAX_BITRATE = 250_000, 1_500_000, 8_000_000


class ResultTrack(MediaStreamTrack):
    """The newest result, as often as there is one."""

    kind = "video"

    def __init__(self, results: Newest[VideoFrame]) -> None:
        super().__init__()
        self._results = results

    async def recv(self) -> VideoFrame:
        """The newest frame not yet sent."""
        frame = await self._results.take()
        if frame is None:
            self.stop()
            raise MediaStreamError
        return frame


class LiveSession:
    """A session with one browser. Use it from one event loop."""

    def __init__(self, pool: TranslatorPool, options: LiveOptions) -> None:
        """`options`: checked."""
        self.options = options
        self._pool = pool
        self._frames: Newest[tuple[VideoFrame, float]] = Newest()
        self._results: Newest[VideoFrame] = Newest()
        self._ended = False
        self._heard = time.monotonic()
        self._channel: RTCDataChannel | None = None
        self._translation: LiveTranslation | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._statistics = LiveStatistics()
        self._told = ""

    def end(self, reason: str, advice: str = "") -> None:
        """Ends the session, from its event loop; the first reason counts. With `advice` the browser is told."""
        if not self._ended:
            _LOG.info("live session ends: %s", reason)
            if advice:
                self._send(LiveProblem(fact=reason, advice=advice, ended=True))
            self._ended = True
            self._frames.close()
            self._results.close()
            if self._translation is not None:
                self._translation.cancel()

    def close(self) -> None:
        """Ends the session because nothing is left to do."""
        self.end("over")

    async def run(self, offer: RTCSessionDescription, answer: asyncio.Future[str]) -> None:
        """The whole session. `answer` gets the answer's SDP, or the error that kept the session from beginning."""
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))  # None would ask a STUN server of Google's
        try:
            async with self._pool.lease(self.options.target or "", patience=PATIENCE) as lease:
                with contextlib.closing(self):  # before the lease ends: the next user's frames are not cancelled
                    sdp = await self._negotiate(peer, offer)
                    if not answer.cancelled():
                        answer.set_result(sdp)
                    self._heard = time.monotonic()
                    self._spawn(self._watch(peer))
                    await self._translate(lease)
        except Exception as error:
            if answer.done():
                _LOG.exception("a live session has failed")
            else:
                answer.set_exception(error)
        finally:
            await self._free(peer)

    async def _negotiate(self, peer: RTCPeerConnection, offer: RTCSessionDescription) -> str:
        """The answer's SDP. Raises InputError for an offer that cannot be answered."""
        peer.on("track", lambda track: self._spawn(self._receive(track)))
        peer.on("datachannel", self._open_channel)
        peer.on("connectionstatechange", lambda: self._follow(peer.connectionState))
        peer.addTrack(ResultTrack(self._results))
        # Every browser has VP8, and takes its colours for BT.601; those of untagged H.264 depend on the browser.
        peer.getTransceivers()[0].setCodecPreferences(VP8)
        try:
            await peer.setRemoteDescription(offer)
            await peer.setLocalDescription(await peer.createAnswer())
        except Exception as error:  # aiortc raises many kinds for what checked_offer has not seen
            _LOG.debug("an offer was refused", exc_info=True)
            raise InputError("the offer cannot be answered", "Use another browser, or send a usual offer.") from error
        return peer.localDescription.sdp

    def _follow(self, state: str) -> None:
        if state in ("failed", "closed"):
            self.end(f"the connection is {state}")

    async def _receive(self, track: MediaStreamTrack) -> None:
        """Takes every decoded frame at once: aiortc's own queue has no bound."""
        try:
            while True:
                frame = await track.recv()
                self._heard = time.monotonic()
                if isinstance(frame, VideoFrame):  # it always is
                    self._frames.put((frame, self._heard))
        except MediaStreamError:
            self.end("the browser sends no more frames")

    async def _translate(self, lease: TranslatorLease) -> None:
        """Until the session has ended."""
        while (item := await self._frames.take()) is not None:
            frame, came = item
            try:
                translation = await self._direction(lease)
                result = await lease.run(translation, frame, came, self.options)
            except DsmapError as error:
                self._say(error)
                continue
            except Exception:
                _LOG.exception("a live session has failed")
                self.end("the translation has failed", "Start it again; the server's log says more.")
                return
            self._told = ""
            self._results.put(result)

    async def _direction(self, lease: TranslatorLease) -> LiveTranslation:
        """The translation to the target of the options; where that cannot be loaded, the target stays as it was."""
        target = self.options.target or ""
        if self._translation is None or lease.translator.target != target:
            try:
                await lease.switch(target)
            finally:
                self.options = self.options.model_copy(update={"target": lease.translator.target})
                self._translation = LiveTranslation(lease, self._statistics)
        return self._translation

    def _open_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None or channel.label != _CHANNEL:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._hear)
        channel.on("close", lambda: self.end("the browser has closed the data channel"))

    def _hear(self, message: object) -> None:
        try:
            self.options = read_options(message, self._pool.bundle.manifest)
        except InputError as error:
            self._say(error)

    def _say(self, error: DsmapError) -> None:
        """Tells the browser why something was refused: once, not for every frame."""
        if error.fact != self._told and not self._ended:
            self._told = error.fact
            self._send(LiveProblem(fact=error.fact, advice=error.advice))

    def _send(self, message: LiveProblem | LiveStatisticsMessage) -> None:
        channel = self._channel
        if channel and channel.readyState == "open" and channel.bufferedAmount < _MAX_WAITING_BYTES:
            channel.send(message.model_dump_json())

    async def _watch(self, peer: RTCPeerConnection) -> None:
        """Tells the browser the statistics, and ends the session when no frames come, or more than can be decoded."""
        while True:
            await asyncio.sleep(STATISTICS_SECONDS)
            patience = SILENT_SECONDS if self._frames.count else CONNECT_SECONDS
            if time.monotonic() - self._heard > patience:
                self.end(f"no frames have come for {patience:g} seconds", "Start the camera again.")
            elif _undecoded(peer) > MAX_UNDECODED:
                self.end("frames come faster than this machine decodes them", "Start again with a smaller size.")
            elif self._translation is not None:
                self._send(self.statistics())

    def statistics(self) -> LiveStatisticsMessage:
        """Of the last seconds."""
        recent, whole = self._statistics.now(), self._statistics
        width, height = self._translation.size if self._translation else (0, 0)
        return LiveStatisticsMessage(
            fps=round(recent.fps, 2) if recent else 0.0,
            delay_ms=round(recent.latency, 1) if recent else 0.0,
            translate_ms=round(whole.translating.seconds / whole.frames * 1000, 1) if whole.frames else 0.0,
            received=self._frames.count,
            translated=whole.frames,
            dropped=self._frames.dropped,
            width=width,
            height=height,
            target=self.options.target or "",
            backend=self._translation.backend_name if self._translation else "",
        )

    async def _free(self, peer: RTCPeerConnection) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await peer.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _undecoded(peer: RTCPeerConnection) -> int:
    """How many frames wait to be decoded."""
    return sum(getattr(receiver, _UNDECODED).qsize() for receiver in peer.getReceivers())
