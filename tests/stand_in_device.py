"""A decoding device that is none: software decodes, and its frames come as a device's do, in NV12 and P010."""

from dataclasses import dataclass, field
from typing import Any

import cv2  # noqa: F401  # before av

# isort: split
import av
import numpy as np
import pytest

from dsmap.runtime.video import decoding
from dsmap.runtime.video.hardware import DEVICE_FORMATS, software_decoder

_SEMI_PLANAR = {planar: device for device, planar in DEVICE_FORMATS.items()}


@dataclass
class StandInDevice:
    """What the device does with the frames and packets that it is given, by the packets' numbers."""

    brighter: int = 0
    """Levels that are added to the first pixel."""
    leaves: range = range(0)
    """Frames that come from FFmpeg's software, as where the size or the profile does not fit."""
    breaks: range = range(0)
    """Packets that do not decode."""
    packets: int = 0
    frames: int = 0
    error: type[Exception] = av.error.ExternalError
    opened: list[str] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "StandInDevice":
        """Makes it the machine's NVIDIA card."""
        monkeypatch.setattr(decoding, "device_failure", lambda device: None if device == "cuda" else "not here")
        monkeypatch.setattr(decoding, "check_device", lambda _name: None)
        monkeypatch.setattr("dsmap.runtime.video.reader.check_device", lambda _name: None)
        monkeypatch.setattr(decoding, "usual_devices", lambda: ("cuda",))
        monkeypatch.setattr(decoding, "device_decoder", self.open)
        return self

    def open(self, software: Any, device: str, *, keep: bool = False) -> "StandInDevice":
        self.opened.append(device)
        self.context = software_decoder(software)
        self.packets = self.frames = 0
        return self

    @property
    def sample_aspect_ratio(self) -> Any:
        return self.context.sample_aspect_ratio

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        number, self.packets = self.packets, self.packets + 1
        if number in self.breaks and packet is not None and packet.size:
            raise self.error(-1, "the card fell off")
        return [self._as_the_device_gives(frame) for frame in self.context.decode(packet)]

    def _as_the_device_gives(self, frame: av.VideoFrame) -> av.VideoFrame:
        number, self.frames = self.frames, self.frames + 1
        name = frame.format.name.replace("yuvj", "yuv")
        if number in self.leaves or name not in _SEMI_PLANAR:
            return frame
        matrix, frame.colorspace = frame.colorspace, 1  # swscale knows few, and here none is converted
        given = frame.reformat(format=_SEMI_PLANAR[name])
        given.colorspace, given.color_range = matrix, frame.color_range
        given.color_primaries, given.color_trc = frame.color_primaries, frame.color_trc
        if self.brighter:
            values = np.frombuffer(memoryview(given.planes[0]), np.uint8).copy()
            values[0] += self.brighter
            given.planes[0].update(values.tobytes())
        return given
