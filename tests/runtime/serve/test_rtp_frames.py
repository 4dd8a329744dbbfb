"""Colours of WebRTC frames, and mailboxes that keep the newest item only."""

import asyncio
from fractions import Fraction

import numpy as np
import pytest
from av.video.frame import VideoFrame

from dsmap.runtime.serve.newest import Newest
from dsmap.runtime.serve.rtp_frames import RtpFrames, limited_size

COLOURS = [(200, 40, 40), (40, 200, 60), (50, 60, 210), (220, 220, 40), (128, 128, 128), (250, 250, 250)]


def bt601(red: int, green: int, blue: int) -> tuple[float, float, float]:
    """Y', Cb and Cr in limited range, by the standard's formula."""
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blueness, redness = (blue - luma) / 1.772, (red - luma) / 1.402
    return 16 + luma * 219 / 255, 128 + blueness * 224 / 255, 128 + redness * 224 / 255


def plain(colour: tuple[int, int, int], width: int, height: int) -> VideoFrame:
    """A frame of one colour, as VP8 decodes it."""
    planes = [
        np.full((height // part, width // part), round(value))
        for value, part in zip(bt601(*colour), (1, 2, 2), strict=True)
    ]
    stacked = np.concatenate([plane.reshape(-1) for plane in planes]).astype(np.uint8)
    frame = VideoFrame.from_ndarray(stacked.reshape(-1, width), format="yuv420p")
    frame.pts, frame.time_base = 7, Fraction(1, 90_000)
    return frame


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 720)])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_bt601_at_any_size(colour, width, height):
    frames, frame = RtpFrames(), plain(colour, width, height)
    rgb = frames.to_rgb(frame, (width, height))
    assert rgb.shape == (height, width, 3)
    np.testing.assert_allclose(rgb[height // 2, width // 2], colour, atol=2)
    back = frames.to_frame(np.full((height, width, 3), colour, np.uint8), frame)
    assert (back.format.name, back.pts, back.time_base) == ("yuv420p", 7, Fraction(1, 90_000))
    got = [np.frombuffer(memoryview(plane), np.uint8)[0] for plane in back.planes]
    np.testing.assert_allclose(got, bt601(*colour), atol=1)


def test_odd_sizes_are_padded_and_large_ones_scaled_down():
    frames, frame = RtpFrames(), plain(COLOURS[0], 64, 48)
    back = frames.to_frame(np.zeros((47, 63, 3), np.uint8), frame)
    assert (back.width, back.height) == (64, 48)
    assert frames.to_rgb(frame, (32, 24)).shape == (24, 32, 3)
    assert limited_size(1920, 1080, 480) == (854, 480)
    assert limited_size(1080, 1920, 480) == (480, 854)
    assert limited_size(320, 241, 480) == (320, 241)


def test_a_mailbox_keeps_the_newest_item_only():
    async def run() -> None:
        mailbox: Newest[int] = Newest()
        for item in range(5):
            mailbox.put(item)
        assert (await mailbox.take(), mailbox.count, mailbox.dropped) == (4, 5, 4)
        asyncio.get_running_loop().call_later(0.01, mailbox.put, 9)
        assert await mailbox.take() == 9
        asyncio.get_running_loop().call_later(0.01, mailbox.close)
        assert await mailbox.take() is None

    asyncio.run(run())
