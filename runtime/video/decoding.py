"""Decoding the packets of one video stream, by software or on a device.

    decoding = open_decoding(stream, "auto", notify)
    frames = decoding.decode(packet)

A device is believed only after its first frame has been compared with the software's. Both decode until then; frames
and packets are given out once, whoever decodes in the end.
"""

from fractions import Fraction
from typing import Protocol

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.stream import VideoStream

from dsmap.common.notify import Notify
from dsmap.errors import DsmapError, InputError
from dsmap.runtime.video.device_planes import on_host, stored_format
from dsmap.runtime.video.hardware import (
    AUTO,
    DEVICE_FORMATS,
    OFF,
    SOFTWARE,
    check_device,
    codec_failure,
    device_decoder,
    device_failure,
    software_decoder,
    usual_devices,
)

_MAX_WAITING = 40  # frames that software has and the device has not: more than any codec reorders
_OR_SOFTWARE = "pass --hwaccel auto, or leave it out"


class Decoding(Protocol):
    """What decodes the packets of one stream, in order."""

    name: str
    """Of the decoder now: a device, or "software"."""
    note: str
    """A line for the user on what decodes, and why not on a device; empty where none was asked for."""
    context: VideoCodecContext
    """The one that decodes now."""
    keeps: bool
    """Whether frames stay in the memory of a device."""

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """The frames that are ready; an empty packet gives those that remain. Raises av.FFmpegError for damage."""

    def described(self, frame: VideoFrame) -> VideoFrame:
        """A frame of the same stream, decoded already, that has the container's side data; or `frame` itself."""


class SoftwareDecoding:
    """By software, as FFmpeg chooses."""

    name = SOFTWARE
    keeps = False

    def __init__(self, stream: VideoStream, note: str = "") -> None:
        self.context = stream.codec_context
        self.note = note

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """See `Decoding`."""
        return list(packet.decode())

    def described(self, frame: VideoFrame) -> VideoFrame:
        """See `Decoding`."""
        return frame


def open_decoding(
    stream: VideoStream, hwaccel: str, notify: Notify, origin: Fraction = Fraction(0), *, keep: bool = False
) -> Decoding:
    """The decoding of `stream` as `--hwaccel` says: one of `HWACCELS`.

    "auto" takes the first device that works, and software where none does; what changes later goes to `notify`, with
    its time in seconds after `origin`. Raises InputError, at once or while it decodes, where a device that was named
    cannot decode the stream. `keep`: frames stay in the memory of a device that was named, see `device_planes`.
    """
    if hwaccel == OFF:
        return SoftwareDecoding(stream)
    check_device(hwaccel)
    devices, reasons = (usual_devices() if hwaccel == AUTO else (hwaccel,)), []
    for device in devices:
        reason = device_failure(device) or codec_failure(device, stream.codec_context.codec.canonical_name)
        if reason is None:
            try:
                context, keeps, note = _device_context(stream.codec_context, device, keep and hwaccel != AUTO)
                return DeviceDecoding(stream, device, context, hwaccel == AUTO, notify, origin, note, keeps)
            except (av.FFmpegError, OSError, ValueError) as error:
                reason = _reason(error)
        if hwaccel != AUTO:
            raise InputError(f"{device} cannot decode this video: {reason}", _OR_SOFTWARE)
        reasons.append(f"{device}: {reason}")
    return SoftwareDecoding(stream, f"decoded by software ({'; '.join(reasons) or 'no device on this system'})")


def _device_context(software: VideoCodecContext, device: str, keep: bool) -> tuple[VideoCodecContext, bool, str]:
    """A decoder on `device`, whether it keeps frames in its memory, as is to `keep`, and the note."""
    note = f"decoded on {device}"
    if keep:
        try:
            return device_decoder(software, device, keep=True), True, note
        except (av.FFmpegError, OSError, ValueError, DsmapError) as error:
            reason = error.fact if isinstance(error, DsmapError) else _reason(error)
            note += f"; the frames go through the host's memory ({reason})"
    return device_decoder(software, device), False, note


class DeviceDecoding:
    """On `device`, by `context`; by software where it is `optional` and the device does not decode the stream."""

    def __init__(
        self,
        stream: VideoStream,
        device: str,
        context: VideoCodecContext,
        optional: bool,
        notify: Notify,
        origin: Fraction,
        note: str,
        keeps: bool,
    ) -> None:
        self.name, self.note, self.keeps = device, note, keeps
        self.context = context
        self._device, self._optional, self._notify, self._origin = device, optional, notify, origin
        self._software = stream.codec_context
        self._trial: _Trial | None = _Trial()
        self._on_device = True
        self._sample: VideoFrame | None = None
        self._has_left = False

    def described(self, frame: VideoFrame) -> VideoFrame:
        """See `Decoding`."""
        return self._sample or frame

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """See `Decoding`; raises what `open_decoding` names, and DsmapError when the device fails."""
        if self._trial is not None:
            return self._try(self._trial, packet)
        if not self._on_device:
            return list(packet.decode())
        try:
            frames = list(self.context.decode(packet))
        except av.error.EOFError:
            raise
        except av.FFmpegError as error:
            return self._after_failure(packet, error)
        self._look_at(frames)
        return frames

    # The first frame: both decode

    def _try(self, trial: "_Trial", packet: Packet) -> list[VideoFrame]:
        try:
            trial.device += self.context.decode(packet)
        except (av.FFmpegError, OSError) as error:
            trial.error = trial.error or _reason(error)
        failure: av.FFmpegError | None = None
        try:
            trial.software += packet.decode()
        except av.FFmpegError as error:
            failure = error
        frames = self._judge(trial, last=packet.size == 0)
        if failure is not None and not frames:
            raise failure
        return frames

    def _judge(self, trial: "_Trial", *, last: bool) -> list[VideoFrame]:
        """The frames of the decoder that stays, once that is known."""
        if not trial.software or (not trial.device and not last and len(trial.software) < _MAX_WAITING):
            return []
        self._trial = None
        reason = trial.difference()
        if reason is None:
            self._sample = trial.software[0]  # its pixels are the same, and it has the container's side data
            frames = [self._sample, *trial.device[1:]]
            self._look_at(frames[1:])
            self._software.flush_buffers()
            return frames
        if not self._optional:
            raise InputError(f"{self._device} cannot decode this video: {reason}", _OR_SOFTWARE)
        self._leave(f"decoded by software ({self._device}: {reason})")
        return trial.software

    def _leave(self, note: str) -> None:
        self._on_device = self.keeps = False
        self.name, self.note, self.context = SOFTWARE, note, self._software

    # Later frames

    def _look_at(self, frames: list[VideoFrame]) -> None:
        """Where the device does not take a part of the stream, FFmpeg's software did."""
        for frame in frames:
            if stored_format(frame) in DEVICE_FORMATS or self._has_left:
                continue
            fact = f"from {self._seconds(frame)} on, {self._device} does not decode the video ({_kind(frame)})"
            if not self._optional:
                raise InputError(fact, _OR_SOFTWARE)
            self._has_left = True
            self._notify(f"{fact}: software does")

    def _after_failure(self, packet: Packet, error: av.FFmpegError) -> list[VideoFrame]:
        """Damage is raised, as software would. What software can decode is the device's failure."""
        damage = isinstance(error, av.error.InvalidDataError)
        whole = packet.size > 0 and packet.is_keyframe and self._is_whole(packet)
        if not whole and (damage or self._optional):
            raise error
        at = self._seconds(packet)
        fact = f"decoding on {self._device} failed at {at}: {_reason(error)}"
        if not self._optional:
            raise DsmapError(fact, "check the device and its driver, or leave out --hwaccel") from error
        self._notify(f"{fact}; software goes on")
        remaining = self._drained()
        self._leave(f"decoded on {self._device}, and by software from {at} on")
        return [*remaining, *packet.decode()]

    def _seconds(self, one: VideoFrame | Packet) -> str:
        if one.pts is None or one.time_base is None:
            return "an unknown time"
        return f"{float(one.pts * one.time_base - self._origin):.2f} s"

    def _is_whole(self, packet: Packet) -> bool:
        """Whether software decodes a keyframe by itself."""
        try:
            alone = software_decoder(self._software)
            return bool(alone.decode(packet) or alone.decode(None))
        except (av.FFmpegError, OSError):
            return False

    def _drained(self) -> list[VideoFrame]:
        try:
            return list(self.context.decode(None))
        except (av.FFmpegError, OSError):
            return []


class _Trial:
    """The frames of both decoders until the first can be compared."""

    def __init__(self) -> None:
        self.software: list[VideoFrame] = []
        self.device: list[VideoFrame] = []
        self.error = ""
        """The device's first."""

    def difference(self) -> str | None:
        """Why the device's first frame is not the software's; None where it is."""
        if not self.device:
            return self.error or "it gives no frame"
        ours, theirs = self.software[0], self.device[0]
        if stored_format(theirs) not in DEVICE_FORMATS:
            return f"it does not decode {_kind(ours)}"
        if (ours.width, ours.height, ours.pts) != (theirs.width, theirs.height, theirs.pts):
            return f"its first frame is {_kind(theirs)} at tick {theirs.pts}, not {_kind(ours)} at tick {ours.pts}"
        try:
            theirs = on_host(theirs)
        except (av.FFmpegError, OSError) as error:
            return f"its first frame does not come to the host: {_reason(error)}"
        expected = DEVICE_FORMATS[theirs.format.name]
        if ours.format.name.replace("yuvj", "yuv") != expected:
            return f"its frames are {theirs.format.name}, not {ours.format.name}"
        levels = level_difference(ours, theirs)
        return f"its first frame differs from the software's by {levels:g} levels of 255" if levels > 1 else None


def level_difference(planar: VideoFrame, device: VideoFrame) -> float:
    """The greatest difference of two frames' Y'CbCr in levels of 8 bits: one yuv420p(10), the other NV12 or P010."""
    wide = device.format.name == "p010le"
    kind = np.uint16 if wide else np.uint8
    found = (_values(plane, kind, parts) for plane, parts in zip(device.planes, (1, 2), strict=True))
    luma, chroma = (values >> (6 if wide else 0) for values in found)
    pairs = zip(planar.planes, (luma, chroma[:, 0::2], chroma[:, 1::2]), strict=True)
    worst = max(int(np.abs(_values(plane, kind).astype(np.int32) - other).max()) for plane, other in pairs)
    return worst / (4 if wide else 1)


def _values(plane: VideoPlane, kind: type[np.uint8] | type[np.uint16], interleaved: int = 1) -> npt.NDArray:
    """(H, interleaved x W), a view."""
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width * interleaved]


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _kind(frame: VideoFrame) -> str:
    return f"{frame.format.name}, {frame.width}x{frame.height}"
