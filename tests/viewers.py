"""Viewers of live sessions for the tests: WebRTC peers that send one image again and again and keep the last result."""

import asyncio
import json
import time
from fractions import Fraction

import cv2
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

SAME = 27.0
"""dB, at least, of an image after two lossy codecs."""


class SentImage(MediaStreamTrack):
    """`image_rgb`, 25 times a second; it may be replaced."""

    kind = "video"

    def __init__(self, image_rgb: np.ndarray) -> None:
        super().__init__()
        self.image_rgb, self.number, self.begun = image_rgb, 0, time.monotonic()

    def pause(self) -> None:
        """Sends no more frames, for a minute."""
        self.begun += 60

    async def recv(self) -> VideoFrame:
        self.number += 1
        await asyncio.sleep(max(0.0, self.begun + self.number / 25 - time.monotonic()))
        frame = VideoFrame.from_ndarray(self.image_rgb, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = self.number, Fraction(1, 25)
        return frame


class Viewer:
    """A browser's part. `async with Viewer(image_rgb) as viewer: await viewer.connect(sessions.open)`."""

    def __init__(self, image_rgb: np.ndarray) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.sent = SentImage(image_rgb)
        self.results = 0
        self.result_rgb: np.ndarray | None = None
        self.messages: list[dict] = []
        self.channel = self.peer.createDataChannel("dsmap")
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        self.opened = asyncio.Event()
        self.channel.on("open", self.opened.set)
        self.peer.addTrack(self.sent)
        self.peer.on("track", lambda track: setattr(self, "_reading", asyncio.ensure_future(self._read(track))))

    async def __aenter__(self) -> "Viewer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.peer.close()

    async def offer(self) -> str:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    async def accept(self, answer: str) -> None:
        await self.peer.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))

    def send(self, **options: object) -> None:
        self.channel.send(json.dumps(options))

    async def until(self, true, seconds: float = 180.0) -> None:
        """Waits until `true()` is."""
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    async def shows(self, expected_rgb: np.ndarray) -> None:
        """Waits until the result is that image, but for two lossy codecs, and for what pads odd sizes."""
        height, width = expected_rgb.shape[:2]
        even = (height + height % 2, width + width % 2, 3)

        def same() -> bool:
            got = self.result_rgb
            return got.shape == even and psnr(got[:height, :width], expected_rgb) > SAME

        await self.until(same)

    def problem(self) -> str:
        """The latest problem that the server told."""
        return next((m["fact"] for m in reversed(self.messages) if m["type"] == "error"), "")

    async def _read(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                self.result_rgb = frame.to_ndarray(
                    format="rgb24", src_colorspace=Colorspace.ITU601, src_color_range=ColorRange.MPEG
                )
                self.results += 1
        except MediaStreamError:
            pass


def picture(width: int = 96, height: int = 64) -> np.ndarray:
    """A smooth colour image, uint8 RGB (height, width, 3): codecs keep it nearly as it is."""
    corners = np.array([[[200, 60, 40], [40, 170, 60]], [[60, 80, 190], [220, 210, 160]]], np.float32)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0
