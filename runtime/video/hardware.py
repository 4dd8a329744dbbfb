"""Decoding on a device of this machine: which ones work here, and decoders on them.

cuda            NVIDIA's decoder (NVDEC)
vaapi           Intel's and AMD's, on Linux
videotoolbox    Apple's

Of a device only what it decodes exactly is used: codecs whose standards define every bit of the result, 4:2:0 in 8 and
10 bits. Its frames come as NV12 and P010, which `frame_to_rgb` converts to the same RGB as the software's.
"""

import contextlib
import sys
from functools import cache
from typing import cast

import cv2  # noqa: F401  # before av: with av first, windows hang for ever on Linux

# isort: split
import av
import av.logging
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.codeccontext import VideoCodecContext

from dsmap.errors import InputError
from dsmap.runtime.system.subprocess_call import isolated
from dsmap.runtime.video.cuda_context import CURRENT_CONTEXT, primary_context
from dsmap.runtime.video.encoders import silence
from dsmap.runtime.video.media import MAX_PIXELS

OFF, AUTO = "off", "auto"
DEVICES = ("cuda", "vaapi", "videotoolbox")
HWACCELS = (OFF, AUTO, *DEVICES)
"""The names that `--hwaccel` takes."""
SOFTWARE = "software"
"""The name of the decoder where no device decodes."""
DEVICE_FORMATS = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""Formats of a device's frames in memory; the software's format of the same values."""

# MPEG-2, MPEG-4, MJPEG and VC-1 leave rounding to the decoder: a device would give other pixels.
_CODECS = {"h264": "H.264", "hevc": "H.265", "vp8": "VP8", "vp9": "VP9", "av1": "AV1"}
_PLATFORMS = {"cuda": ("linux", "win32"), "vaapi": ("linux",), "videotoolbox": ("darwin",)}
_OPENING_SECONDS = 30.0


def check_hwaccel(name: str) -> str:
    """`name`, one of `HWACCELS`. Raises InputError for any other."""
    if name not in HWACCELS:
        raise InputError(f"--hwaccel {name} is not known", f"choose one of {', '.join(HWACCELS)}")
    return name


def check_device(hwaccel: str) -> None:
    """Raises InputError, with the reason, where `hwaccel` names a device that does not work here."""
    if hwaccel in DEVICES and (reason := device_failure(hwaccel)) is not None:
        raise InputError(
            f"--hwaccel {hwaccel} does not work on this machine: {reason}", "pass --hwaccel auto, or leave it out"
        )


def usual_devices() -> tuple[str, ...]:
    """The devices that this kind of system may have."""
    return tuple(device for device in DEVICES if sys.platform in _PLATFORMS[device])


@cache
def device_failure(device: str) -> str | None:
    """Why `device` cannot be opened here; None when it can. It really is opened."""
    if device not in hwdevices_available():
        return "PyAV's FFmpeg was built without it"
    silence()
    try:
        _open(device)
    except (av.FFmpegError, OSError, ValueError) as error:
        # The code says "Operation not permitted" for a missing driver: the log knows better.
        reason: str | None = isolated(
            "dsmap.runtime.video.hardware:log_of_opening", _OPENING_SECONDS, nested=True, device=device
        ).value
        return reason or str(getattr(error, "strerror", None) or error)
    return None


def _open(device: str) -> None:
    av.CodecContext.create("h264", "r", hwaccel=HWAccel(device, allow_software_fallback=False))


def log_of_opening(device: str) -> str:
    """libav's first error message while a device is opened; empty without one. Leaves PyAV's logging on."""
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as log, contextlib.suppress(av.FFmpegError, OSError, ValueError):
        _open(device)
    return next((line.strip().rstrip(".") for _, _, line in log if line.strip()), "")


def codec_failure(device: str, codec: str) -> str | None:
    """Why videos of `codec`, by FFmpeg's name, are not decoded on `device`; None where they may be."""
    if codec not in _CODECS:
        known = ", ".join(_CODECS.values())
        return f"{codec} is not among what is decoded exactly on a device ({known})"
    configs = av.Codec(codec, "r").hardware_configs or ()
    if not any(config.device_type.name == device and config.is_supported for config in configs):
        return f"PyAV's FFmpeg has no decoder of {_CODECS[codec]} on {device}"
    return None


def device_decoder(software: VideoCodecContext, device: str, *, keep: bool = False) -> VideoCodecContext:
    """A decoder on `device` for the stream that `software` is to decode. Raises av.FFmpegError.

    `keep`: its frames stay in the device's memory, that of CUDA's primary context; raises DsmapError without one.
    """
    # Where it cannot decode, its frames come from FFmpeg's own software, which their format shows: nothing is lost.
    name = software.codec.canonical_name
    if not keep:
        return _like(software, name, HWAccel(device, allow_software_fallback=True))
    options = CURRENT_CONTEXT if device == "cuda" else {}
    accelerated = HWAccel(device, allow_software_fallback=True, is_hw_owned=True, options=options)
    with primary_context() if device == "cuda" else contextlib.nullcontext():
        return _like(software, name, accelerated)


def software_decoder(software: VideoCodecContext) -> VideoCodecContext:
    """Another decoder like `software`, with one thread: it answers at once."""
    context = _like(software, software.codec.name, None)
    context.thread_count = 1
    return context


def _like(stream: VideoCodecContext, name: str, hwaccel: HWAccel | None) -> VideoCodecContext:
    """PyAV cannot copy all parameters of a stream: the container's side data (rotation, light level) is missing."""
    context = cast(VideoCodecContext, av.CodecContext.create(name, "r", hwaccel=hwaccel))
    context.extradata = stream.extradata
    context.width, context.height = stream.width, stream.height
    # PyAV sets it to the device's: FFmpeg's decoder of AV1 would take that for a choice already made.
    context.pix_fmt = stream.pix_fmt or "yuv420p"
    context.codec_tag = stream.codec_tag
    if stream.sample_aspect_ratio:
        context.sample_aspect_ratio = stream.sample_aspect_ratio
    context.color_range, context.colorspace = stream.color_range, stream.colorspace
    context.color_primaries, context.color_trc = stream.color_primaries, stream.color_trc
    context.field_order = stream.field_order
    context.bits_per_coded_sample = stream.bits_per_coded_sample
    context.reorder_depth = stream.reorder_depth
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_type = "SLICE"  # frame threads would only add delay
    return context
